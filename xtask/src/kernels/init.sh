#!/bin/busybox sh
# The init program of a guest: makes faults while the agent runs, and prints the result of each scenario on the console:
# `tocsin-guest: PASS scenario: detail`, which ../kernels.rs reads.

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# Large enough for the files of the loop devices.
mount -t tmpfs -o size=400m tmpfs /tmp
ip link set lo up

say() { echo "tocsin-guest: $*"; }

# scenario NAME: runs the function of that name, which sets $why it fails, and what it has $seen.
scenario() {
    why='' seen=''
    if "$1"; then say "PASS $1: $seen"; else say "FAIL $1: $why${seen:+ ($seen)}"; fi
}

# need WHAT COMMAND..: a step of a scenario.
need() {
    why=$1
    shift
    "$@"
}
not() { ! "$@"; }

# Hundredths of a second since boot.
now() { tr -d . </proc/uptime | cut -d' ' -f1; }

# within SECONDS COMMAND..: repeats a command until it succeeds; sets $took to the time that took, in milliseconds.
within() {
    from=$(now) end=$(($(now) + $1 * 100))
    shift
    until "$@"; do
        [ "$(now)" -lt "$end" ] || return 1
        sleep 0.02
    done
    took=$((($(now) - from) * 10))
}

get() { printf 'GET %s HTTP/1.0\r\n\r\n' "$2" | nc 127.0.0.1 "$1" 2>/dev/null; }
health() { get 25001 /health; }
answers() { health | grep -q "^HTTP/1.[01] $1"; }
# failing CHECK WORDS: succeeds if the verdict is 503 and the check fails; sets $reason, which has to match.
failing() {
    health >/tmp/answer
    reason=$(grep -o "\"name\":\"$1\",\"passed\":false,\"reason\":\"[^\"]*" /tmp/answer | cut -d'"' -f10)
    grep -q '^HTTP/1.[01] 503' /tmp/answer && echo "$reason" | grep -q "$2"
}
faults() { tocsin faults -o json; }
no_faults() { faults | grep -q '"faults":\[\]'; }
# counters KIND: the kernel's counts of this kind, for each errno.
counters() { faults | grep -o "{\"kind\":\"$1\"[^}]*" | grep -o '"errno.*"count":[0-9]*' | tr -d '"' | tr '\n' ' '; }
counted() { [ -n "$(counters "$1")" ]; }
count() { counters "$1" | sed 's/.*://' | tr -d ' '; }
# hooks_in STATE: the hooks in a state, in one line.
hooks_in() { faults | grep -o "\"name\":\"[^\"]*\",\"state\":\"$1\"" | cut -d'"' -f4 | tr '\n' ' '; }
is_hook() { hooks_in "$1" | grep -q "$2"; }
no_hook() { [ -z "$(hooks_in "$1")" ]; }

start() {
    env MOUNT_HOOKS="$1" IO_ERROR_WINDOW=3s RUST_LOG=debug \
        tocsin agent --log-format json 2>>/tmp/agent.log &
    agent=$!
    within 20 health >/dev/null && within 1 answers '[0-9]'
}
stop() {
    kill "$agent"
    wait "$agent"
}

load() { while read -r module; do insmod "/modules/$module" || return 1; done <"/modules/$1"; }

# disk NAME BYTES: makes the sparse file /tmp/NAME.d/disk and a loop device over it, $disk.
disk() {
    mkdir -p "/tmp/$1.d" "/mnt/$1"
    truncate -s "$2" "/tmp/$1.d/disk"
    disk=$(losetup -f) && losetup "$disk" "/tmp/$1.d/disk"
}
# ext4 NAME BYTES OPTIONS..: makes such a disk with an ext4 on it.
ext4() {
    disk "$1" "$2" || return
    shift 2
    # Without features that an older kernel cannot mount, and without lazy initialisation, which writes later.
    mkfs.ext4 -q -F -O ^metadata_csum_seed,^orphan_file \
        -E lazy_itable_init=0,lazy_journal_init=0 "$@" "$disk" >/tmp/mkfs.log 2>&1
}
# small NAME: a tmpfs for the file of the disk NAME, which can be filled.
small() { mkdir -p "/tmp/$1.d" && mount -t tmpfs -o size=16m tmpfs "/tmp/$1.d"; }

