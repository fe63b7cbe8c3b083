# The agent itself on another kernel: its hooks, its silence on a healthy disk, and the faults of ext4 and xfs.

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
    need 'a module does not load' load agent || return
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
