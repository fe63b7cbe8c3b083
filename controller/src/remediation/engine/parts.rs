//! What the engine works with.

use std::sync::{Arc, atomic::AtomicBool};

use super::clock::Steady;
use tokio::sync::{mpsc, watch};

use crate::remediation::{
    apply::Writer, events::Events, leader::Leadership, metrics::RemediationMetrics,
    settings::Settings, store::Change, watch::Source,
};

/// What the engine works with.
#[derive(Debug)]
pub struct Parts {
    /// For how long something lasted.
    pub clock: Steady,
    /// What decisions go by.
    pub settings: Settings,
    /// Makes the writes.
    pub writer: Writer,
    /// Takes events.
    pub events: Events,
    /// Takes counts.
    pub metrics: RemediationMetrics,
    /// Whether this replica may write.
    pub leadership: Leadership,
    /// Tells when that changes.
    pub leads: watch::Receiver<bool>,
    /// Whether this is `OpenShift`, for the webhook.
    pub is_openshift: Arc<AtomicBool>,
    /// What the watches read from.
    pub source: Source,
    /// What they tell.
    pub changes: mpsc::Receiver<Change>,
}