# At this point tracefs is not mounted, and neither ext4 nor xfs is loaded.
hooks() {
    need 'the agent does not answer' start poll || return
    seen="attached: $(hooks_in attached)missing: $(hooks_in missing)failed: $(hooks_in failed)"
    need 'a hook was refused' no_hook failed &&
        need 'no hook for failed requests' is_hook attached 'block:block_rq_\(error\|complete\)' &&
        need 'ext4 is not to be there yet' is_hook missing ext4:ext4_error &&
        need 'not ready' answers 200
}

late_modules() {
    need 'a module does not load' load late || return
    within 25 is_hook attached ext4:ext4_error
    seen="after $took ms: $(hooks_in attached)missing: $(hooks_in missing)failed: $(hooks_in failed)"
    need 'ext4_error is not attached' is_hook attached ext4:ext4_error &&
        need 'a hook was refused' no_hook failed
}

# Common use of a disk. A loop device over tmpfs refuses write-zeroes, which is no fault.
use_a_disk() {
    ext4 healthy 64M &&
        mount "$disk" /mnt/healthy && echo x >/mnt/healthy/x && sync && rm /mnt/healthy/x &&
        fstrim /mnt/healthy &&
        umount /mnt/healthy && losetup -d "$disk"
}

healthy() {
    while health | head -n1; do sleep 0.05; done >/tmp/verdicts &
    watcher=$!
    need "the disk cannot be used: $(cat /tmp/mkfs.log)" use_a_disk || return
    # The counters are read once a second.
    sleep 2
    kill "$watcher"
    seen="$(grep -c ' 200 ' /tmp/verdicts) answers, $(faults | grep -o '"counters":\[[^]]*\]')"
    need 'not every answer was 200' test "$(grep -vc ' 200 ' /tmp/verdicts)" = 0 &&
        need 'there is a fault' no_faults
}

# The mount tables of 6.1 and 6.12 do not show this.
ext4_error() {
    need 'no disk' ext4 lost 64M && need 'no mount' mount -o errors=remount-ro "$disk" /mnt/lost || return
    need 'not ready before' answers 200 || return
    echo x >"/sys/fs/ext4/${disk#/dev/}/trigger_fs_error"
    need 'no 503 in 2 s' within 2 failing filesystem_ro "${disk#/dev/}"
    passed=$?
    seen="$took ms, $reason"
    [ $passed = 0 ] || return
    # The probe of a filesystem makes 6.1 report the same error again, which must not cause the next probe. One probe in
    # each IO_ERROR_WINDOW is right: it finds whether the filesystem has been repaired.
    sleep 4
    before=$(count ext4_error)
    sleep 6
    after=$(count ext4_error)
    seen="$seen; ext4_error counted $before times, $after 6 s later"
    need 'the probe keeps itself busy' test $((after - before)) -le 3
}

# An agent finds a fault that happened before it started.
restart() {
    stop
    mount -t tracefs tracefs /sys/kernel/tracing
    need 'the agent does not answer' start poll || return
    need 'its first verdict is not 503' failing filesystem_ro "${disk#/dev/}" || return
    need 'no umount' umount /mnt/lost && need 'no 200 after umount' within 2 answers 200 || return
    seen="200 after $took ms"
    losetup -d "$disk"
}

# The device has no space, but the filesystem on it has. ENOSPC becomes EIO in older loop drivers.
block_write() {
    need 'no tmpfs' small full && need 'no disk' ext4 full 64M -O ^has_journal && need 'no mount' mount "$disk" /mnt/full || return
    need 'not ready before' answers 200 || return
    need 'it could all be written' not \
        dd if=/dev/zero of=/mnt/full/x bs=1M count=32 conv=fsync 2>/tmp/dd.log || return
    need 'no 503 in 2 s' within 2 failing io_errors "${disk#/dev/}.*\(ENOSPC\|EIO\)"
    passed=$?
    seen="$took ms, $reason"
    [ $passed = 0 ] && need 'no counter of failed writes' within 2 counted block_write || return
    rm /mnt/full/x
    need 'no 200 once it is quiet' within 15 answers 200 || return
    seen="$seen; 200 again after $took ms"
    # Pages that were still in memory may fail to be written now, which is a fault until the unmount.
    need 'no umount' umount /mnt/full && need 'no 200 after umount' within 2 answers 200
}

