//! The controller: answers for deployments (`heartbeat`) and remediates nodes (`remediation`).

pub mod admin;
pub mod api_server;
pub mod args;
pub mod cli;
pub mod heartbeat;
pub mod listen;
pub mod reflect;
pub mod remediation;
