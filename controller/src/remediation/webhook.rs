//! The validating webhook: reads a question of the API server, has [`admission`](super::admission) decide, answers.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{Method, Request, StatusCode, body::Incoming};
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    discovery::pinned_kind,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tocsin_runtime::http::{JSON, Reply, error, not_allowed, read_body, reply};
use tokio::time::timeout;

use super::{
    admission::{self, Cluster},
    crd::NodeHealthCheck,
    metrics::RemediationMetrics,
    names, openshift, watch,
    world::Kind,
};

/// Where the API server asks: the reference's path.
pub const PATH: &str = "/validate-remediation-medik8s-io-v1alpha1-nodehealthcheck";
/// 8 MiB for a question: it has the object twice, and etcd takes one of up to 1.5 MiB.
const BODY: usize = 8 << 20;
/// 5 seconds for a question to arrive, and for what the cluster is asked: the API server waits for 10.
const WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
struct Review {
    request: Question,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Question {
    uid: String,
    operation: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

/// The webhook.
#[derive(Clone)]
pub struct Webhook {
    /// For what the rules ask about the cluster.
    pub client: Client,
    /// Whether this is `OpenShift`: elsewhere nothing is asked of it.
    pub is_openshift: Arc<AtomicBool>,
    /// Takes counts.
    pub metrics: RemediationMetrics,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}

impl Webhook {
    /// Answers a request.
    pub async fn handle(&self, request: Request<Incoming>) -> Reply {
        if request.uri().path() != PATH {
            return error(StatusCode::NOT_FOUND, "not found");
        }
        if *request.method() != Method::POST {
            return not_allowed("POST");
        }
        let body = match read_body(request, BODY, WITHIN).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let review: Review = match serde_json::from_slice(&body) {
            Ok(review) => review,
            Err(why) => {
                self.metrics.admitted("error");
                return error(StatusCode::BAD_REQUEST, &format!("not an AdmissionReview: {why}"));
            }
        };
        let uid = review.request.uid.clone();
        let verdict = self.judge(review.request).await;
        self.metrics.admitted(if verdict.is_ok() { "allowed" } else { "denied" });
        reply(StatusCode::OK, JSON, answer(&uid, verdict).to_string())
    }

    async fn judge(&self, question: Question) -> Result<(), String> {
        let Question { operation, object, old_object, .. } = question;
        match operation.as_str() {
            "CREATE" => {
                let new = read(object)?;
                admission::allow(&new, None, &self.cluster(&new).await?)
            }
            "UPDATE" => {
                let (new, old) = (read(object)?, read(old_object)?);
                admission::allow(&new, Some(&old), &self.cluster(&new).await?)
            }
            "DELETE" => admission::allow_deletion(&read(old_object)?),
            _ => Ok(()),
        }
    }

    /// What the rules ask about the cluster; most objects have it ask nothing but one thing on `OpenShift`.
    async fn cluster(&self, check: &NodeHealthCheck) -> Result<Cluster, String> {
        let ask = async {
            let mut multiple = BTreeSet::new();
            for (api_version, kind) in admission::repeated_kinds(&check.spec) {
                let kind = Kind { api_version, kind };
                if self.supports_multiple(&kind).await {
                    multiple.insert(kind.kind);
                }
            }
            let topology = if self.is_openshift.load(Relaxed) {
                openshift::topology(&self.client).await
            } else {
                None
            };
            Cluster { multiple, topology }
        };
        timeout(WITHIN, ask).await.map_err(|_| "the cluster could not be asked in time".to_owned())
    }

    /// Whether there are templates of this kind, and all of them say that several may be used for one node.
    async fn supports_multiple(&self, kind: &Kind) -> bool {
        let Some(gvk) = watch::gvk(kind) else { return false };
        let Ok((resource, _)) = pinned_kind(&self.client, &gvk).await else { return false };
        let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
        let Ok(list) = api.list_metadata(&ListParams::default()).await else { return false };
        let marked = |annotations: &Option<std::collections::BTreeMap<String, String>>| {
            annotations.as_ref().is_some_and(|all| all.contains_key(names::MULTIPLE_TEMPLATES))
        };
        !list.items.is_empty()
            && list.items.iter().all(|template| marked(&template.metadata.annotations))
    }
}

fn read(object: Value) -> Result<NodeHealthCheck, String> {
    serde_json::from_value(object).map_err(|why| format!("the object cannot be read: {why}"))
}

/// The answer, as controller-runtime gives it: the API server makes `denied the request: <message>` of it.
fn answer(uid: &str, verdict: Result<(), String>) -> Value {
    let mut response = json!({ "uid": uid, "allowed": verdict.is_ok() });
    if let Err(message) = verdict {
        response["status"] = json!({
            "status": "Failure", "message": message, "reason": "Forbidden", "code": 403, "metadata": {},
        });
    }
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response })
}
