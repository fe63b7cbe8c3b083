//! Makes one write, on the condition of what it was decided from: thin.

mod failure;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        coordination::v1::{Lease as ApiLease, LeaseSpec},
        core::v1::{Namespace, Node as ApiNode},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
        Preconditions,
    },
};
use serde_json::{Value, json};
use tokio::time::timeout;

pub use self::failure::Failure;
use self::failure::words;
use super::{
    crd::{NodeHealthCheck, NodeHealthCheckStatus},
    decide::{Action, Creation, silence},
    names, objects,
    world::{Kind, RemediationKey},
};

/// 12 seconds for one write: webhooks of remediators may take 10, the API's default.
const WRITE: Duration = Duration::from_secs(12);
/// Field manager of every write.
pub const MANAGER: &str = "tocsin-remediation";

/// What a write has made of an object.
#[derive(Debug)]
pub enum Answer {
    /// A lease.
    Lease(Box<ApiLease>),
    /// A lease is gone.
    LeaseGone(String, String),
    /// A remediation object.
    Remediation(Kind, Box<DynamicObject>),
    /// A remediation object is gone.
    RemediationGone(RemediationKey, String),
    /// A node.
    Node(Box<objects::NodeObject>),
    /// A `NodeHealthCheck`.
    Check(Box<NodeHealthCheck>),
    /// The namespace of the leases.
    Namespace,
}

/// Makes writes for the `NodeHealthCheck` of a name.
#[derive(Clone)]
pub struct Writer {
    /// The client.
    pub client: Client,
    /// Namespace of the leases.
    pub lease_namespace: String,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("lease_namespace", &self.lease_namespace)
            .finish_non_exhaustive()
    }
}

/// What is known of a kind: its name in paths, and whether its objects are in namespaces.
#[must_use]
pub fn api_resource(kind: &Kind, resource: &str) -> Option<ApiResource> {
    let gvk: GroupVersionKind = super::watch::gvk(kind)?;
    let plural = resource.split('.').next().unwrap_or_default();
    Some(ApiResource::from_gvk_with_plural(&gvk, plural))
}

impl Writer {
    /// Makes the write that `action` is. `resource` is that of the action's remediation object.
    pub async fn write(
        &self,
        check: &str,
        action: Action,
        resource: Option<ApiResource>,
    ) -> Result<Answer, Failure> {
        let write = self.perform(check, action, resource);
        timeout(WRITE, write).await.unwrap_or_else(|_| {
            Err(Failure::NoAnswer(format!("no answer within {} s", WRITE.as_secs())))
        })
    }

    async fn perform(
        &self,
        check: &str,
        action: Action,
        resource: Option<ApiResource>,
    ) -> Result<Answer, Failure> {
        match action {
            Action::MakeLeaseNamespace => self.make_namespace().await,
            Action::AcquireLease { node, node_uid, duration, previous } => {
                self.acquire(check, &node, node_uid, duration, previous).await
            }
            Action::RenewLease { node, resource_version, duration } => {
                let change = Patch::Merge(json!({
                    "metadata": { "resourceVersion": resource_version },
                    "spec": {
                        "renewTime": MicroTime(Timestamp::now()),
                        "leaseDurationSeconds": duration.as_secs(),
                    },
                }));
                let renewed = self.leases().patch(&names::lease(&node), &patch(), &change).await?;
                Ok(Answer::Lease(Box::new(renewed)))
            }
            Action::ReleaseLease { node, uid, resource_version } => {
                let name = names::lease(&node);
                self.leases().delete(&name, &only(&uid, &resource_version)).await?;
                Ok(Answer::LeaseGone(name, uid))
            }
            Action::Create(creation) => {
                let api = self.objects(&creation.key, resource)?;
                let object = self.object(&creation).await?;
                let made = api.create(&post(), &object).await.map_err(|error| match error {
                    // Its namespace or its kind is gone: no watch tells when to try again.
                    kube::Error::Api(status) if status.code == 404 => {
                        Failure::Refused(words(&status))
                    }
                    error => error.into(),
                })?;
                Ok(Answer::Remediation(creation.key.kind, Box::new(made)))
            }
            Action::Annotate { key, resource_version, annotation, value, .. } => {
                let change = Patch::Merge(json!({
                    "metadata": { "resourceVersion": resource_version, "annotations": { annotation: value } },
                }));
                let made =
                    self.objects(&key, resource)?.patch(&key.name, &patch(), &change).await?;
                Ok(Answer::Remediation(key.kind, Box::new(made)))
            }
            Action::Delete { key, uid, resource_version, .. } => {
                self.delete(key, uid, &resource_version, resource).await
            }
            Action::RemoveConfirmation { node, resource_version } => {
                let change = Patch::Merge(json!({
                    "metadata": {
                        "resourceVersion": resource_version,
                        "annotations": { names::CONFIRMED_HEALTHY: Value::Null },
                    },
                }));
                let api = Api::<objects::NodeObject>::all(self.client.clone());
                Ok(Answer::Node(Box::new(api.patch(&node, &patch(), &change).await?)))
            }
        }
    }

