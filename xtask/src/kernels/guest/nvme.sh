# A namespace of NVMe with two paths. Its sector 200000 cannot be read (QEMU's blkdebug).

need 'a module does not load' load nvme || say "$why"
mkdir /mnt/nvme
# The kernel lists the devices some time after it has loaded the driver.
within 10 ls /sys/class/nvme/nvme1/nvme*n1 >/dev/null 2>&1
sleep 1
name=$(cd /sys/class/nvme-subsystem/nvme-subsys*/ && echo nvme*n1)
head=/dev/$name
state() { get 25001 '/health?verbose' | tr -d '\r' | sed '1,/^$/d'; }

# Healthy, with all paths.
nvme_two_paths() {
    need 'no two paths' test "$(ls -d /sys/class/nvme/nvme*/nvme*n1 | wc -l)" = 2 || return
    need 'no ext4' mkfs.ext4 -q -F "$head" && need 'no mount' mount "$head" /mnt/nvme || return
    need 'the agent does not answer' start poll && need 'not ready' answers 200 || return
    seen="$(grep nvme /proc/diskstats | awk '{ print $3 " is " $1 ":" $2 }' | tr '\n' ' ')"
}

# The kernel's event of a failed request names the path. It is the last word: errors of a path alone are tried again.
nvme_head() {
    need 'it could be read' not dd if="$head" of=/dev/null bs=512 skip=200000 count=1 iflag=direct 2>/dev/null || return
    if grep -q ' 0 *0 nvme' /proc/diskstats; then
        seen="this kernel does not say which path an event is about: $(faults | grep -o '[^"]*single NVMe paths[^"]*' | head -n1)"
        need 'it is not told as degraded' faults_degraded
        return
    fi
    need 'no 503 in 2 s' within 2 failing io_errors "$name.*sector 200000" || return
    seen="$took ms, $reason; counters: $(faults | grep -o '"device_name":"nvme[^"]*"' | sort -u | tr '\n' ' ')"
}
faults_degraded() { faults | grep -q 'single NVMe paths'; }

# One path is pulled out while data is written: nobody notices.
nvme_path() {
    stop
    rm -rf /run/tocsin
    need 'the agent does not answer' start poll && need 'not ready before' within 15 answers 200 || return
    while health | head -n1; do sleep 0.05; done >/tmp/verdicts &
    watcher=$!
    rm -f /tmp/failed
    while :; do dd if=/dev/zero of=/mnt/nvme/x bs=64k count=8 oflag=direct 2>/dev/null || echo x >>/tmp/failed; done &
    writer=$!
    sleep 1
    echo 1 >"$(readlink -f /sys/class/nvme/nvme0/device)/remove"
    sleep 4
    kill $writer $watcher
    seen="$(grep -c ' 200 ' /tmp/verdicts) answers 200 of $(wc -l </tmp/verdicts), $(ls -d /sys/class/nvme/nvme*/nvme*n1 | wc -l) path left"
    need 'a write failed' test ! -e /tmp/failed && need 'not every answer was 200' test "$(grep -vc ' 200 ' /tmp/verdicts)" = 0
}

# The last path too.
nvme_no_path() {
    echo 1 >"$(readlink -f /sys/class/nvme/nvme1/device)/remove"
    (echo x >/mnt/nvme/y; sync) 2>/dev/null
    need 'no 503 in 2 s' within 2 failing '[a-z_]*' "$name" || return
    seen="$took ms, $reason"
}

scenario nvme_two_paths
scenario nvme_head
scenario nvme_path
scenario nvme_no_path
