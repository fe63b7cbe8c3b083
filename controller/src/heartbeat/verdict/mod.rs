//! Is a workload up? PURE: objects and a clock reading in, a verdict out.
//!
//! A workload is up while enough of its own pods are ready and its controller says nothing else. "Own" are the pods
//! whose chain of owner references leads to it; pods that are terminating or finished count for nothing. "Enough" is
//! what `maxUnavailable` leaves of the desired number, as Kubernetes rounds it, and one at least: nothing that runs
//! nowhere is up.

use std::time::Duration;

use jiff::Timestamp;

use super::model::{Amount, Condition, Details, Pod, PodState, Warning, Workload};

/// 10 seconds for a controller to see a change of the spec, which takes it milliseconds: until then the pods alone are
/// judged, after that its status is about something that no longer is.
pub const STATUS_GRACE: Duration = Duration::from_secs(10);

/// Texts of one kind that an answer has, at most: a workload of a thousand pods has a thousand reasons, all alike.
pub const TEXTS: usize = 5;

/// Whether a workload is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It serves.
    Up,
    /// It does not.
    Down,
}

/// A verdict, and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is up.
    pub status: Status,
    /// Why it is down, one line each; empty where it is up.
    pub reasons: Vec<String>,
    /// What is wrong without taking it down, one line each.
    pub degraded: Vec<String>,
    /// The pods.
    pub pods: Count,
    /// Since when the verdict is this one, as far as the objects tell.
    pub since: Option<Timestamp>,
}

/// Numbers of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// As many as there should be.
    pub desired: i64,
    /// As many as have to be ready.
    pub required: i64,
    /// As many as are ready.
    pub ready: i64,
}

/// What a verdict is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// Its own pods.
    pub pods: &'a [&'a Pod],
    /// Warnings about these pods.
    pub warnings: &'a [&'a Warning],
    /// How long the status has been about an older spec, as far as this process has seen.
    pub behind_for: Duration,
    /// Warnings older than this do not count.
    pub event_window: Duration,
    /// The wall clock.
    pub now: Timestamp,
}

/// Judges a workload.
#[must_use]
pub fn judge(facts: &Facts<'_>) -> Verdict {
    let workload = facts.workload;
    let live: Vec<&Pod> = facts.pods.iter().copied().filter(|pod| counts(workload, pod)).collect();
    let ready = live.iter().filter(|pod| pod.state == PodState::Ready).count();
    let pods = Count {
        desired: workload.desired,
        required: required(workload),
        ready: i64::try_from(ready).unwrap_or(i64::MAX),
    };
    let (mut reasons, mut degraded) = (Vec::new(), Vec::new());
    if workload.is_being_deleted {
        reasons.push("it is being deleted".to_owned());
    }
    if workload.desired == 0 {
        reasons.push(nothing_desired(&workload.details).to_owned());
    } else if pods.ready < pods.required {
        reasons.push(format!(
            "{} of {} pods are ready, {} are needed",
            pods.ready, pods.desired, pods.required
        ));
        reasons.extend(why_not_ready(&live));
    } else if pods.ready < pods.desired {
        degraded.push(format!("{} of {} pods are ready", pods.ready, pods.desired));
        degraded.extend(why_not_ready(&live));
    }
    status_of_the_controller(facts, &mut reasons, &mut degraded);
    degraded.extend(rollout(workload, &live));
    degraded.extend(warnings(facts));
    let status = if reasons.is_empty() { Status::Up } else { Status::Down };
    let since = since(workload, &live, pods, status);
    Verdict { status, reasons, degraded, pods, since }
}

/// Whether a pod can serve for the workload, ready or not.
fn counts(workload: &Workload, pod: &Pod) -> bool {
    if matches!(pod.state, PodState::Terminating | PodState::Finished) {
        return false;
    }
    match workload.details {
        // A pod beyond the ordinals is about to be removed.
        Details::StatefulSet { first_ordinal, .. } => ordinal(pod).is_none_or(|ordinal| {
            (first_ordinal..first_ordinal + workload.desired).contains(&ordinal)
        }),
        _ => true,
    }
}

/// A `StatefulSet`'s pod's number, which is the end of its name.
fn ordinal(pod: &Pod) -> Option<i64> {
    pod.name.rsplit_once('-')?.1.parse().ok()
}

/// How many pods have to be ready.
#[must_use]
pub fn required(workload: &Workload) -> i64 {
    let desired = workload.desired;
    let unavailable = match &workload.details {
        // `Recreate` allows none (`deploymentutil.MaxUnavailable`, kubernetes v1.36).
        Details::Deployment { rolling: None, .. } => 0,
        Details::Deployment { rolling: Some((unavailable, surge)), .. } => {
            // `ResolveFenceposts`: where both come to nothing, one may be unavailable.
            match (unavailable.of(desired, false), surge.of(desired, true)) {
                (0, 0) => 1,
                (unavailable, _) => unavailable,
            }
        }
        Details::StatefulSet { max_unavailable, .. } => {
            max_unavailable.map_or(0, |amount| amount.of(desired, true).max(1))
        }
        Details::DaemonSet { max_unavailable } => {
            max_unavailable.map_or(0, |amount| amount.of(desired, true))
        }
    };
    // Also where everything may be unavailable: what runs nowhere is not up.
    (desired - unavailable).max(1)
}

