//! The listeners and files by which the agent is read. Each answers from memory; no client can make one wait or grow
//! without bound.

pub mod admin;
pub mod agent_check;
pub mod control;
pub mod health;
pub mod metrics;
mod peers;
pub mod reason;
pub mod settings;
pub mod state_file;
pub mod watchdog;
pub mod weight;
