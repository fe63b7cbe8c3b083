//! The kernel side: hooks, evidence, and the ledger that decides.
//!
//! [`task::Kernel`] is the task around the pure [`ledger`]: it carries events, looks and probe results to it,
//! does what it asks for, and publishes what it says. It never waits for a disk itself.

mod blind_spots;
mod changes;
pub mod fanotify;
pub mod hooks;
pub mod ledger;
pub mod loader;
pub mod looker;
pub mod mounts;
pub mod probe;
mod publish;
pub mod reader;
pub mod settings;
mod statmount;
pub mod sysfs;
pub mod task;
pub mod tracefs;
mod wake;

use tokio::sync::oneshot;

pub use self::publish::{Channels, Published, TaskChannels, channels};
use self::{loader::HookStatus, reader::NamedCount};

/// The kernel's counters and how the hooks stand; published when somebody asks, every second while events
/// come, and now and then.
#[derive(Clone, Debug, Default)]
pub struct KernelStats {
    /// Exact counts.
    pub counts: Vec<NamedCount>,
    /// Every hook.
    pub hooks: Vec<HookStatus>,
    /// Events without room among the counters, events no program ran for, and events that waited in vain.
    pub uncounted: u64,
    /// Events for which no program ran.
    pub missed: u64,
    /// Events that were given up in the agent.
    pub forgotten: u64,
    /// Probes that are running or stuck.
    pub probes_running: usize,
    /// How long the last look took.
    pub look_seconds: f64,
}

/// What others may ask of the kernel side.
#[derive(Debug)]
pub enum Command {
    /// Clear a fault; answers whether there was one.
    Clear(String, oneshot::Sender<bool>),
    /// Read the kernel's counters now; answers when they are published.
    Refresh(oneshot::Sender<()>),
}
