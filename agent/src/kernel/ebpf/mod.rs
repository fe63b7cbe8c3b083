//! Kernel events: the table of hooks, the programs on them, and what they send.

pub mod hooks;
pub mod inherited;
pub mod loader;
mod pin_lock;
pub mod pins;
pub mod reader;
mod report;
mod source;
pub mod tracefs;
mod wire;
mod worker;

pub use self::{
    report::{HookReport, HookState, HookStatus},
    source::{BATCH, EventSource},
};
pub(crate) use self::{
    source::Loaded,
    worker::{DEADLINE, Died, HookWorker, THREAD},
};
