//! What every source says at one moment, and the outcomes of checks from it: pure.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Check, CheckSource, Policy, kernel, mounts, node, samples::Probes};
use crate::model::{ApiState, FaultView, NodeObservation, NodeView, Outcome, PeerView};

/// What every source says at one moment, and what the operator wants.
#[derive(Clone, Debug)]
pub struct CheckContext {
    /// The faults and blind spots of the kernel side.
    pub kernel: Arc<FaultView>,
    /// How old they are: when the kernel side last looked at the host.
    pub look_age: Duration,
    /// What the cluster says about this node.
    pub node: Arc<NodeView>,
    /// The agents of other nodes.
    pub peers: Arc<PeerView>,
    /// The samples of the probes.
    pub probes: Probes,
    /// What the operator wants.
    pub policy: Arc<Policy>,
    /// This moment.
    pub now: Instant,
}

impl CheckContext {
    /// A context in which no source has said anything yet. Its fields are public, to be set.
    #[must_use]
    pub fn new(policy: Arc<Policy>, now: Instant) -> Self {
        let (kernel, node, peers) = (Arc::default(), Arc::default(), Arc::default());
        let probes = Probes::default();
        Self { kernel, look_age: Duration::ZERO, node, peers, probes, policy, now }
    }

    /// The check's outcome.
    #[must_use]
    pub fn outcome(&self, check: &Check) -> Outcome {
        match check.source {
            CheckSource::Kernel(blind_spot) => {
                kernel::outcome(check.name, &self.kernel, self.look_age, &self.policy, blind_spot)
            }
            CheckSource::Mounts => mounts::outcome(&self.kernel, self.look_age, &self.policy),
            CheckSource::Node(judge) => {
                let judge = |node: &_| judge(node, &self.policy);
                let name = self.policy.node_name.as_deref().unwrap_or_default();
                node::outcome(&self.node, name, self.policy.on_api_loss, judge)
            }
            CheckSource::Peers(judge) => judge(&self.peers, &self.policy),
            CheckSource::Probe => {
                self.probes.outcome(check.name, self.policy.probe_interval, self.now)
            }
        }
    }

    /// Whether the check's source is there: a cluster is configured, or the probe runs.
    #[must_use]
    pub fn has_source(&self, check: &Check) -> bool {
        match check.source {
            CheckSource::Kernel(_) => true,
            CheckSource::Mounts => self.policy.requires_mounts,
            CheckSource::Node(_) => {
                self.policy.node_name.is_some() && self.node.api != ApiState::NotConfigured
            }
            CheckSource::Peers(_) => self.peers.is_configured,
            CheckSource::Probe => self.probes.latest(check.name).is_some(),
        }
    }
}

/// The outcome of every check of the Node for that observation, for the log.
#[must_use]
pub fn node_verdicts(
    observation: &NodeObservation,
    policy: &Arc<Policy>,
) -> Vec<(&'static str, Outcome)> {
    let node = Arc::new(NodeView { api: ApiState::Up, last: Some(observation.clone()) });
    let context = CheckContext { node, ..CheckContext::new(policy.clone(), Instant::now()) };
    let of_node = policy.all().filter(|check| check.needs_node_name());
    of_node.map(|check| (check.name, context.outcome(check))).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{
        checks::{find, tests::fault},
        model::{Condition, FaultKind, Node, Scope},
    };

    fn observation() -> NodeObservation {
        let ready = Condition {
            kind: "Ready".into(),
            status: "False".into(),
            reason: "KubeletNotReady".into(),
            ..Condition::default()
        };
        let node = Node { unschedulable: true, conditions: vec![ready], ..Node::default() };
        NodeObservation { at: SystemTime::UNIX_EPOCH, node: Some(node) }
    }

    #[test]
    fn each_check_goes_by_its_own_source() {
        let policy = Policy { node_name: Some("n".into()), ..Policy::default() };
        let silent = CheckContext::new(Arc::new(policy), Instant::now());
        let kernel = FaultView {
            faults: vec![fault(FaultKind::IoError, Scope::Host)],
            ..FaultView::default()
        };
        let node = NodeView { api: ApiState::Up, last: Some(observation()) };
        let spoken = CheckContext { kernel: kernel.into(), node: node.into(), ..silent.clone() };
        for (name, before, after) in [
            ("io_errors", Outcome::Pass, "loop3 (7:3) ext4 on /mnt/x: io_error"),
            ("node_ready", Outcome::Unknown("no cluster is configured".into()), "KubeletNotReady"),
        ] {
            let check = find(name).unwrap();
            assert_eq!(silent.outcome(check), before, "{name}");
            assert_eq!(spoken.outcome(check), Outcome::Fail(after.into()), "{name}");
        }
        let kubelet = find("kubelet").unwrap();
        assert_eq!(spoken.outcome(kubelet), Outcome::Unknown("no result yet".into()));
        let has = |context: &CheckContext| {
            ["io_errors", "node_ready", "kubelet"]
                .map(|name| context.has_source(find(name).unwrap()))
        };
        assert_eq!((has(&silent), has(&spoken)), ([true, false, false], [true, true, false]));
    }

    #[test]
    fn the_log_gets_the_checks_of_the_node() {
        let verdicts = node_verdicts(&observation(), &Arc::default());
        let names: Vec<_> = verdicts.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["node_ready", "schedulable", "custom_conditions"]);
        assert!(matches!(verdicts[1].1, Outcome::Fail(_)));
        assert_eq!(verdicts[2].1, Outcome::Pass);
    }
}
