//! Listeners. Each answers from memory, and none can be made to wait or to grow without bound.

pub mod admin;
pub mod agent_check;
pub mod control;
pub mod health;
pub mod metrics;
pub mod reason;
pub mod settings;
pub mod state_file;
pub mod weight;
