//! Node remediation: watches the health of nodes and makes remediation objects for unhealthy ones.
//!
//! A drop-in for the medik8s `NodeHealthCheck` operator, on any Kubernetes. [`watch`] follows the cluster, [`store`] keeps
//! it as a [`world`], [`decide`] decides, purely, and the [`engine`] starts the writes of [`apply`]. Only the [`leader`]
//! writes. The [`webhook`] asks [`admission`], also purely.

pub mod admission;
pub mod apply;
pub mod args;
pub mod certificate;
pub mod crd;
pub mod decide;
pub mod engine;
pub mod events;
pub mod explain;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod objects;
mod openshift;
pub mod run;
pub mod settings;
pub mod store;
pub mod watch;
pub mod webhook;
pub mod world;

pub use run::{explain_node, run};
