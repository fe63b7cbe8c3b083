//! Every rule of the verdict, as rows.

use super::*;
use crate::heartbeat::model::{Kind, Uid};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "every use wants one that is there")]
fn condition(is_true: bool, reason: &str) -> Option<Condition> {
    Some(Condition { is_true, reason: reason.into(), since: Some(at(100)) })
}

fn with(desired: i64, details: Details) -> Workload {
    Workload {
        namespace: "ns".into(),
        name: "web".into(),
        uid: Uid::from("web"),
        labels: Box::default(),
        created: Some(at(10)),
        is_being_deleted: false,
        generation: 2,
        observed_generation: 2,
        desired,
        details,
    }
}

fn deployment(desired: i64, rolling: Option<(Amount, Amount)>) -> Workload {
    let (available, progressing) =
        (condition(true, "MinimumReplicasAvailable"), condition(true, "NewReplicaSetAvailable"));
    with(desired, Details::Deployment { rolling, available, progressing })
}

fn stateful_set(desired: i64) -> Workload {
    with(
        desired,
        Details::StatefulSet {
            max_unavailable: Some(SET_UNAVAILABLE),
            partition: 0,
            first_ordinal: 0,
            update_revision: "b".into(),
        },
    )
}

fn pod(name: &str, state: PodState) -> Pod {
    let reason = (state == PodState::NotReady).then(|| "CrashLoopBackOff".into());
    Pod {
        name: name.into(),
        owner: Uid::from("web"),
        state,
        since: Some(at(200)),
        reason,
        revision: None,
    }
}

/// So many pods of each state: `r` ready, `n` not ready, `t` terminating, `f` finished.
fn pods(states: &str) -> Vec<Pod> {
    let state = |letter| match letter {
        'r' => PodState::Ready,
        'n' => PodState::NotReady,
        't' => PodState::Terminating,
        _ => PodState::Finished,
    };
    states.chars().enumerate().map(|(n, letter)| pod(&format!("web-{n}"), state(letter))).collect()
}

fn judged(
    workload: &Workload,
    pods: &[Pod],
    warnings: &[Warning],
    behind_for: Duration,
) -> Verdict {
    judge(&Facts {
        workload,
        pods: &pods.iter().collect::<Vec<_>>(),
        warnings: &warnings.iter().collect::<Vec<_>>(),
        behind_for,
        event_window: Duration::from_mins(10),
        now: at(1000),
    })
}

fn is_up(workload: &Workload, states: &str) -> bool {
    judged(workload, &pods(states), &[], Duration::ZERO).status == Status::Up
}

#[test]
fn enough_pods_are_what_max_unavailable_leaves() {
    use Amount::{Count, Percent};
    let default = Some((DEPLOYMENT_UNAVAILABLE, DEPLOYMENT_SURGE));
    for (desired, rolling, needed) in [
        (1, default, 1),
        (3, default, 3),
        (4, default, 3),
        (10, default, 8),
        (3, Some((Count(1), Count(1))), 2),
        (3, Some((Count(0), Count(1))), 3),
        // Both come to nothing: one may be unavailable.
        (3, Some((Count(0), Count(0))), 2),
        (3, Some((Percent(10), Percent(0))), 2),
        (3, Some((Percent(100), Count(1))), 1),
        (3, Some((Count(5), Count(1))), 1),
        (3, None, 3),
    ] {
        let workload = deployment(desired, rolling);
        assert_eq!(required(&workload), needed, "{desired} {rolling:?}");
        let ready = usize::try_from(needed).unwrap();
        let rest = "n".repeat(usize::try_from(desired).unwrap() - ready);
        assert!(is_up(&workload, &("r".repeat(ready) + &rest)), "{desired} {rolling:?}");
        assert!(!is_up(&workload, &("r".repeat(ready - 1) + "n" + &rest)), "{desired} {rolling:?}");
    }
}

#[test]
fn pods_that_are_on_their_way_out_count_for_nothing() {
    let workload = deployment(2, Some((Amount::Count(0), Amount::Count(1))));
    for (states, up) in [
        ("rr", true),
        // A rollout: the old ones end, whatever they say.
        ("rrtt", true),
        ("rrff", true),
        ("rt", false),
        ("rf", false),
        ("", false),
        // A healthy surge.
        ("rrn", true),
        ("rrr", true),
    ] {
        assert_eq!(is_up(&workload, states), up, "{states:?}");
    }
}

#[test]
fn what_the_controller_says_counts_while_it_is_current() {
    let cases = [
        (
            condition(false, "MinimumReplicasUnavailable"),
            None,
            "Available is not True: MinimumReplicasUnavailable",
        ),
        (None, None, "it has no condition Available yet"),
        (
            condition(true, ""),
            condition(false, "ProgressDeadlineExceeded"),
            "its rollout is stuck: ProgressDeadlineExceeded",
        ),
    ];
    for (available, progressing, reason) in cases {
        let rolling = Some((Amount::Count(0), Amount::Count(1)));
        let mut workload = with(2, Details::Deployment { rolling, available, progressing });
        let verdict = judged(&workload, &pods("rr"), &[], Duration::ZERO);
        assert_eq!((verdict.status, &*verdict.reasons), (Status::Down, &[reason.to_owned()][..]));
        // A status about an older spec says nothing about this one: the pods do.
        workload.generation = 3;
        let text = "its controller has seen generation 2 of the spec, which is at 3";
        let early = judged(&workload, &pods("rr"), &[], STATUS_GRACE / 2);
        assert_eq!((early.status, &*early.degraded), (Status::Up, &[text.to_owned()][..]));
        let late = judged(&workload, &pods("rr"), &[], STATUS_GRACE);
        assert_eq!((late.status, &*late.reasons), (Status::Down, &[text.to_owned()][..]));
    }
    let paused = with(
        2,
        Details::Deployment {
            rolling: None,
            available: condition(true, ""),
            progressing: condition(false, "DeploymentPaused"),
        },
    );
    assert!(is_up(&paused, "rr"), "only the deadline counts");
}

