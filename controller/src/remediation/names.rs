//! Names that other programs read: labels, annotations, taints, conditions. All of them are API.

/// API version and kind of the object that remediation objects are owned by.
pub const API_VERSION: &str = "remediation.medik8s.io/v1alpha1";
/// See [`API_VERSION`].
pub const KIND: &str = "NodeHealthCheck";

/// Annotation of a remediation object: its node.
pub const NODE_NAME: &str = "remediation.medik8s.io/node-name";
/// Annotation of a remediation object: its template.
pub const TEMPLATE_NAME: &str = "remediation.medik8s.io/template-name";
/// Annotation of a template: several of one kind may be used for one node.
pub const MULTIPLE_TEMPLATES: &str = "remediation.medik8s.io/multiple-templates-support";
/// Annotation of a remediation object: it was given up then; the remediator stops.
pub const TIMED_OUT: &str = "remediation.medik8s.io/nhc-timed-out";
/// Annotation of a remediation object: its node is healthy since then, and `healthyDelay` keeps the object.
pub const HEALTHY_DELAY: &str = "remediation.medik8s.io/healthy-delay";
/// Annotation of a remediation object that is older than 48 hours.
pub const OLD_FLAG: &str = "nodehealthcheck.medik8s.io/old-remediation-cr-flag";
/// Value of [`OLD_FLAG`].
pub const OLD_FLAG_ON: &str = "flagon";
/// Annotation of a node: a person says that it is healthy, `healthyDelay` is over.
pub const CONFIRMED_HEALTHY: &str = "remediation.medik8s.io/manually-confirmed-healthy";
/// Label of a node that is never remediated.
pub const EXCLUDE: &str = "remediation.medik8s.io/exclude-from-remediation";
/// Label of a remediation object of a control-plane node.
pub const CONTROL_PLANE_LABEL: &str = "remediation.medik8s.io/isControlPlaneNode";
/// Label of every remediation object, with [`PART_OF_VALUE`].
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// See [`PART_OF`].
pub const PART_OF_VALUE: &str = "node-healthcheck-controller";
/// Labels of control-plane nodes.
pub const CONTROL_PLANE_ROLES: [&str; 2] =
    ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];
/// Condition of a remediation object.
pub const SUCCEEDED: &str = "Succeeded";
/// Condition of a remediation object: its node will be deleted for good, and the object is needed until it succeeded.
pub const PERMANENT_DELETION: &str = "PermanentNodeDeletionExpected";

/// Namespace of the leases of nodes, unless `LEASE_NAMESPACE` says otherwise.
pub const LEASE_NAMESPACE: &str = "medik8s-leases";

/// Annotation of a `NodeHealthCheck`: say what would be done, and do nothing.
pub const DRY_RUN: &str = "tocsin.dev/dry-run";
/// Labels and annotations of a node that begin so veto its remediation: the rest of the key says who, the value why.
pub const VETO_PREFIX: &str = "veto.remediation.tocsin.dev/";
/// Annotation of a node: remediations that began before this time do not count as attempts any more.
pub const FORGET_ATTEMPTS: &str = "remediation.tocsin.dev/forget-attempts-before";

/// The holder of the leases that `check` takes.
#[must_use]
pub fn holder(check: &str) -> String {
    format!("NodeHealthCheck-{check}")
}

/// The name of the lease of `node`.
#[must_use]
pub fn lease(node: &str) -> String {
    format!("node-{}", node.to_lowercase())
}
