//! The closed loop: a filesystem on a loop device whose kernel driver reports errors, the agent that writes them into
//! its Node, the controller that makes a remediation object, and a remediator that is played.

use std::process::Command;
use std::time::{Duration, Instant};

use kube::api::DynamicObject;
use serde_json::json;

use crate::cluster::{ControlPlane, TestNode};
use crate::remediation::{define_node_health_check, new_node_health_check};
use crate::{Agent, Filesystem, Remediation, Remediator, Sandbox, Volume, inject};

/// How long a step of the loop may take on a busy machine.
const STEP: Duration = Duration::from_secs(30);
/// The label of the node.
const LABEL: &str = "tocsin.test/remediated";
/// The mount options of the filesystem: an error ends all writing.
const OPTIONS: &str = "errors=remount-ro";

/// The agent's conditions, all of which make the node unhealthy at once.
pub const CONDITIONS: [&str; 3] = ["ReadonlyFilesystem", "DiskIOError", "DiskStalled"];

/// A node with all that is around it. It needs a control plane on which no other controller acts.
pub struct ClosedLoop {
    /// The agent on the node.
    pub agent: Agent,
    /// The controller.
    pub controller: Remediation,
    /// The remediator, whose objects of kind `Reboot` are in the namespace of the loop's name.
    pub remediator: Remediator,
    /// The node.
    pub node: TestNode,
    /// Its filesystem.
    pub volume: Volume,
}

impl ClosedLoop {
    /// Starts everything. The node, the namespace and the `NodeHealthCheck` have this name; `change` is for the
    /// controller's environment.
    pub fn start(
        cluster: &ControlPlane,
        sandbox: &Sandbox,
        name: &str,
        change: impl FnOnce(&mut Command),
    ) -> Self {
        define_node_health_check(cluster);
        let remediator = Remediator::new(cluster, name, "Reboot");
        let node = cluster.node(name);
        node.patch(&json!({ "metadata": { "labels": { LABEL: name } } }));
        let kubeconfig = cluster.kubeconfig("admin");
        let controller = Remediation::start(&kubeconfig, name, |command| {
            command.env("LEADER_ELECTION", "false");
            change(command);
        });
        let unhealthy =
            CONDITIONS.map(|kind| json!({ "type": kind, "status": "True", "duration": "0s" }));
        let fields = json!({
            "minHealthy": 0,
            "unhealthyConditions": unhealthy,
            "remediationTemplate": remediator.reference("a"),
        });
        cluster.create(&new_node_health_check(name, LABEL, &fields));
        let volume = Volume::new(sandbox, name, Filesystem::Ext4, OPTIONS);
        let agent = Agent::start_with(sandbox, |command| {
            command
                .env("KUBECONFIG", kubeconfig)
                .env("NODE_NAME", node.name())
                .env("PUBLISH_CONDITIONS", "true");
        });
        let started = Self { agent, controller, remediator, node, volume };
        started.wait_conditions("False");
        started
    }

    /// The filesystem's driver reports an error, upon which the kernel stops all writing. Gives when.
    pub fn break_it(&self) -> Instant {
        inject::ext4_error(self.volume.device())
    }

    /// What a reboot does: the filesystem is unmounted, checked and mounted. Gives when the fault was gone.
    pub fn repair(&mut self) -> Instant {
        self.volume.unmount();
        let at = Instant::now();
        self.volume.repair();
        self.volume.mount(OPTIONS);
        at
    }

    /// Waits until `ReadonlyFilesystem` has this status on the Node; gives its reason and message.
    pub fn wait_condition(&self, status: &str) -> (String, String) {
        self.controller.wait(&format!("ReadonlyFilesystem {status}"), STEP, || {
            let conditions = self.node.get().status?.conditions?;
            let found = conditions.into_iter().find(|found| found.type_ == CONDITIONS[0])?;
            let text = |text: Option<String>| text.unwrap_or_default();
            (found.status == status).then(|| (text(found.reason), text(found.message)))
        })
    }

    /// Waits until one of the agent's conditions is `True`. The error itself is the first one, and that the filesystem
    /// is read-only follows with the next write.
    pub fn wait_any_condition(&self) {
        self.controller.wait("a condition True", STEP, || {
            let conditions = self.node.get().status?.conditions?;
            let bad = |kind: &str, status: &str| CONDITIONS.contains(&kind) && status == "True";
            conditions.iter().any(|found| bad(&found.type_, &found.status)).then_some(())
        });
    }

    /// Waits until every condition of the agent has this status.
    pub fn wait_conditions(&self, status: &str) {
        self.controller.wait(&format!("conditions {status}"), STEP, || {
            let conditions = self.node.get().status?.conditions?;
            let of = |kind: &&str| {
                conditions.iter().any(|found| found.type_ == **kind && found.status == status)
            };
            CONDITIONS.iter().all(of).then_some(())
        });
    }

    /// Waits for the remediation object.
    pub fn wait_object(&self) -> DynamicObject {
        self.controller.wait("a remediation object", STEP, || self.remediator.objects().pop())
    }

    /// Waits until there is no remediation object.
    pub fn wait_no_object(&self) {
        self.controller.wait("no remediation object", STEP, || {
            self.remediator.objects().is_empty().then_some(())
        });
    }
}
