//! Many nodes as large as real ones, in three zones, whose kubelets are played: some fail at once, the others beat.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::control_plane::ControlPlane;
use super::runtime;

/// The label of the nodes, with the fleet's name.
pub const FLEET: &str = "tocsin.test/fleet";
/// Requests at once.
const AT_ONCE: usize = 32;
/// Images that a node names: the kubelet tells of 50 (`nodeStatusMaxImages`).
const IMAGES: usize = 50;
/// The kubelet tells of a node without news every 5 minutes (`nodeStatusReportFrequency`).
const BEAT_EVERY: Duration = Duration::from_mins(5);

/// Many nodes; deleted on drop.
pub struct Fleet {
    cluster: ControlPlane,
    name: String,
    count: usize,
}

impl Fleet {
    /// Makes `NAME-0` and so on, all ready.
    pub fn new(cluster: &ControlPlane, name: &str, count: usize) -> Self {
        let fleet = Self { cluster: cluster.clone(), name: name.to_owned(), count };
        fleet.each(0..count, |client, name, fleet| async move {
            let node: Node = serde_json::from_value(node(&name, &fleet)).expect("a node");
            let api: Api<Node> = Api::all(client);
            api.create(&PostParams::default(), &node).await.map(drop)
        });
        fleet
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The name of one.
    pub fn node(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// These nodes have this status of `Ready` since that time, which is now if it is none.
    pub fn set_ready(&self, which: Range<usize>, status: &'static str, since: Option<Timestamp>) {
        self.each(which, move |client, name, _| async move {
            let since = since.unwrap_or_else(Timestamp::now);
            status_of(client, &name, &json!([ready(status, Some(since))])).await
        });
    }

    /// Kubelets tell that nothing has changed, each every five minutes, for this long.
    pub fn beat(&self, duration: Duration) {
        let count = u32::try_from(self.count).expect("fewer nodes than that");
        let (began, period) = (Instant::now(), BEAT_EVERY / count);
        for beat in 0.. {
            let due = period * beat;
            if due >= duration {
                break;
            }
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            let number = beat as usize % self.count;
            self.each(number..number + 1, |client, name, _| async move {
                let heartbeat =
                    json!([{ "type": "MemoryPressure", "lastHeartbeatTime": Timestamp::now() }]);
                status_of(client, &name, &heartbeat).await
            });
        }
        std::thread::sleep(duration.saturating_sub(began.elapsed()));
    }

    /// Does something about each of these nodes; all of it has to succeed.
    fn each<F, W>(&self, which: Range<usize>, work: F)
    where
        F: Fn(Client, String, String) -> W,
        W: Future<Output = kube::Result<()>> + Send + 'static,
    {
        let (permits, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        for number in which {
            let work = work(self.cluster.client(), self.node(number), self.name.clone());
            let permits = permits.clone();
            let bounded = async move {
                let _permit = permits.acquire_owned().await.expect("a permit");
                work.await
            };
            tasks.spawn_on(bounded, runtime::handle());
        }
        for done in self.cluster.block_on(tasks.join_all()) {
            done.unwrap_or_else(|error| panic!("nodes of {}: {error}", self.name));
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !self.cluster.is_serving() {
            return;
        }
        let api: Api<Node> = Api::all(self.cluster.client());
        let these = ListParams::default().labels(&format!("{FLEET}={}", self.name));
        let parameters = DeleteParams::default();
        let gone = api.delete_collection(&parameters, &these);
        if let Err(error) = self.cluster.try_request(gone) {
            eprintln!("delete the nodes of {}: {error}", self.name);
        }
    }
}

async fn status_of(client: Client, name: &str, conditions: &Value) -> kube::Result<()> {
    let patch = Patch::Strategic(json!({ "status": { "conditions": conditions } }));
    let api: Api<Node> = Api::all(client);
    api.patch_status(name, &PatchParams::default(), &patch).await.map(drop)
}

fn ready(status: &str, since: Option<Timestamp>) -> Value {
    let (reason, message) = match status {
        "True" => ("KubeletReady", "kubelet is posting ready status"),
        "False" => ("KubeletNotReady", "container runtime is down"),
        _ => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
    };
    condition("Ready", status, reason, message, since)
}

fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    at: Option<Timestamp>,
) -> Value {
    let at = at.unwrap_or_else(Timestamp::now);
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastHeartbeatTime": at, "lastTransitionTime": at,
    })
}

/// A node as a kubelet registers it: some 15 KiB, most of which is images.
fn node(name: &str, fleet: &str) -> Value {
    let zone = ["a", "b", "c"][name.bytes().map(usize::from).sum::<usize>() % 3];
    let room = json!({ "cpu": "64", "memory": "263842076Ki", "pods": "110", "ephemeral-storage": "460Gi" });
    let image = |number: usize| {
        let digest = format!("{number:064x}");
        json!({
            "names": [
                format!("registry.example.com/platform/component-{number}@sha256:{digest}"),
                format!("registry.example.com/platform/component-{number}:v1.{number}.0"),
            ],
            "sizeBytes": 120_000_000 + number,
        })
    };
    let pressure = |kind: &str, reason: &str| {
        condition(kind, "False", reason, "kubelet has sufficient resources available", None)
    };
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                FLEET: fleet,
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "node.kubernetes.io/instance-type": "metal.large",
                "topology.kubernetes.io/region": "region-1",
                "topology.kubernetes.io/zone": format!("region-1{zone}"),
                "node-role.kubernetes.io/worker": "",
            },
            "annotations": {
                "node.alpha.kubernetes.io/ttl": "0",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
                "csi.volume.kubernetes.io/nodeid": format!("{{\"csi.example.com\":\"{name}\"}}"),
                "projectcalico.org/IPv4Address": "10.0.0.1/16",
            },
        },
        "spec": { "podCIDR": "10.128.0.0/24", "providerID": format!("example:///{name}") },
        "status": {
            "capacity": room,
            "allocatable": room,
            "addresses": [
                { "type": "InternalIP", "address": "10.0.0.1" },
                { "type": "Hostname", "address": name },
            ],
            "conditions": [
                pressure("MemoryPressure", "KubeletHasSufficientMemory"),
                pressure("DiskPressure", "KubeletHasNoDiskPressure"),
                pressure("PIDPressure", "KubeletHasSufficientPID"),
                condition("ReadonlyFilesystem", "False", "FilesystemIsNotReadOnly", "Filesystem is not read-only", None),
                condition("DiskIOError", "False", "DiskHasNoIOErrors", "No disk gives I/O errors", None),
                condition("DiskStalled", "False", "DiskIsNotStalled", "I/O moves on every disk", None),
                ready("True", None),
            ],
            "images": (0..IMAGES).map(image).collect::<Vec<_>>(),
            "nodeInfo": {
                "machineID": name, "systemUUID": name, "bootID": name, "kernelVersion": "6.12.0", "osImage": "Debian 13",
                "containerRuntimeVersion": "containerd://2.1.4", "kubeletVersion": "v1.34.1", "kubeProxyVersion": "",
                "operatingSystem": "linux", "architecture": "amd64",
            },
        },
    })
}
