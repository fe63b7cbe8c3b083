//! The kernel side: which faults this host has now.
//!
//! ```text
//! ebpf       kernel events: something happened             \
//! sampling   mount table, sysfs: what is true now           > ledger (pure) > publish: FaultView, FaultChange
//! probe      the state of a root directory, a test write   /
//! ```
//!
//! [`task::Kernel`] is the task around the pure [`ledger`]: it carries events, snapshots and results of probes to it,
//! starts the probes that it asks for, and publishes what it knows. The task itself never waits for a disk.

mod blind_spots;
mod changes;
mod channels;
mod checkpoint;
mod detached_mount;
pub mod ebpf;
pub mod ledger;
pub mod probe;
mod probe_runner;
mod publish;
mod pulse;
mod recall;
pub mod sampling;
mod schedule;
mod sectors;
pub mod settings;
mod stats;
pub mod task;
mod thread;
mod wake_ups;

pub use self::{
    channels::{Channels, Command, Published, TaskChannels, channels},
    ebpf::{HookState, HookStatus, pins::unpin},
    pulse::Pulse,
    stats::{KernelStats, NamedCount},
    thread::KernelThread,
};
