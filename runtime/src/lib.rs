//! What any Tocsin process is made of: log, supervised tasks, HTTP listener, TLS, metrics, Kubernetes client.
//!
//! The privileged agent and the unprivileged controller are both built on it. Everything here is needed by both, and
//! nothing here imports either.

pub mod command_line;
pub mod fd;
pub mod http;
pub mod jitter;
pub mod kube;
pub mod log;
pub mod metrics;
pub mod tasks;
pub mod text;
pub mod tls;
