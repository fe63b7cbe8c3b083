//! Tocsin: tells load balancers, Kubernetes and people, within milliseconds of the kernel noticing,
//! whether a host should get traffic, and why.
//!
//! ARCHITECTURE.md describes the parts. Begin reading at [`model`] and [`kernel::ledger`].

pub mod app;
pub mod checks;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod errno;
pub mod health;
pub mod host;
pub mod kernel;
pub mod model;
pub mod peers;
pub mod serve;
