# Filesystems besides ext4 and xfs: what an error does to each, and whether the agent sees it.
#
# Each disk is a linear map of device mapper on a loop device. An error is made by another map, and repaired by the first.

load filesystems || say 'a module does not load'
mkdir /mnt/f

has() {
    grep -qw "$1" /proc/filesystems && return
    seen="this kernel has no $1"
    return 1
}

# mapped TYPE MIB OPTIONS..: a new filesystem on a new disk $disk, whose name in the kernel is $name.
mapped() {
    type=$1 mib=$2
    shift 2
    # What a scenario left behind that failed.
    ! dmsetup info f >/dev/null 2>&1 || remove
    disk f "${mib}M" && lower=$disk && sectors=$(blockdev --getsz "$lower") || return
    dmsetup create f --noudevsync --table "0 $sectors linear $lower 0" || return
    [ -b /dev/mapper/f ] || dmsetup mknodes
    disk=/dev/mapper/f
    name=dm-$(dmsetup info -c --noheadings -o minor f)
    case $type in
        ntfs3 | ntfs) mkntfs -F -f -q "$disk" ;;
        # Without -q it asks.
        jfs) mkfs.jfs -q "$disk" ;;
        *) "mkfs.$type" "$@" "$disk" ;;
    esac >/tmp/mkfs.log 2>&1
}
map() { dmsetup suspend --noudevsync --nolockfs --noflush f && dmsetup load f --table "$1" && dmsetup resume --noudevsync f; }
writes_fail() { map "0 $sectors flakey $lower 0 0 100000 1 error_writes"; }
repaired() { map "0 $sectors linear $lower 0"; }
# remove: unmounts and takes the disk apart.
remove() {
    ! grep -q ' /mnt/f ' /proc/mounts || umount /mnt/f || return
    within 5 dmsetup remove --noudevsync f && losetup -d "$lower" && rm -r /tmp/f.d
}
# files: some files, so that there is something to read and to break.
files() {
    mkdir "$1" || return
    seq 500 | while read -r n; do echo "$n" >"$1/$n" || return; done
    sync
}
# after_mount TYPE: mounts it; the agent has to be content before anything happens.
after_mount() {
    need "no mount of $1" mount -t "$1" ${2:+-o "$2"} "$disk" /mnt/f && need 'not ready before' within 5 answers 200
}
# told CHECK WORDS: the verdict has to be 503 within a second of now, but for the time of this slow machine.
told() {
    need "no 503 in 2 s: $1" within 2 failing "$1" "$name.*$2" || return
    seen="${seen:+$seen; }$took ms, $reason"
}
content() {
    need 'no 200 after the repair' within 15 answers 200 || return
    seen="$seen; 200 again after $took ms"
}
gone() {
    need 'no umount' remove || return
    need 'no 200 after umount' within 3 answers 200
}
# still_told: an agent that starts now, and remembers nothing, finds it.
still_told() {
    stop
    rm -rf /run/tocsin
    need 'the agent does not answer' start poll || return
    need 'its first verdict is not 503' failing filesystem_ro "$name" || return
    seen="$seen; first verdict after a restart: $(echo "$reason" | sed 's/.*: //')"
}

# An error of the disk: writes fail. vfat, exfat, jfs, nilfs2 and ntfs3 go on, and can be written once the disk can.
writes() {
    has "$1" || return 0
    mib=40
    [ "$1" != nilfs2 ] || mib=140
    need "no $1: $(cat /tmp/mkfs.log)" mapped "$1" $mib && after_mount "$1" || return
    writes_fail
    echo x >/mnt/f/x
    sync
    told io_errors '\(EIO\|lost\)' || return
    repaired
    # ntfs3 has marked the volume as dirty, and its syncs give EIO until it is mounted again.
    [ "$1" = ntfs3 ] || content || return
    gone
}
vfat_writes() { writes vfat; }
exfat_writes() { writes exfat; }
jfs_writes() { writes jfs; }
nilfs2_writes() { writes nilfs2; }
ntfs_writes() {
    ntfs=ntfs3
    has ntfs3 || ntfs=ntfs
    seen=''
    writes $ntfs
}

# remounts TYPE: it found an error in itself, became read-only, and is made writable again.
becomes_read_only() {
    told filesystem_ro 'became read-only' || return
    still_told || return
    need 'no remount' mount -o remount,rw "$disk" /mnt/f || return
    content && gone
}

# A chain of clusters that leads to a free one.
vfat_corrupt() {
    has vfat || return 0
    need 'no vfat' mapped vfat 40 -F 32 -s 1 && need 'no mount' mount -t vfat "$disk" /mnt/f || return
    dd if=/dev/zero of=/mnt/f/x bs=512 count=64 2>/dev/null
    umount /mnt/f
    # The table begins after 32 reserved sectors; cluster 2 is the root directory.
    dd if=/dev/zero of="$disk" bs=4 seek=$((32 * 512 / 4 + 3)) count=100 conv=notrunc 2>/dev/null
    after_mount vfat || return
    cat /mnt/f/x >/dev/null 2>&1
    becomes_read_only
}

