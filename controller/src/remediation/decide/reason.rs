//! Why an unhealthy node is not being remediated. The names are API.

use super::action::Note;

/// Why an unhealthy node is not being remediated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its condition has not lasted long enough.
    DurationNotElapsed,
    /// The `NodeHealthCheck` is disabled.
    Disabled,
    /// The `NodeHealthCheck` is paused.
    Paused,
    /// The cluster is being upgraded.
    ClusterUpgrade,
    /// `minHealthy` or `maxUnhealthy` cannot be used.
    InvalidThreshold,
    /// Too few nodes are healthy.
    BelowMinHealthy,
    /// A storm is on, or its cooldown.
    StormRecovery,
    /// Its label excludes it.
    Excluded,
    /// A controller or a person vetoes it.
    Vetoed,
    /// It is in maintenance, being drained or shutting down, by its conditions.
    Maintenance,
    /// It is being deleted.
    BeingDeleted,
    /// Karpenter is disrupting or repairing it.
    BeingDisrupted,
    /// The cluster autoscaler is deleting it.
    BeingScaledDown,
    /// Another control-plane node is being remediated, or etcd would lose its quorum.
    ControlPlane,
    /// Another operator holds its lease.
    LeaseHeld,
    /// Another owner's remediation object is there.
    RemediatedByAnother,
    /// The name of its remediation object is taken.
    NameTaken,
    /// Its last remediation is not long enough ago.
    CoolingOff,
    /// It had as many remediations as are allowed.
    AttemptsExhausted,
    /// As many nodes of the cluster as are allowed are being remediated.
    BudgetExhausted,
    /// As many nodes of its zone as are allowed are being remediated.
    ZoneBudgetExhausted,
    /// The API server refused a write.
    WriteRefused,
    /// Every template was tried.
    NoTemplateLeft,
    /// It would be remediated, but for the dry run.
    DryRun,
}

impl Reason {
    /// Its name in `status`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DurationNotElapsed => "DurationNotElapsed",
            Self::Disabled => "Disabled",
            Self::Paused => "Paused",
            Self::ClusterUpgrade => "ClusterUpgrade",
            Self::InvalidThreshold => "InvalidThreshold",
            Self::BelowMinHealthy => "BelowMinHealthy",
            Self::StormRecovery => "StormRecovery",
            Self::Excluded => "Excluded",
            Self::Vetoed => "Vetoed",
            Self::Maintenance => "Maintenance",
            Self::BeingDeleted => "BeingDeleted",
            Self::BeingDisrupted => "BeingDisrupted",
            Self::BeingScaledDown => "BeingScaledDown",
            Self::ControlPlane => "ControlPlane",
            Self::LeaseHeld => "LeaseHeld",
            Self::RemediatedByAnother => "RemediatedByAnother",
            Self::NameTaken => "NameTaken",
            Self::CoolingOff => "CoolingOff",
            Self::AttemptsExhausted => "AttemptsExhausted",
            Self::BudgetExhausted => "BudgetExhausted",
            Self::ZoneBudgetExhausted => "ZoneBudgetExhausted",
            Self::WriteRefused => "WriteRefused",
            Self::NoTemplateLeft => "NoTemplateLeft",
            Self::DryRun => "DryRun",
        }
    }

    /// The event that tells of it when a node of this `NodeHealthCheck` begins to wait for it.
    ///
    /// The messages of the first group are the reference's.
    #[must_use]
    pub fn note(self, check: &str, node: &str, message: &str) -> Option<Note> {
        let skipped = |text: String| Some(Note::warning("RemediationSkipped", text));
        match self {
            Self::ClusterUpgrade => Some(Note::normal(
                "RemediationSkipped",
                "Postponing potential remediations because of ongoing cluster upgrade",
            )),
            Self::BelowMinHealthy => skipped(message.to_owned()),
            Self::StormRecovery => {
                skipped("Storm recovery active: skipping creation of new remediations".to_owned())
            }
            Self::Excluded => skipped(format!(
                "Remediation skipped on node {node}: node has Exclude from Remediation label"
            )),
            Self::ControlPlane => skipped(format!(
                "Skipping remediation of {node} for preventing control plane / etcd quorum loss, going to retry in a minute"
            )),
            Self::LeaseHeld => skipped(format!(
                "Skipped remediation of node: {node}, because node lease is already taken"
            )),
            Self::NoTemplateLeft => Some(Note::warning(
                "NoTemplateLeft",
                format!(
                    "Remediation timed out, and no template left to try. didn't find a template to use for NHC {check} and node {node}"
                ),
            )),

            Self::DryRun => Some(Note::normal("DryRun", format!("Node {node}: {message}"))),
            Self::DurationNotElapsed
            | Self::Disabled
            | Self::Paused
            | Self::RemediatedByAnother => None,
            Self::InvalidThreshold
            | Self::Vetoed
            | Self::Maintenance
            | Self::BeingDeleted
            | Self::BeingDisrupted
            | Self::BeingScaledDown
            | Self::NameTaken
            | Self::CoolingOff
            | Self::AttemptsExhausted
            | Self::BudgetExhausted
            | Self::ZoneBudgetExhausted
            | Self::WriteRefused => {
                skipped(format!("Remediation skipped on node {node}: {message}"))
            }
        }
    }
}
