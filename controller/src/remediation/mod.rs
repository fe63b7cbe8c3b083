//! Node remediation: from an unhealthy node to a remediation object, as the NodeHealthCheck operator does it.