fn nothing_desired(details: &Details) -> &'static str {
    match details {
        Details::DaemonSet { .. } => "no node should run it",
        _ => "it is scaled to 0 replicas",
    }
}

/// Adds what the workload's controller says.
fn status_of_the_controller(
    facts: &Facts<'_>,
    reasons: &mut Vec<String>,
    degraded: &mut Vec<String>,
) {
    let workload = facts.workload;
    if workload.is_status_behind() {
        let (spec, status) = (workload.generation, workload.observed_generation);
        let text =
            format!("its controller has seen generation {status} of the spec, which is at {spec}");
        // What the status says is about another spec.
        if facts.behind_for >= STATUS_GRACE {
            reasons.push(text);
        } else {
            degraded.push(text);
        }
        return;
    }
    let Details::Deployment { available, progressing, .. } = &workload.details else { return };
    match available {
        Some(Condition { is_true: true, .. }) => {}
        Some(Condition { reason, .. }) => reasons.push(format!("Available is not True: {reason}")),
        None => reasons.push("it has no condition Available yet".to_owned()),
    }
    if let Some(Condition { is_true: false, reason, .. }) = progressing
        && &**reason == "ProgressDeadlineExceeded"
    {
        reasons.push("its rollout is stuck: ProgressDeadlineExceeded".to_owned());
    }
}

/// Why pods are not ready, one line for each reason.
fn why_not_ready(live: &[&Pod]) -> Vec<String> {
    let stuck = live.iter().filter(|pod| pod.state == PodState::NotReady);
    let mut lines: Vec<String> = stuck
        .map(|pod| format!("{}: {}", pod.name, pod.reason.as_deref().unwrap_or("not ready")))
        .collect();
    lines.sort_unstable();
    shorten(lines)
}

/// The first [`TEXTS`] lines, and how many there are besides.
fn shorten(mut lines: Vec<String>) -> Vec<String> {
    if lines.len() > TEXTS {
        let more = lines.len() - TEXTS;
        lines.truncate(TEXTS);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// What a `StatefulSet`'s update has not reached yet, of the pods that its partition lets it reach.
fn rollout(workload: &Workload, live: &[&Pod]) -> Option<String> {
    let Details::StatefulSet { partition, first_ordinal, update_revision, .. } = &workload.details
    else {
        return None;
    };
    if workload.is_status_behind() || update_revision.is_empty() {
        return None;
    }
    let from = first_ordinal + partition;
    let old = live.iter().filter(|pod| ordinal(pod).is_some_and(|ordinal| ordinal >= from)).filter(
        |pod| pod.revision.as_deref().is_some_and(|revision| revision != &**update_revision),
    );
    let old = old.count();
    (old > 0).then(|| format!("{old} pods are not updated yet"))
}

/// Recent warnings, the newest first, one line for each reason.
fn warnings(facts: &Facts<'_>) -> Vec<String> {
    let recent = |warning: &&&Warning| {
        let age = facts.now.duration_since(warning.last);
        // One from the future is one of a clock that is ahead.
        age.is_negative() || age.unsigned_abs() <= facts.event_window
    };
    let mut recent: Vec<&Warning> = facts.warnings.iter().filter(recent).copied().collect();
    recent.sort_unstable_by(|a, b| {
        (b.last, &a.reason, &a.message).cmp(&(a.last, &b.reason, &b.message))
    });
    let mut lines: Vec<String> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for warning in recent {
        if !seen.contains(&&*warning.reason) {
            seen.push(&warning.reason);
            lines.push(format!("{}: {}", warning.reason, warning.message));
        }
    }
    shorten(lines)
}

/// Since when the verdict is this one. The controller's own word where it gives the reason, else the pods': up since
/// the pod that was needed last became ready, down since the last change of a pod that is not.
fn since(workload: &Workload, live: &[&Pod], pods: Count, status: Status) -> Option<Timestamp> {
    let condition = match &workload.details {
        Details::Deployment { available, .. } if !workload.is_status_behind() => available.as_ref(),
        _ => None,
    };
    let changes = |state: PodState| {
        let mut times: Vec<Timestamp> =
            live.iter().filter(|pod| pod.state == state).filter_map(|pod| pod.since).collect();
        times.sort_unstable();
        times
    };
    match status {
        Status::Up => condition.and_then(|available| available.since).or_else(|| {
            let ready = changes(PodState::Ready);
            let needed = usize::try_from(pods.required).ok()?.checked_sub(1)?;
            ready.get(needed).copied()
        }),
        Status::Down => condition
            .filter(|available| !available.is_true)
            .and_then(|available| available.since)
            .or_else(|| changes(PodState::NotReady).last().copied())
            .or(workload.created),
    }
}

/// `maxUnavailable` where a spec has none: Kubernetes' own default for Deployments, 25 %.
pub const DEPLOYMENT_UNAVAILABLE: Amount = Amount::Percent(25);
/// `maxSurge` where a spec has none: 25 %.
pub const DEPLOYMENT_SURGE: Amount = Amount::Percent(25);
/// `maxUnavailable` of `StatefulSet`s and `DaemonSet`s where a spec has none: 1.
pub const SET_UNAVAILABLE: Amount = Amount::Count(1);

#[cfg(test)]
mod tests;
