//! Kernel events: the table of hooks, the programs on them, and what they send.

pub mod hooks;
pub mod inherited;
pub mod loader;
mod pin_lock;
pub mod pins;
pub mod reader;
mod source;
pub mod tracefs;
mod wire;

pub use self::{
    loader::{HookState, HookStatus},
    source::{BATCH, EventSource},
};
