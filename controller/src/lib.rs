//! The controller: answers for deployments (`heartbeat`) and remediates nodes (`remediation`).

pub mod heartbeat;
pub mod remediation;