# number AT: the 32-bit number at this byte of the disk.
number() { dd if="$disk" bs=1 skip="$1" count=4 2>/dev/null | od -An -tu4 | tr -d ' '; }

# The same; only a file in several parts has a chain.
exfat_corrupt() {
    has exfat || return 0
    need 'no exfat' mapped exfat 40 -c 4096 && need 'no mount' mount -t exfat "$disk" /mnt/f || return
    for n in 1 2 3; do
        for file in x y; do
            dd if=/dev/zero of=/mnt/f/$file bs=4096 count=1 seek=$n conv=notrunc 2>/dev/null
            sync
        done
    done
    umount /mnt/f
    # FatOffset and FirstClusterOfRootDirectory of the boot sector.
    n=0
    while [ $n -lt 40 ]; do
        printf '\001\000\000\000'
        n=$((n + 1))
    done | dd of="$disk" bs=4 seek=$(($(number 80) * 128 + $(number 96) + 1)) conv=notrunc 2>/dev/null
    after_mount exfat || return
    cat /mnt/f/x >/dev/null 2>&1
    becomes_read_only
}

# f2fs gives up after a failed write of its own, until it is mounted again. The mount table does not show it, also not
# with errors=remount-ro (6.12, 7.3).
f2fs_stops() {
    has f2fs || return 0
    need "no f2fs: $(cat /tmp/mkfs.log)" mapped f2fs 100 -f && after_mount f2fs "$1" || return
    writes_fail
    echo x >/mnt/f/x
    sync
    told filesystem_ro '' || return
    repaired
    seen="$seen; mount table: $(grep ' /mnt/f ' /proc/self/mountinfo | sed 's/.* - [^ ]* [^ ]* \([^,]*\),.*/\1/')"
    still_told && gone
}
f2fs_writes() { f2fs_stops ''; }
f2fs_remount_ro() {
    has f2fs || return 0
    case $(uname -r) in
        5.* | 6.1.*)
            seen='this kernel has no errors=remount-ro'
            return
            ;;
    esac
    f2fs_stops errors=remount-ro
}

f2fs_shutdown() {
    has f2fs || return 0
    need 'no f2fs' mapped f2fs 100 -f && after_mount f2fs && need 'no hook' within 15 is_hook attached f2fs:f2fs_shutdown || return
    xfs_io -F -x -c shutdown /mnt/f
    told filesystem_ro '' || return
    still_told && gone
}

# f2fs goes on after it has found nonsense in its own structures; from 7.1 on an event says so.
f2fs_corrupt() {
    has f2fs || return 0
    if is_hook missing f2fs:f2fs_fault_report; then
        seen='this kernel has no event of it'
        return
    fi
    need 'no f2fs' mapped f2fs 100 -f && need 'no mount' mount -t f2fs "$disk" /mnt/f && need 'no files' files /mnt/f/d || return
    umount /mnt/f
    after_mount f2fs || return
    # Everything behind the superblocks and the checkpoint.
    dd if=/dev/urandom of=/tmp/f.d/disk bs=1M seek=5 count=92 conv=notrunc 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    ls -l /mnt/f/d >/dev/null 2>&1
    told '[a-z_]*' '' || return
    gone
}

# An inode that is not the one that the directory names.
jfs_corrupt() {
    has jfs || return 0
    need 'no jfs' mapped jfs 40 && need 'no mount' mount -t jfs "$disk" /mnt/f || return
    seq 100 | while read -r n; do echo >"/mnt/f/$n"; done
    # Its target is in the inode.
    ln -s tocsin-target /mnt/f/link
    seq 101 200 | while read -r n; do echo >"/mnt/f/$n"; done
    umount /mnt/f
    page=$(dd if="$disk" bs=4096 count=2048 2>/dev/null | od -An -v -tx1 -w4096 | grep -n '74 6f 63 73 69 6e 2d 74' | cut -d: -f1)
    need 'the inode is not found' test -n "$page" || return
    dd if=/dev/zero of="$disk" bs=4096 seek=$((page - 1)) count=1 conv=notrunc 2>/dev/null
    after_mount jfs || return
    ls -l /mnt/f >/dev/null 2>&1
    told filesystem_ro 'became read-only' && still_told && gone
}

need 'the agent does not answer' start poll || say "$why"
scenario vfat_writes
scenario vfat_corrupt
scenario exfat_writes
scenario exfat_corrupt
scenario f2fs_writes
scenario f2fs_remount_ro
scenario f2fs_shutdown
scenario f2fs_corrupt
scenario nilfs2_writes
scenario ntfs_writes
scenario jfs_writes
scenario jfs_corrupt
