//! The deployment heartbeat: is this deployment up, for a status page outside the cluster.
