//! Node remediation: watches the health of nodes and makes remediation objects for unhealthy ones.
//!
//! A drop-in for the medik8s `NodeHealthCheck` operator, on any Kubernetes.

pub mod crd;
pub mod decide;
pub mod names;
pub mod settings;
pub mod world;
