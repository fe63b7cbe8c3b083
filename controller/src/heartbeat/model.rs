//! What is kept of the cluster's objects: no more than a verdict needs.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use jiff::Timestamp;

/// A `metadata.uid`, as a number: 16 bytes for each of ten thousand pods instead of a text of 36.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(u128);

impl Uid {
    /// The smallest.
    pub const MIN: Self = Self(u128::MIN);
    /// The largest.
    pub const MAX: Self = Self(u128::MAX);
}

impl From<&str> for Uid {
    /// A UUID is its own number. Any other text (an owner reference may hold one) is hashed, with the highest bits set,
    /// which no random UUID (RFC 9562, version 4, variant `10`) has.
    fn from(text: &str) -> Self {
        let hex: String = text.chars().filter(|c| *c != '-').collect();
        if hex.len() == 32
            && let Ok(number) = u128::from_str_radix(&hex, 16)
        {
            return Self(number);
        }
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, text).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        Self(half(0) << 64 | half(1) | 0xf000 << 64)
    }
}

/// The kinds of workloads that can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `apps/v1 Deployment`
    Deployment,
    /// `apps/v1 StatefulSet`
    StatefulSet,
    /// `apps/v1 DaemonSet`
    DaemonSet,
}

impl Kind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::Deployment, Self::StatefulSet, Self::DaemonSet];

    /// The word in paths, answers and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::StatefulSet => "statefulset",
            Self::DaemonSet => "daemonset",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A number of pods, or a share of the replicas (`IntOrString`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Count(i64),
    /// So many percent.
    Percent(i64),
}

impl Amount {
    /// The number of pods that it is of `total`. Kubernetes rounds `maxUnavailable` of a Deployment down and that of
    /// a `DaemonSet` or `StatefulSet` up (`GetScaledValueFromIntOrPercent`, apimachinery v0.36).
    #[must_use]
    pub fn of(self, total: i64, round_up: bool) -> i64 {
        match self {
            Self::Count(count) => count.max(0),
            Self::Percent(percent) => {
                let product = total.saturating_mul(percent.max(0));
                if round_up { product.saturating_add(99) / 100 } else { product / 100 }
            }
        }
    }
}

/// A condition of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether its status is `True`.
    pub is_true: bool,
    /// One word, such as `ProgressDeadlineExceeded`.
    pub reason: Box<str>,
    /// When the status changed last.
    pub since: Option<Timestamp>,
}

/// What the kinds differ in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Details {
    /// A Deployment.
    Deployment {
        /// `spec.strategy.rollingUpdate`, where the strategy is `RollingUpdate`: `maxUnavailable` and `maxSurge`.
        rolling: Option<(Amount, Amount)>,
        /// The condition `Available`.
        available: Option<Condition>,
        /// The condition `Progressing`.
        progressing: Option<Condition>,
    },
    /// A `StatefulSet`.
    StatefulSet {
        /// `spec.updateStrategy.rollingUpdate.maxUnavailable`; `None` for `OnDelete`.
        max_unavailable: Option<Amount>,
        /// `spec.updateStrategy.rollingUpdate.partition`
        partition: i64,
        /// `spec.ordinals.start`
        first_ordinal: i64,
        /// `status.updateRevision`
        update_revision: Box<str>,
    },
    /// A `DaemonSet`.
    DaemonSet {
        /// `spec.updateStrategy.rollingUpdate.maxUnavailable`; `None` for `OnDelete`.
        max_unavailable: Option<Amount>,
    },
}

impl Details {
    /// The kind of workload.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Deployment { .. } => Kind::Deployment,
            Self::StatefulSet { .. } => Kind::StatefulSet,
            Self::DaemonSet { .. } => Kind::DaemonSet,
        }
    }
}

/// A Deployment, `StatefulSet` or `DaemonSet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `metadata.namespace`
    pub namespace: Box<str>,
    /// `metadata.name`
    pub name: Box<str>,
    /// `metadata.uid`
    pub uid: Uid,
    /// `metadata.labels`, for selectors.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// `metadata.creationTimestamp`
    pub created: Option<Timestamp>,
    /// `metadata.deletionTimestamp` is set.
    pub is_being_deleted: bool,
    /// `metadata.generation`: which version of the spec this is.
    pub generation: i64,
    /// `status.observedGeneration`: which version of the spec the status is about.
    pub observed_generation: i64,
    /// `spec.replicas`, or `status.desiredNumberScheduled` of a `DaemonSet`.
    pub desired: i64,
    /// What the kinds differ in.
    pub details: Details,
}

impl Workload {
    /// The kind of workload.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.details.kind()
    }

    /// Whether the status is about an older spec: the controller has not seen the current one yet.
    #[must_use]
    pub fn is_status_behind(&self) -> bool {
        self.observed_generation < self.generation
    }
}

/// What a pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodState {
    /// The condition `Ready` is `True`.
    Ready,
    /// It is not.
    NotReady,
    /// `metadata.deletionTimestamp` is set.
    Terminating,
    /// The phase is `Succeeded` or `Failed` (an evicted pod is a failed one): it will never be ready again.
    Finished,
}

/// A pod with a controller. Pods without one belong to no workload and are not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.name`
    pub name: Box<str>,
    /// `uid` of the owner reference with `controller: true`.
    pub owner: Uid,
    /// What it does.
    pub state: PodState,
    /// When the condition `Ready` changed last.
    pub since: Option<Timestamp>,
    /// Why it is not ready, in one word, where a container says so: `CrashLoopBackOff`.
    pub reason: Option<Box<str>>,
    /// The label `controller-revision-hash` of a `StatefulSet`'s pod.
    pub revision: Option<Box<str>>,
}

/// A Warning event about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// One word: `BackOff`, `Unhealthy`, `FailedScheduling`.
    pub reason: Box<str>,
    /// A sentence.
    pub message: Box<str>,
    /// When it happened last.
    pub last: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_numbers() {
        let uid = |text: &str| Uid::from(text);
        assert_eq!(uid("00000000-0000-0000-0000-0000000000ff"), Uid(255));
        assert_eq!(uid("not-a-uuid"), uid("not-a-uuid"));
        assert_ne!(uid("not-a-uuid"), uid("not-another"));
        assert_ne!(uid(""), Uid(0));
    }

    #[test]
    fn amounts_are_rounded_as_kubernetes_rounds_them() {
        for (amount, total, down, up) in [
            (Amount::Count(1), 3, 1, 1),
            (Amount::Count(-1), 3, 0, 0),
            (Amount::Percent(25), 3, 0, 1),
            (Amount::Percent(25), 4, 1, 1),
            (Amount::Percent(25), 10, 2, 3),
            (Amount::Percent(100), 7, 7, 7),
            (Amount::Percent(0), 7, 0, 0),
            (Amount::Percent(50), 1, 0, 1),
        ] {
            assert_eq!(
                (amount.of(total, false), amount.of(total, true)),
                (down, up),
                "{amount:?} of {total}"
            );
        }
    }
}