    fn leases(&self) -> Api<ApiLease> {
        Api::namespaced(self.client.clone(), &self.lease_namespace)
    }

    fn objects(
        &self,
        key: &RemediationKey,
        resource: Option<ApiResource>,
    ) -> Result<Api<DynamicObject>, Failure> {
        let resource = resource.ok_or(Failure::Conflict)?;
        let client = self.client.clone();
        Ok(if key.namespace.is_empty() {
            Api::all_with(client, &resource)
        } else {
            Api::namespaced_with(client, &key.namespace, &resource)
        })
    }

    /// `previous`: version and transitions of the lease that is there.
    async fn acquire(
        &self,
        check: &str,
        node: &str,
        node_uid: String,
        duration: SignedDuration,
        previous: Option<(String, i32)>,
    ) -> Result<Answer, Failure> {
        let now = MicroTime(Timestamp::now());
        let (resource_version, transitions) = match previous {
            Some((version, transitions)) => (Some(version), transitions.saturating_add(1)),
            None => (None, 0),
        };
        let name = names::lease(node);
        let lease = ApiLease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                resource_version: resource_version.clone(),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".to_owned(),
                    kind: "Node".to_owned(),
                    name: node.to_owned(),
                    uid: node_uid,
                    ..OwnerReference::default()
                }]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(names::holder(check)),
                lease_duration_seconds: i32::try_from(duration.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        };
        let made = match resource_version {
            None => self.leases().create(&post(), &lease).await?,
            Some(_) => self.leases().replace(&name, &post(), &lease).await?,
        };
        Ok(Answer::Lease(Box::new(made)))
    }

    async fn delete(
        &self,
        key: RemediationKey,
        uid: String,
        resource_version: &str,
        resource: Option<ApiResource>,
    ) -> Result<Answer, Failure> {
        let api = self.objects(&key, resource)?;
        let gone = api.delete(&key.name, &only(&uid, resource_version)).await?;
        // An object with a finalizer is there until its remediator is done.
        let left = gone.left().filter(|object| {
            object.metadata.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
        });
        Ok(match left {
            Some(object) => Answer::Remediation(key.kind, Box::new(object)),
            None => Answer::RemediationGone(key, uid),
        })
    }

    /// Makes the namespace of the leases, if it is not there.
    pub async fn make_namespace(&self) -> Result<Answer, Failure> {
        let namespace = Namespace {
            metadata: ObjectMeta {
                name: Some(self.lease_namespace.clone()),
                ..ObjectMeta::default()
            },
            ..Namespace::default()
        };
        let api = Api::<Namespace>::all(self.client.clone());
        match api.create(&PostParams::default(), &namespace).await {
            Ok(_) => Ok(Answer::Namespace),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                Ok(Answer::Namespace)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The object to make, with its second owner.
    async fn object(&self, creation: &Creation) -> Result<DynamicObject, Failure> {
        let mut object: DynamicObject = serde_json::from_value(creation.object.clone())
            .map_err(|error| Failure::Refused(format!("the template makes no object: {error}")))?;
        if let Some((namespace, name)) = &creation.machine {
            let gvk = GroupVersionKind::gvk("machine.openshift.io", "v1beta1", "Machine");
            let resource = ApiResource::from_gvk_with_plural(&gvk, "machines");
            let api =
                Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
            let machine = api.get(name).await.map_err(|error| match error {
                kube::Error::Api(status) => Failure::Refused(format!(
                    "the node's machine {namespace}/{name}: {}",
                    words(&status)
                )),
                error => error.into(),
            })?;
            object.metadata.owner_references.get_or_insert_default().push(OwnerReference {
                api_version: "machine.openshift.io/v1beta1".to_owned(),
                kind: "Machine".to_owned(),
                name: name.clone(),
                uid: machine.metadata.uid.unwrap_or_default(),
                controller: Some(false),
                ..OwnerReference::default()
            });
        }
        Ok(object)
    }

    /// Writes the status of `check`, on the condition that nothing changed since it was decided on.
    pub async fn status(
        &self,
        check: &NodeHealthCheck,
        status: &NodeHealthCheckStatus,
    ) -> Result<Answer, Failure> {
        let name = check.metadata.name.clone().unwrap_or_default();
        let change = status_patch(check, status);
        let patch = patch();
        let api = Api::<NodeHealthCheck>::all(self.client.clone());
        let change = Patch::Merge(change);
        let write = api.patch_status(&name, &patch, &change);
        match timeout(WRITE, write).await {
            Ok(written) => Ok(Answer::Check(Box::new(written?))),
            Err(_) => Err(Failure::NoAnswer(format!("no answer within {} s", WRITE.as_secs()))),
        }
    }

    /// Sets conditions of a node to Unknown, on the condition that it is as it was.
    pub async fn silence(&self, silent: &silence::Silent) -> Result<Answer, Failure> {
        let now = super::decide::whole_seconds(Timestamp::now());
        let conditions: Vec<_> = silent
            .conditions
            .iter()
            .map(|(kind, message)| {
                json!({
                    "type": kind, "status": "Unknown", "reason": silence::SILENT, "message": message,
                    "lastTransitionTime": now,
                })
            })
            .collect();
        let change = json!({
            "metadata": { "resourceVersion": silent.resource_version },
            "status": { "conditions": conditions },
        });
        let patch = patch();
        let api = Api::<ApiNode>::all(self.client.clone());
        let change = Patch::Strategic(change);
        let write = api.patch_status(&silent.node, &patch, &change);
        let node = timeout(WRITE, write)
            .await
            .map_err(|_| Failure::NoAnswer("no answer".to_owned()))??;
        let node = serde_json::to_value(node).and_then(serde_json::from_value);
        let node = node.map_err(|error| Failure::NoAnswer(error.to_string()))?;
        Ok(Answer::Node(node))
    }
}

fn patch() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn only(uid: &str, resource_version: &str) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: Some(resource_version.to_owned()),
        }),
        ..DeleteParams::default()
    }
}

