//! Node objects, without a machine behind them.

use std::ops::Deref;

use k8s_openapi::api::core::v1::{Event, Node, Taint};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::control_plane::ControlPlane;
use super::runtime;

/// The label of Nodes that were made together.
const BATCH: &str = "tocsin.test/batch";

/// Requests at once while many Nodes are made.
const PARALLEL: usize = 16;

/// A Node; deleted on drop.
pub struct TestNode {
    cluster: ControlPlane,
    name: String,
    /// Whether this value deletes the Node on drop.
    owned: bool,
}

impl ControlPlane {
    /// Makes a Node that is ready; deleted on drop.
    pub fn node(&self, name: &str) -> TestNode {
        TestNode::create(self, name)
    }

    /// Makes many Nodes, `PREFIX-0` and so on; deleted on drop.
    pub fn nodes(&self, count: usize, prefix: &str) -> TestNodes {
        TestNodes::create(self, count, prefix)
    }
}

impl TestNode {
    fn create(cluster: &ControlPlane, name: &str) -> Self {
        let request = create(cluster.client(), name.to_owned(), None);
        cluster.request(&format!("create the node {name}"), request);
        Self { cluster: cluster.clone(), name: name.to_owned(), owned: true }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn api(&self) -> Api<Node> {
        Api::all(self.cluster.client())
    }

    /// The Node as it is now.
    pub fn get(&self) -> Node {
        self.cluster.request("get a node", self.api().get(&self.name))
    }

    /// The status of the condition of this type, if there is one.
    pub fn condition(&self, kind: &str) -> Option<String> {
        let conditions = self.get().status?.conditions?;
        conditions.into_iter().find(|known| known.type_ == kind).map(|known| known.status)
    }

    /// Adds a condition, or changes it as its owner would: `lastTransitionTime` is that of the last change of status.
    pub fn set_condition(&self, kind: &str, status: &str, reason: &str, message: &str) {
        let now = Timestamp::now().to_string();
        let mut condition = condition(kind, status, reason, message, &now);
        if self.condition(kind).as_deref() == Some(status) {
            condition.as_object_mut().expect("an object").remove("lastTransitionTime");
        }
        self.merge_conditions(&json!([condition]));
    }

    /// Sets the condition `Ready`, as the kubelet does.
    pub fn set_ready(&self, status: &str, reason: &str) {
        self.set_condition("Ready", status, reason, "set by a test");
    }

    /// Takes a condition away.
    pub fn remove_condition(&self, kind: &str) {
        self.merge_conditions(&json!([{ "type": kind, "$patch": "delete" }]));
    }

    fn merge_conditions(&self, conditions: &Value) {
        let patch = Patch::Strategic(json!({ "status": { "conditions": conditions } }));
        let (api, parameters) = (self.api(), PatchParams::default());
        self.cluster.request("patch a status", api.patch_status(&self.name, &parameters, &patch));
    }

    /// Cordons it, as `kubectl cordon` does.
    pub fn cordon(&self) {
        self.cluster.request("cordon", self.api().cordon(&self.name));
    }

    /// Uncordons it, as `kubectl uncordon` does.
    pub fn uncordon(&self) {
        self.cluster.request("uncordon", self.api().uncordon(&self.name));
    }

    /// Adds a taint.
    pub fn taint(&self, key: &str, effect: &str) {
        let (key, effect) = (key.to_owned(), effect.to_owned());
        self.change_taints(|taints| taints.push(Taint { key, effect, ..Default::default() }));
    }

    /// Takes away all taints of this key.
    pub fn untaint(&self, key: &str) {
        self.change_taints(|taints| taints.retain(|taint| taint.key != key));
    }

    fn change_taints(&self, change: impl FnOnce(&mut Vec<Taint>)) {
        let mut taints = self.get().spec.and_then(|spec| spec.taints).unwrap_or_default();
        change(&mut taints);
        self.patch(&json!({ "spec": { "taints": taints } }));
    }

    /// Sets the finalizers, which keep a deleted Node with a `deletionTimestamp`; without any it is removed.
    pub fn set_finalizers(&self, finalizers: &[&str]) {
        self.patch(&json!({ "metadata": { "finalizers": finalizers } }));
    }

    /// Changes it by a merge patch.
    pub fn patch(&self, patch: &Value) {
        let (api, parameters) = (self.api(), PatchParams::default());
        self.cluster
            .request("patch a node", api.patch(&self.name, &parameters, &Patch::Merge(patch)));
    }

    /// Deletes it.
    pub fn delete(&self) {
        let parameters = DeleteParams::default();
        self.cluster.request("delete a node", self.api().delete(&self.name, &parameters));
    }

    /// The Events about it.
    pub fn events(&self) -> Vec<Event> {
        let about = format!("involvedObject.kind=Node,involvedObject.name={}", self.name);
        let parameters = ListParams::default().fields(&about);
        let api: Api<Event> = Api::all(self.cluster.client());
        self.cluster.request("list events", async { api.list(&parameters).await }).items
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        // A server that was killed takes its Nodes with it.
        if !self.owned || !self.cluster.is_serving() {
            return;
        }
        let (api, name) = (self.api(), &self.name);
        let gone = self.cluster.try_request(async {
            let node = api.delete(name, &DeleteParams::default()).await?;
            let held = node.left().is_some_and(|node| node.metadata.finalizers.is_some());
            if held {
                let free = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
                api.patch(name, &PatchParams::default(), &free).await?;
            }
            Ok(())
        });
        match gone {
            Ok(()) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => eprintln!("delete the node {name}: {error}"),
        }
    }
}

/// Many Nodes; deleted together on drop.
pub struct TestNodes {
    cluster: ControlPlane,
    prefix: String,
    nodes: Vec<TestNode>,
}

impl TestNodes {
    fn create(cluster: &ControlPlane, count: usize, prefix: &str) -> Self {
        let name = |number: usize| format!("{prefix}-{number}");
        let mut workers = JoinSet::new();
        for first in 0..PARALLEL.min(count) {
            let (client, batch) = (cluster.client(), prefix.to_owned());
            let names: Vec<String> = (first..count).step_by(PARALLEL).map(name).collect();
            let work = async move {
                for name in names {
                    create(client.clone(), name, Some(&batch)).await?;
                }
                Ok::<_, kube::Error>(())
            };
            workers.spawn_on(work, runtime::handle());
        }
        for created in cluster.block_on(workers.join_all()) {
            created.unwrap_or_else(|error| panic!("create {count} nodes: {error}"));
        }
        let node = |name| TestNode { cluster: cluster.clone(), name, owned: false };
        let nodes = (0..count).map(name).map(node).collect();
        Self { cluster: cluster.clone(), prefix: prefix.to_owned(), nodes }
    }
}

impl Deref for TestNodes {
    type Target = [TestNode];

    fn deref(&self) -> &[TestNode] {
        &self.nodes
    }
}

impl Drop for TestNodes {
    fn drop(&mut self) {
        if !self.cluster.is_serving() {
            return;
        }
        let api: Api<Node> = Api::all(self.cluster.client());
        let these = ListParams::default().labels(&format!("{BATCH}={}", self.prefix));
        let parameters = DeleteParams::default();
        let gone = self.cluster.try_request(api.delete_collection(&parameters, &these));
        if let Err(error) = gone {
            eprintln!("delete the nodes {}: {error}", self.prefix);
        }
    }
}

/// Creates a ready Node with some capacity, as the kubelet would register it.
async fn create(client: Client, name: String, batch: Option<&str>) -> kube::Result<()> {
    let now = Timestamp::now().to_string();
    let mut labels = json!({ "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" });
    if let Some(batch) = batch {
        labels[BATCH] = json!(batch);
    }
    let room = json!({ "cpu": "4", "memory": "8Gi", "pods": "110" });
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": labels },
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "", &now),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "", &now),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "", &now),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status", &now),
            ],
        },
    });
    let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
    let api: Api<Node> = Api::all(client);
    api.create(&PostParams::default(), &node).await.map(drop)
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, now: &str) -> Value {
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    })
}
