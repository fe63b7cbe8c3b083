//! The API's objects -> what is kept of them.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, DeploymentCondition, StatefulSet},
        core::v1::{self as core, ContainerStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{ObjectMeta, OwnerReference, Time},
        util::intstr::IntOrString,
    },
};

use super::{
    model::{Amount, Condition, Details, Pod, PodState, Uid, Warning, Workload},
    verdict::{DEPLOYMENT_SURGE, DEPLOYMENT_UNAVAILABLE, SET_UNAVAILABLE},
};

/// The label of a pod that says of which revision of its `StatefulSet` it is.
const REVISION: &str = "controller-revision-hash";

/// 200 characters of a warning's message: a line of a status page.
const MESSAGE: usize = 200;

/// What is kept of a Deployment.
#[must_use]
pub fn deployment(object: Deployment) -> Option<Workload> {
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let strategy = spec.strategy.unwrap_or_default();
    let rolling = strategy.rolling_update.unwrap_or_default();
    let rolling = (strategy.type_.as_deref() != Some("Recreate")).then(|| {
        let unavailable = rolling.max_unavailable.map_or(DEPLOYMENT_UNAVAILABLE, amount);
        (unavailable, rolling.max_surge.map_or(DEPLOYMENT_SURGE, amount))
    });
    let conditions = status.conditions.unwrap_or_default();
    let find =
        |kind: &str| conditions.iter().find(|condition| condition.type_ == kind).map(condition);
    workload(
        object.metadata,
        status.observed_generation,
        spec.replicas.unwrap_or(1),
        Details::Deployment {
            rolling,
            available: find("Available"),
            progressing: find("Progressing"),
        },
    )
}

/// What is kept of a `StatefulSet`.
#[must_use]
pub fn stateful_set(object: StatefulSet) -> Option<Workload> {
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let strategy = spec.update_strategy.unwrap_or_default();
    let rolling = strategy.rolling_update.unwrap_or_default();
    let max_unavailable = set_unavailable(strategy.type_.as_deref(), rolling.max_unavailable);
    workload(
        object.metadata,
        status.observed_generation,
        spec.replicas.unwrap_or(1),
        Details::StatefulSet {
            max_unavailable,
            partition: rolling.partition.unwrap_or_default().into(),
            first_ordinal: spec
                .ordinals
                .and_then(|ordinals| ordinals.start)
                .unwrap_or_default()
                .into(),
            update_revision: status.update_revision.unwrap_or_default().into(),
        },
    )
}

/// What is kept of a `DaemonSet`.
#[must_use]
pub fn daemon_set(object: DaemonSet) -> Option<Workload> {
    let spec = object.spec.unwrap_or_default();
    let status = object.status.unwrap_or_default();
    let strategy = spec.update_strategy.unwrap_or_default();
    let rolling = strategy.rolling_update.unwrap_or_default();
    let max_unavailable = set_unavailable(strategy.type_.as_deref(), rolling.max_unavailable);
    workload(
        object.metadata,
        status.observed_generation,
        status.desired_number_scheduled,
        Details::DaemonSet { max_unavailable },
    )
}

/// How many pods of a set its updates may take away at once; `None` where it is updated by hand.
fn set_unavailable(strategy: Option<&str>, max_unavailable: Option<IntOrString>) -> Option<Amount> {
    (strategy != Some("OnDelete")).then(|| max_unavailable.map_or(SET_UNAVAILABLE, amount))
}

fn workload(
    metadata: ObjectMeta,
    observed_generation: Option<i64>,
    desired: i32,
    details: Details,
) -> Option<Workload> {
    let labels = metadata.labels.unwrap_or_default();
    Some(Workload {
        namespace: metadata.namespace?.into(),
        name: metadata.name?.into(),
        uid: Uid::from(&*metadata.uid?),
        labels: labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect(),
        created: metadata.creation_timestamp.as_ref().map(time),
        is_being_deleted: metadata.deletion_timestamp.is_some(),
        generation: metadata.generation.unwrap_or_default(),
        observed_generation: observed_generation.unwrap_or_default(),
        desired: desired.into(),
        details,
    })
}

