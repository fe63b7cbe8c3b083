//! Node remediation: watches the health of nodes and makes remediation objects for unhealthy ones.

pub mod crd;
