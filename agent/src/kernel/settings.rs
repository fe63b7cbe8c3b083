//! Settings of the kernel side, and its defaults, periods, deadlines and bounds, each with its unit and its reason.

use std::{path::PathBuf, time::Duration};

use super::{ledger::Rules, sampling::mount_rules::MountRules};

/// The mount table of process 1: the host's, also in a container with `hostPID`.
pub const MOUNT_TABLE: &str = "/proc/1/mountinfo";
/// The checkpoint file, on the tmpfs that a reboot empties.
pub const CHECKPOINT_FILE: &str = "/run/tocsin/checkpoint.json";
/// The directory for pinned counters and hooks, where systemd and every distribution mount bpffs.
pub const PIN_DIR: &str = "/sys/fs/bpf/tocsin";
/// 5 minutes: a disk that fails once an hour should not come and go all day, and a node should not stay
/// out for an hour after one bad cable.
pub const IO_ERROR_WINDOW: Duration = Duration::from_mins(5);
/// 5 seconds: beyond any healthy flush, and far below the 30 seconds after which SCSI gives up a command.
pub const IO_STALL_AFTER: Duration = Duration::from_secs(5);
/// 900 milliseconds between snapshots of the mount table and sysfs if there are no events: what has no event (a remount
/// by fsconfig(2), say) is seen within a second. A snapshot costs some 0.2 ms with 36 mounted filesystems.
pub const REREAD_INTERVAL: Duration = Duration::from_millis(900);
/// 1 second between readings of the kernel's counters while events come: what found no room in the ring buffer becomes an
/// event that much later. A request for `/faults` or `/metrics` has them read at once.
pub const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);
/// 900 milliseconds between looks for missed events, so that one is noticed within a second. A look reads one small file of
/// procfs for each program.
pub const MISSED_INTERVAL: Duration = Duration::from_millis(900);
/// 5 seconds between readings of the counters if no events come, to see whether the sampler still works.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// 1 second at most between two turns of the kernel task, by which others see that it does not stand still.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// 10 seconds between attempts to attach missing hooks: a module that is loaded later brings its tracepoints.
pub const HOOK_RETRY: Duration = Duration::from_secs(10);
/// 10 records per second and (kind, device): one wakes the agent up, ten give people an idea; the rest is counted.
pub const RECORDS_PER_SECOND: u32 = 10;
/// 5 seconds for a write probe: a healthy journal on a busy disk needs less.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// 5 seconds for a snapshot, which no disk can delay: after that the agent is blind, and says so.
pub const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(5);
/// 500 milliseconds at most until the first verdict: probes of filesystems that remember an error, and I/O that was in
/// flight already, get this long to show whether all is well. A healthy host needs some milliseconds.
pub const START_DEADLINE: Duration = Duration::from_millis(500);
/// 16 commands that wait for the kernel task: people type them one by one.
pub const COMMANDS: usize = 16;
/// 1,024 fault changes that a receiver may be behind: a node with that many filesystems on one disk has as many at once
/// when the disk fails. One takes about a kilobyte until the last receiver has read it.
pub const CHANGES: usize = 1024;

/// How the agent learns of changes of the mount table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MountHooks {
    /// `poll(2)` on mountinfo, which costs nothing; a remount by fsconfig(2) is seen at the next re-read.
    #[default]
    Poll,
    /// Also the exits of mount, umount2, fsconfig, `mount_setattr` and `move_mount`: at once, but any syscall
    /// tracepoint makes every system call of every process slower (measured: 28 ns each on 6.18).
    Syscalls,
}

/// Where an agent keeps what the next one has to know. An empty path keeps nothing there.
#[derive(Clone, Debug, Default)]
pub struct Keep {
    /// The checkpoint: open faults, and what has been dealt with.
    pub checkpoint: PathBuf,
    /// The directory in bpffs for counters and hooks.
    pub pin_dir: PathBuf,
}

/// Settings of the kernel side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Do not load eBPF.
    pub no_ebpf: bool,
    /// Let the kernel programs log.
    pub bpf_log: bool,
    /// How the agent learns of changes of the mount table.
    pub mount_hooks: MountHooks,
    /// What the operator has said about mounts and devices.
    pub mounts: MountRules,
    /// What the ledger decides by.
    pub rules: Rules,
    /// Time between snapshots if there are no events.
    pub reread_interval: Duration,
    /// What is kept for the agent that starts next.
    pub keep: Keep,
}
