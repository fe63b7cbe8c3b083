//! `tocsin-controller remediation`, started for one test, and the objects that it works on.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{
    Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
};
use serde_json::{Value, json};

use crate::{
    cluster::ControlPlane,
    http::{Connection, Response},
    process::{self, PAUSE, Process, TIMEOUT},
};

/// A running remediation controller; killed on drop.
pub struct Remediation {
    process: Process,
    admin: SocketAddr,
    webhook: Option<SocketAddr>,
}

/// The path of the program.
fn program() -> Command {
    let mut command = Command::new(process::binary("tocsin-controller", "TOCSIN_CONTROLLER_BIN"));
    process::clear_environment(&mut command);
    command
}

impl Remediation {
    /// Starts one with this namespace for its own objects, and waits until it follows the cluster.
    pub fn start(kubeconfig: &Path, namespace: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = program();
        command
            .arg("remediation")
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAMESPACE", namespace)
            .env("LEASE_NAMESPACE", format!("{namespace}-leases"))
            .env("WEBHOOK_ADDR", "127.0.0.1")
            .env("WEBHOOK_PORT", "0")
            .env("ADMIN_ADDR", "127.0.0.1")
            .env("ADMIN_PORT", "0")
            .env("LOG_FORMAT", "json");
        change(&mut command);
        let mut process = Process::start(command);
        let listening = process.wait_listening().unwrap_or_else(|exited| {
            panic!("it ended ({}); its log:\n{}", exited.status, exited.log.join("\n"))
        });
        let address = |key: &str| listening[key].as_str().and_then(|text| text.parse().ok());
        let admin = address("admin").expect("an admin address");
        let started = Self { process, admin, webhook: address("webhook") };
        started.wait("ready", TIMEOUT, || (started.get("/readyz").status == 200).then_some(()));
        started
    }

    /// Waits until something is there.
    pub fn wait<T>(&self, what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + within;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "not in time: {what}\n{}",
                self.process.log().join("\n")
            );
            thread::sleep(PAUSE * 10);
        }
    }

    /// A request to the admin listener.
    pub fn get(&self, path: &str) -> Response {
        let answer = Connection::open(self.admin).and_then(|mut admin| admin.get(path));
        answer.expect("an answer of the admin listener")
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Where the webhook listens.
    pub fn webhook(&self) -> SocketAddr {
        self.webhook.expect("it has a webhook")
    }

    /// Waits until it has ended.
    pub fn wait_exit(&mut self) -> std::process::ExitStatus {
        self.process.wait_exit()
    }
}

/// What `tocsin-controller` prints with these arguments; it has to succeed.
pub fn controller_prints(kubeconfig: &Path, namespace: &str, arguments: &[&str]) -> String {
    let mut command = program();
    command.args(arguments).env("KUBECONFIG", kubeconfig);
    command.env("LEASE_NAMESPACE", format!("{namespace}-leases")).stdin(Stdio::null());
    let output = command.output().expect("run the controller");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A remediator that a test plays: its kinds, a template, and what it writes into its objects.
#[derive(Clone)]
pub struct Remediator {
    cluster: ControlPlane,
    namespace: String,
    kind: String,
}

/// The API group of every played remediator.
const GROUP: &str = "remediators.tocsin.test";

impl Remediator {
    /// Defines the kinds `KIND` and `KINDTemplate`, and makes a template of the kind's name in the namespace.
    pub fn new(cluster: &ControlPlane, namespace: &str, kind: &str) -> Self {
        cluster.namespace(namespace);
        for kind in [kind.to_owned(), format!("{kind}Template")] {
            define(cluster, &kind);
        }
        let remediator = Self {
            cluster: cluster.clone(),
            namespace: namespace.to_owned(),
            kind: kind.to_owned(),
        };
        remediator.template("a", &[]);
        remediator
    }

    /// Makes a template with these annotations.
    pub fn template(&self, name: &str, annotations: &[&str]) {
        let annotations: serde_json::Map<_, _> =
            annotations.iter().map(|key| ((*key).to_owned(), json!("true"))).collect();
        self.cluster.apply(&json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": format!("{}Template", self.kind),
            "metadata": { "name": name, "namespace": self.namespace, "annotations": annotations },
            "spec": { "template": { "spec": { "how": name } } },
        }));
    }

    /// A reference to a template, for a `NodeHealthCheck`.
    pub fn reference(&self, name: &str) -> Value {
        json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": format!("{}Template", self.kind),
            "namespace": self.namespace,
            "name": name,
        })
    }

    fn api(&self) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk(GROUP, "v1", &self.kind);
        let plural = format!("{}s", self.kind.to_lowercase());
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
        Api::namespaced_with(self.cluster.client(), &self.namespace, &resource)
    }

    /// Its objects, by name.
    pub fn objects(&self) -> Vec<DynamicObject> {
        let mut list =
            self.cluster.request("list objects", self.api().list(&ListParams::default())).items;
        list.sort_by_key(|object| object.metadata.name.clone());
        list
    }

    /// Names of its objects.
    pub fn names(&self) -> Vec<String> {
        self.objects().into_iter().filter_map(|object| object.metadata.name).collect()
    }

    /// Changes an object, its status included, as the remediator would.
    pub fn change(&self, name: &str, change: &Value) {
        let parameters = PatchParams::default();
        let patch = Patch::Merge(change);
        let api = self.api();
        let patched = api.patch(name, &parameters, &patch);
        self.cluster.request("patch an object", patched);
    }

    /// The lease of a node, if there is one.
    pub fn lease(&self, namespace: &str, node: &str) -> Option<Lease> {
        let api: Api<Lease> =
            Api::namespaced(self.cluster.client(), &format!("{namespace}-leases"));
        self.cluster.request("get a lease", api.get_opt(&format!("node-{node}")))
    }
}

fn define(cluster: &ControlPlane, kind: &str) {
    let plural = format!("{}s", kind.to_lowercase());
    let any = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let name = format!("{plural}.{GROUP}");
    cluster.apply(&json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": name },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": any },
            }],
        },
    }));
    established(cluster, &name);
}

/// Applies the definition of `NodeHealthCheck`, as the controller prints it.
pub fn define_node_health_check(cluster: &ControlPlane) {
    let kubeconfig = cluster.kubeconfig("admin");
    let yaml = controller_prints(&kubeconfig, "default", &["crds"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), yaml).expect("write a file");
    let path = file.path().display().to_string();
    cluster.kubectl_ok(&["apply", "--server-side", "--force-conflicts", "--filename", &path]);
    established(cluster, "nodehealthchecks.remediation.medik8s.io");
}

fn established(cluster: &ControlPlane, name: &str) {
    let resource = format!("crd/{name}");
    cluster.kubectl_ok(&["wait", "--for=condition=Established", "--timeout=30s", &resource]);
}

/// A `NodeHealthCheck` for the nodes whose label `label` has its name as value, with these fields of the spec beside.
pub fn new_node_health_check(name: &str, label: &str, fields: &Value) -> Value {
    let mut spec = json!({ "selector": { "matchLabels": { label: name } } });
    for (key, value) in fields.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1",
        "kind": "NodeHealthCheck",
        "metadata": { "name": name },
        "spec": spec,
    })
}

/// The `NodeHealthCheck` of this name as it is now.
pub fn node_health_check(cluster: &ControlPlane, name: &str) -> Value {
    let text = cluster.kubectl_ok(&["get", "nhc", name, "--output=json"]);
    serde_json::from_str(&text).expect("JSON")
}