/// A `ReplicaSet`'s own uid, and that of its Deployment.
#[must_use]
pub fn replica_set(metadata: &ObjectMeta) -> Option<(Uid, Uid)> {
    Some((Uid::from(metadata.uid.as_deref()?), controller(metadata)?))
}

/// What is kept of a pod: its uid, and the rest where it has a controller.
#[must_use]
pub fn pod(object: core::Pod) -> Option<(Uid, Option<Pod>)> {
    let uid = Uid::from(object.metadata.uid.as_deref()?);
    let Some(owner) = controller(&object.metadata) else { return Some((uid, None)) };
    let status = object.status.unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    let state = if object.metadata.deletion_timestamp.is_some() {
        PodState::Terminating
    } else if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        PodState::Finished
    } else if ready.is_some_and(|ready| ready.status == "True") {
        PodState::Ready
    } else {
        PodState::NotReady
    };
    let since = ready.and_then(|ready| ready.last_transition_time.as_ref()).map(time);
    let reason = (state == PodState::NotReady).then(|| waiting(&status)).flatten();
    let is_of_a_set = object.metadata.owner_references.iter().flatten();
    let is_of_a_set =
        is_of_a_set.into_iter().any(|owner| is_controller(owner) && owner.kind == "StatefulSet");
    let mut labels = object.metadata.labels.unwrap_or_default();
    Some((
        uid,
        Some(Pod {
            name: object.metadata.name?.into(),
            owner,
            state,
            since,
            reason,
            revision: labels.remove(REVISION).filter(|_| is_of_a_set).map(Into::into),
        }),
    ))
}

/// Why a pod is not ready, in one word: of a container that waits or has ended, else of a condition such as
/// `Unschedulable`.
fn waiting(status: &core::PodStatus) -> Option<Box<str>> {
    let of = |container: &ContainerStatus| {
        let state = container.state.as_ref()?;
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        waiting.or_else(|| state.terminated.as_ref().and_then(|ended| ended.reason.clone()))
    };
    let containers =
        status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    // A container that ended well is no reason, and one that is being created is one only for lack of another.
    let mut reasons: Vec<String> =
        containers.filter_map(of).filter(|reason| reason != "Completed").collect();
    reasons.sort_by_key(|reason| matches!(&**reason, "ContainerCreating" | "PodInitializing"));
    let first = reasons.into_iter().next();
    let of_condition = || {
        let mut conditions = status.conditions.iter().flatten();
        let unscheduled = conditions.find(|c| c.type_ == "PodScheduled" && c.status != "True")?;
        unscheduled.reason.clone()
    };
    first.or_else(of_condition).or_else(|| status.reason.clone()).map(Into::into)
}

/// What is kept of a Warning event about a pod: the pod's uid and the warning.
#[must_use]
pub fn warning(event: core::Event) -> Option<(Uid, Warning)> {
    let pod = Uid::from(event.involved_object.uid.as_deref()?);
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let last = series
        .map(|time| time.0)
        .or_else(|| event.last_timestamp.as_ref().map(time))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| event.metadata.creation_timestamp.as_ref().map(time))?;
    let message = event.message.unwrap_or_default();
    let message: String =
        message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MESSAGE).collect();
    Some((
        pod,
        Warning { reason: event.reason.unwrap_or_default().into(), message: message.into(), last },
    ))
}

fn condition(condition: &DeploymentCondition) -> Condition {
    Condition {
        is_true: condition.status == "True",
        reason: condition.reason.clone().unwrap_or_default().into(),
        since: condition.last_transition_time.as_ref().map(time),
    }
}

fn amount(value: IntOrString) -> Amount {
    match value {
        IntOrString::Int(count) => Amount::Count(count.into()),
        // The API server lets nothing else through than `<number>%`.
        IntOrString::String(text) => {
            Amount::Percent(text.trim_end_matches('%').parse().unwrap_or_default())
        }
    }
}

fn time(time: &Time) -> Timestamp {
    time.0
}

fn is_controller(owner: &OwnerReference) -> bool {
    owner.controller == Some(true)
}

/// The uid of the object that controls this one.
fn controller(metadata: &ObjectMeta) -> Option<Uid> {
    let owners = metadata.owner_references.as_ref()?;
    owners.iter().find(|owner| is_controller(owner)).map(|owner| Uid::from(&*owner.uid))
}