#[test]
fn nothing_that_runs_nowhere_is_up() {
    let verdict = judged(&deployment(0, None), &[], &[], Duration::ZERO);
    assert_eq!(
        (verdict.status, &*verdict.reasons),
        (Status::Down, &["it is scaled to 0 replicas".to_owned()][..])
    );
    let daemons = with(0, Details::DaemonSet { max_unavailable: Some(SET_UNAVAILABLE) });
    let verdict = judged(&daemons, &[], &[], Duration::ZERO);
    assert_eq!(verdict.reasons, ["no node should run it"]);
    let mut deleted = deployment(1, None);
    deleted.is_being_deleted = true;
    assert_eq!(judged(&deleted, &pods("r"), &[], Duration::ZERO).reasons, ["it is being deleted"]);
}

#[test]
fn stateful_sets_have_ordinals_and_partitions() {
    assert!(is_up(&stateful_set(3), "rrn"), "one may be unavailable");
    assert!(!is_up(&stateful_set(3), "rnn"));
    assert!(is_up(&stateful_set(1), "r") && !is_up(&stateful_set(1), "n"));
    // Scaled down from five: the two last ones go, and are ready until then.
    assert_eq!(judged(&stateful_set(3), &pods("rrrrr"), &[], Duration::ZERO).pods.ready, 3);
    assert!(
        !is_up(&stateful_set(3), "nnrrr"),
        "web-3 and web-4 do not stand in for web-0 and web-1"
    );
    let mut later = stateful_set(2);
    if let Details::StatefulSet { first_ordinal, partition, .. } = &mut later.details {
        (*first_ordinal, *partition) = (5, 1);
    }
    let old =
        |n: i64| Pod { revision: Some("a".into()), ..pod(&format!("web-{n}"), PodState::Ready) };
    let verdict = judged(&later, &[old(5), old(6)], &[], Duration::ZERO);
    assert_eq!(verdict.status, Status::Up);
    assert_eq!(verdict.degraded, ["1 pods are not updated yet"], "web-5 is below the partition");
    let mut on_delete = stateful_set(3);
    if let Details::StatefulSet { max_unavailable, .. } = &mut on_delete.details {
        *max_unavailable = None;
    }
    assert!(!is_up(&on_delete, "rrn"));
}

#[test]
fn daemon_sets_are_rounded_up() {
    let of = |desired, amount| with(desired, Details::DaemonSet { max_unavailable: Some(amount) });
    assert_eq!(required(&of(3, Amount::Percent(10))), 2);
    assert_eq!(required(&of(10, Amount::Count(1))), 9);
    assert_eq!(of(1, Amount::Count(1)).kind(), Kind::DaemonSet);
    assert!(is_up(&of(3, Amount::Count(1)), "rrn") && !is_up(&of(3, Amount::Count(1)), "rnn"));
}

#[test]
fn warnings_degrade_and_never_take_down() {
    let warning = |reason: &str, message: &str, last| Warning {
        reason: reason.into(),
        message: message.into(),
        last: at(last),
    };
    let warnings = [
        warning("BackOff", "older", 500),
        warning("BackOff", "back-off restarting", 990),
        warning("Unhealthy", "readiness probe failed", 995),
        warning("FailedScheduling", "out of the window", 399),
        warning("Clock", "ahead", 2000),
    ];
    let verdict = judged(&deployment(1, None), &pods("r"), &warnings, Duration::ZERO);
    assert_eq!(verdict.status, Status::Up);
    assert_eq!(
        verdict.degraded,
        ["Clock: ahead", "Unhealthy: readiness probe failed", "BackOff: back-off restarting"]
    );
}

#[test]
fn reasons_name_some_pods_and_count_the_others() {
    let verdict = judged(&deployment(9, None), &pods("rrnnnnnnn"), &[], Duration::ZERO);
    assert_eq!(verdict.reasons[0], "2 of 9 pods are ready, 9 are needed");
    assert_eq!(verdict.reasons[1], "web-2: CrashLoopBackOff");
    assert_eq!(verdict.reasons.last().unwrap(), "and 2 more");
    assert_eq!(verdict.reasons.len(), 2 + TEXTS);
}

#[test]
fn since_when() {
    let since =
        |workload: &Workload, states| judged(workload, &pods(states), &[], Duration::ZERO).since;
    assert_eq!(since(&deployment(1, None), "r"), Some(at(100)), "the controller's word");
    assert_eq!(
        since(&deployment(1, None), "n"),
        Some(at(200)),
        "Available is True still: the pod's"
    );
    assert_eq!(since(&stateful_set(2), "rr"), Some(at(200)));
    assert_eq!(since(&stateful_set(2), ""), Some(at(10)), "since it was made");
}
