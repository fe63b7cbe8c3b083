//! Workloads in a real API server without controllers: a test writes what a controller would, status and pods included.

use serde_json::{Value, json};

use crate::ControlPlane;

/// A namespace whose Deployments, sets and pods a test plays.
pub struct Workloads {
    cluster: ControlPlane,
    namespace: String,
}

/// A pod of a workload, and how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodIs {
    /// The condition `Ready` is `True`.
    Ready,
    /// It is `False`.
    NotReady,
    /// Its phase is `Failed`, with the reason `Evicted`.
    Evicted,
    /// Its phase is `Succeeded`.
    Completed,
}

/// An owner reference to an object that is its controller.
fn owned_by(owner: &Value) -> Value {
    json!([{
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "controller": true
    }])
}

impl Workloads {
    /// Makes the namespace.
    pub fn new(cluster: &ControlPlane, namespace: &str) -> Self {
        cluster.namespace(namespace);
        Self { cluster: cluster.clone(), namespace: namespace.to_owned() }
    }

    /// Its name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Creates or changes an object, and gives it as the server has it.
    pub fn apply(&self, mut object: Value) -> Value {
        object["metadata"]["namespace"] = json!(self.namespace);
        self.cluster.apply(&object);
        self.get(
            &object["kind"].as_str().expect("a kind").to_lowercase(),
            object["metadata"]["name"].as_str().expect("a name"),
        )
    }

    /// An object as the server has it.
    pub fn get(&self, kind: &str, name: &str) -> Value {
        let text = self.cluster.kubectl_ok(&[
            "get",
            kind,
            name,
            "--namespace",
            &self.namespace,
            "--output=json",
        ]);
        serde_json::from_str(&text).expect("an object")
    }

    /// Changes an object's status.
    pub fn set_status(&self, kind: &str, name: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        let arguments = [
            "patch",
            kind,
            name,
            "--namespace",
            &self.namespace,
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ];
        self.cluster.kubectl_ok(&arguments);
    }

    /// Changes an object.
    pub fn patch(&self, kind: &str, name: &str, patch: &Value) {
        let patch = patch.to_string();
        self.cluster.kubectl_ok(&[
            "patch",
            kind,
            name,
            "--namespace",
            &self.namespace,
            "--type=merge",
            "--patch",
            &patch,
        ]);
    }

    /// Deletes an object at once.
    pub fn delete(&self, kind: &str, name: &str) {
        let arguments = [
            "delete",
            kind,
            name,
            "--namespace",
            &self.namespace,
            "--grace-period=0",
            "--force",
            "--ignore-not-found",
        ];
        self.cluster.kubectl_ok(&arguments);
    }

    /// A Deployment whose controller says that it is available, with one `ReplicaSet` of the same name and `-1`.
    pub fn deployment(&self, name: &str, replicas: i64, max_unavailable: i64) -> Value {
        let deployment = self.apply(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "labels": { "app": name } },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": name } },
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": max_unavailable, "maxSurge": 1 } },
                "template": template(name)
            }
        }));
        self.available(name, true);
        self.replica_set(&deployment, &format!("{name}-1"));
        deployment
    }

    /// A `ReplicaSet` of a Deployment.
    pub fn replica_set(&self, deployment: &Value, name: &str) -> Value {
        let app = deployment["metadata"]["name"].as_str().expect("a name");
        self.apply(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": name, "labels": { "app": app }, "ownerReferences": owned_by(deployment) },
            "spec": { "replicas": 1, "selector": { "matchLabels": { "app": app } }, "template": template(app) }
        }))
    }

    /// What the Deployment's controller says of it, about its current spec.
    pub fn available(&self, name: &str, is_available: bool) {
        let (status, reason) = if is_available {
            ("True", "MinimumReplicasAvailable")
        } else {
            ("False", "MinimumReplicasUnavailable")
        };
        self.conditions(name, json!([{ "type": "Available", "status": status, "reason": reason }]));
    }

    /// The conditions of a Deployment, about its current spec.
    pub fn conditions(&self, name: &str, conditions: Value) {
        let generation = self.get("deployment", name)["metadata"]["generation"].clone();
        let mut status = json!({ "observedGeneration": generation });
        status["conditions"] = conditions;
        self.set_status("deployment", name, &status);
    }

    /// A pod of a `ReplicaSet`, `StatefulSet` or `DaemonSet`.
    pub fn pod(&self, owner: &Value, name: &str, is: PodIs) {
        let app = owner["metadata"]["labels"]["app"].as_str().unwrap_or("app");
        let mut pod = template(app);
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["ownerReferences"] = owned_by(owner);
        self.apply(pod);
        self.pod_is(name, is);
    }

    /// Changes how a pod is.
    pub fn pod_is(&self, name: &str, is: PodIs) {
        let ready = |status: &str| json!([{ "type": "Ready", "status": status }]);
        let status = match is {
            PodIs::Ready => json!({ "phase": "Running", "conditions": ready("True") }),
            PodIs::NotReady => json!({ "phase": "Running", "conditions": ready("False") }),
            PodIs::Evicted => {
                json!({ "phase": "Failed", "reason": "Evicted", "conditions": ready("False") })
            }
            PodIs::Completed => json!({ "phase": "Succeeded", "conditions": ready("False") }),
        };
        self.set_status("pod", name, &status);
    }

    /// Begins to delete a pod that a finalizer keeps: it is `Terminating`.
    pub fn terminate(&self, name: &str) {
        self.patch("pod", name, &json!({ "metadata": { "finalizers": ["tocsin.dev/test"] } }));
        self.cluster.kubectl_ok(&[
            "delete",
            "pod",
            name,
            "--namespace",
            &self.namespace,
            "--wait=false",
        ]);
    }

    /// A Warning event about a pod, of now.
    pub fn warn(&self, pod: &str, reason: &str, message: &str) {
        let uid = self.get("pod", pod)["metadata"]["uid"].clone();
        let now = k8s_openapi::jiff::Timestamp::now();
        self.apply(json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": { "name": format!("{pod}.{}", reason.to_lowercase()) },
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": self.namespace, "name": pod, "uid": uid },
            "type": "Warning", "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "lastTimestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "source": { "component": "kubelet" }
        }));
    }
}

/// A pod's template.
fn template(app: &str) -> Value {
    json!({
        "metadata": { "labels": { "app": app } },
        "spec": { "containers": [{ "name": "c", "image": "example.org/none" }] }
    })
}
