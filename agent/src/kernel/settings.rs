//! The kernel side: what it is told, and its defaults, periods and deadlines, each with its unit and its reason.

use std::time::Duration;

use super::ledger::Rules;

/// The host's table, also from a container with hostPID.
pub const MOUNT_TABLE: &str = "/proc/1/mountinfo";
/// 5 minutes: a disk that fails once an hour should not come and go all day, and a node should not stay
/// out for an hour after one bad cable.
pub const IO_ERROR_WINDOW: Duration = Duration::from_mins(5);
/// 5 seconds: beyond any healthy flush, and far below the 30 seconds after which SCSI gives up a command.
pub const IO_STALL_AFTER: Duration = Duration::from_secs(5);
/// Nine tenths of a second between looks at mountinfo and sysfs when nothing rings: what has no event (a
/// remount by fsconfig, say) is seen within a second. One costs some 0.2 ms where 36 filesystems are mounted.
pub const REREAD_INTERVAL: Duration = Duration::from_millis(900);
/// 1 second between readings of the kernel's counters while events come: what did not fit into the ring
/// buffer is an event that much later. Who asks for `/faults` or `/metrics` gets a reading of that moment.
pub const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);
/// 5 seconds when none come: only to see whether the looker still looks.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// 10 seconds between attempts at hooks whose tracepoint is not there: a module that is loaded later.
pub const HOOK_RETRY: Duration = Duration::from_secs(10);
/// Records per second, (kind, device): one rings the bell, ten give people an idea; the rest is counted.
pub const RECORDS_PER_SECOND: u32 = 10;
/// 5 seconds for a probing write: a healthy journal on a busy disk needs less.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// 5 seconds for reading the mount table, which no disk can delay: later it is called blind.
pub const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Half a second at most until the first answer: probes of filesystems that remember an error, and I/O that
/// was in flight already, get this long to show how they stand. A healthy host needs some milliseconds.
pub const START_DEADLINE: Duration = Duration::from_millis(500);
/// 16 actions that wait for the kernel task: people type them one by one.
pub const COMMANDS: usize = 16;
/// 1,024 changes of faults that a reader may be behind: what a node with that many filesystems on one disk says at once
/// when that disk fails. A kilobyte each, and none once every reader has read it.
pub const CHANGES: usize = 1024;

/// How changes of the mount table ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MountHooks {
    /// `poll(2)` on mountinfo, which costs nothing; a remount by fsconfig(2) is seen at the next re-read.
    #[default]
    Poll,
    /// Also the exits of mount, umount2, fsconfig, `mount_setattr` and `move_mount`: at once, but any syscall
    /// tracepoint makes every system call of every process slower (measured: 28 ns each on 6.18).
    Syscalls,
}

/// What the kernel side is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Do not load eBPF.
    pub no_ebpf: bool,
    /// Let the programs log.
    pub bpf_log: bool,
    /// How changes of the mount table ring.
    pub mount_hooks: MountHooks,
    /// What the ledger goes by.
    pub rules: Rules,
    /// Between looks when nothing rings.
    pub reread_interval: Duration,
}
