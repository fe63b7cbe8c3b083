# Stacks of devices: a volume on two disks, an array that loses a leg.

need 'a module does not load' load stacks || say "$why"

# lower NAME: a disk of 64 MiB, $lower, with $sectors.
lower() { disk "$1" 64M && lower=$disk && sectors=$(blockdev --getsz "$lower"); }
# dm NAME TABLE: a device of device mapper.
dm() {
    echo "$2" | dmsetup create "$1" --noudevsync || return
    [ -b "/dev/mapper/$1" ] || dmsetup mknodes
}
dm_table() { dmsetup suspend --noudevsync --nolockfs --noflush "$1" && dmsetup load "$1" --table "$2" && dmsetup resume --noudevsync "$1"; }
on() { mkdir -p "/mnt/$1" && mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$2" >/tmp/mkfs.log 2>&1 && mount "$2" "/mnt/$1"; }

# A logical volume on two disks, of which one is pulled: its half gives errors.
volume_disk_pulled() {
    need 'no disks' lower a && first=$lower && lower b && second=$lower || return
    dm pulled "0 $sectors linear $second 0" || return
    dm volume "0 $sectors linear $first 0
$sectors $sectors linear /dev/mapper/pulled 0" || return
    need 'no ext4' on volume /dev/mapper/volume && need 'the agent does not answer' start poll && need 'not ready before' answers 200 || return
    dm_table pulled "0 $sectors error"
    dd if=/dev/zero of=/mnt/volume/x bs=1M count=100 conv=fsync 2>/dev/null
    need 'no 503 in 2 s' within 2 failing '[a-z_]*' dm- || return
    seen="$took ms, $reason"
    stop
    need 'the agent does not answer' start poll || return
    need 'its first verdict is not 503' failing '[a-z_]*' dm- || return
    seen="$seen; first verdict after a restart: 503, $reason"
    umount /mnt/volume
    need 'no 200 after umount' within 5 answers 200
}

# A leg of a mirror fails: the host works on, and the fault is a member's.
mirror_leg() {
    need 'no disks' lower c && first=$lower && lower d && second=$lower || return
    dm leg "0 $sectors linear $second 0" || return
    need "no array: $(cat /tmp/md.log)" mirror || return
    need 'no ext4' on mirror /dev/md0 && need 'not ready before' within 5 answers 200 || return
    dm_table leg "0 $sectors error"
    dd if=/dev/zero of=/mnt/mirror/x bs=1M count=8 conv=fsync 2>/tmp/dd.log
    need 'no fault of a member' within 3 is_member || return
    seen="$took ms, md: $(cat /sys/block/md0/md/degraded) missing; $(faults | grep -o '"scope":"[a-z]*"' | sort -u | tr '\n' ' ')"
    need 'not ready with one leg' answers 200 || return
    umount /mnt/mirror
}
mirror() {
    mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --metadata=1.2 --assume-clean "$first" /dev/mapper/leg >/tmp/md.log 2>&1
}
is_member() { faults | grep -q '"scope":"member"'; }

scenario volume_disk_pulled
scenario mirror_leg