# The journal cannot be written. ext4 reports that at its next use, and on 5.10 not even then.
journal_abort() {
    need 'no tmpfs' small journal || return
    # The journal is not allocated in the file, so that its first block needs space.
    need 'no disk' ext4 journal 64M -E lazy_itable_init=0,lazy_journal_init=1 || return
    need 'no mount' mount -o errors=remount-ro "$disk" /mnt/journal || return
    need 'the tmpfs is not full' not dd if=/dev/zero of=/tmp/journal.d/x bs=4k 2>/tmp/dd.log || return
    need 'not ready before' answers 200 || return
    touch /mnt/journal/x
    sync
    need 'no 503 in 2 s' within 2 failing filesystem_ro "${disk#/dev/}"
    passed=$?
    seen="$took ms, $reason; counters: $(counters block_write) $(counters ext4_error)"
    rm /tmp/journal.d/x
    umount /mnt/journal
    [ $passed = 0 ] && need 'no 200 after umount' within 2 answers 200
}

# The tracepoint is the only sign of this.
ext4_shutdown() {
    need 'no disk' ext4 shut 64M && need 'no mount' mount "$disk" /mnt/shut || return
    need 'not ready before' answers 200 || return
    need 'no shutdown' xfs_io -F -x -c shutdown /mnt/shut || return
    need 'no 503 in 2 s' within 2 failing filesystem_ro "${disk#/dev/}"
    passed=$?
    seen="$took ms, $reason"
    return $passed
}

# An agent that starts after the shutdown finds it.
shutdown_restart() {
    stop
    need 'the agent does not answer' start poll || return
    need 'its first verdict is not 503' failing filesystem_ro "${disk#/dev/}"
    passed=$?
    seen=$reason
    umount /mnt/shut
    [ $passed = 0 ] && need 'no 200 after umount' within 2 answers 200
}

# No mount table shows this, and 5.10 has no hook for it.
xfs_shutdown() {
    need 'no disk' disk xfs 300M && need 'no xfs' mkfs.xfs -q "$disk" >/tmp/mkfs.log 2>&1 || return
    need 'no mount' mount "$disk" /mnt/xfs && need 'not ready before' answers 200 || return
    need 'no shutdown' xfs_io -x -c shutdown /mnt/xfs || return
    need 'no 503 in 2 s' within 2 failing filesystem_ro "${disk#/dev/}"
    passed=$?
    seen="$took ms, $reason"
    if [ $passed = 0 ]; then
        stop
        need 'the agent does not answer' start poll &&
            need 'its first verdict is not 503' failing filesystem_ro "${disk#/dev/}"
        passed=$?
        seen="$seen; after a restart: $reason"
    fi
    umount /mnt/xfs
    [ $passed = 0 ] && need 'no 200 after umount' within 2 answers 200
}

# sum KIND: the kernel's count of this kind on all devices; missed: the events for which it ran no program.
sum() { counters "$1" | grep -o 'count:[0-9]*' | awk -F: '{ n += $2 } END { print n + 0 }'; }
missed() { get 25002 /metrics | sed -n 's/^tocsin_events_missed_total \([0-9]*\).*/\1/p'; }

# Every failed request is counted, or counted as missed.
counts() {
    need 'no disk' disk counts 64M || return
    before=$(($(sum block_read) + $(missed)))
    truncate -s 0 /tmp/counts.d/disk
    seq 0 4095 | awk '{ print "pread -q", $1 * 4096, 4096 }' >/tmp/reads
    xfs_io -d -r "$disk" </tmp/reads >/tmp/reads.log 2>&1
    failed=$(grep -c 'Input/output error' /tmp/reads.log)
    losetup -d "$disk"
    if [ "$failed" = 0 ]; then
        seen='this kernel reads zeroes beyond the end of the file'
        return
    fi
    after=$(($(sum block_read) + $(missed)))
    seen="$failed failed, $((after - before)) counted, of these $(missed) missed"
    need 'the counts differ' test $((after - before)) = "$failed"
}

syscall_hooks() {
    stop
    need 'the agent does not answer' start syscalls || return
    seen="attached: $(hooks_in attached)missing: $(hooks_in missing)failed: $(hooks_in failed)"
    need 'a hook was refused' no_hook failed &&
        need 'sys_exit_mount is not attached' is_hook attached syscalls:sys_exit_mount
}

load early
scenario hooks
scenario late_modules
scenario healthy
scenario ext4_error
scenario restart
scenario block_write
scenario journal_abort
scenario ext4_shutdown
scenario shutdown_restart
scenario xfs_shutdown
scenario counts
scenario syscall_hooks

# For the analysis of a failure.
sed 's/^/tocsin-guest: agent| /' /tmp/agent.log
dmesg | tail -n 60 | sed 's/^/tocsin-guest: dmesg| /'
poweroff -f
