#!/bin/busybox sh
# The init program of a guest: runs the scenarios of the group that the kernel's command line names, and prints the
# result of each on the console: `tocsin-guest: PASS scenario: detail`, which ../guest.rs reads.

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
    within 60 health >/dev/null && within 1 answers '[0-9]'
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

# tocsin.group=NAME of the kernel's command line.
group=$(sed -n 's/.*tocsin[.]group=\([a-z0-9]*\).*/\1/p' /proc/cmdline)
mkdir /etc
# mkfs.nilfs2 looks there for what is mounted.
ln -s /proc/mounts /etc/mtab

load early
. "/scenarios/$group.sh"

# For the analysis of a failure.
sed 's/^/tocsin-guest: agent| /' /tmp/agent.log
dmesg | tail -n 60 | sed 's/^/tocsin-guest: dmesg| /'
poweroff -f