/// The merge patch from the status of `check` to `status`: what is not there any more is null.
fn status_patch(check: &NodeHealthCheck, status: &NodeHealthCheckStatus) -> Value {
    let value = |status: &NodeHealthCheckStatus| serde_json::to_value(status).unwrap_or_default();
    let mut new = value(status);
    let old = check.status.as_ref().map(value).unwrap_or_default();
    for key in old.as_object().into_iter().flat_map(|old| old.keys()) {
        if new.get(key).is_none() {
            new[key] = Value::Null;
        }
    }
    json!({
        "metadata": { "resourceVersion": check.metadata.resource_version, "uid": check.metadata.uid },
        "status": new,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_the_status_is_null_in_its_patch() {
        let check: NodeHealthCheck = serde_json::from_value(json!({
            "apiVersion": names::API_VERSION, "kind": names::KIND,
            "metadata": { "name": "nhc", "resourceVersion": "7", "uid": "u" }, "spec": {},
            "status": { "phase": "Enabled", "unhealthyNodes": [{ "name": "n" }] },
        }))
        .unwrap();
        let status =
            NodeHealthCheckStatus { phase: Some("Paused".to_owned()), ..Default::default() };
        assert_eq!(
            status_patch(&check, &status),
            json!({
                "metadata": { "resourceVersion": "7", "uid": "u" },
                "status": { "phase": "Paused", "unhealthyNodes": null },
            })
        );
    }
}
