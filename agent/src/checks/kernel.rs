//! What the checks of the kernel side have in common: open faults come first, then blind spots. Pure.

use std::time::Duration;

use super::{OnBlind, Policy, settings};
use crate::model::{BlindSpot, BlindSpots, Fault, FaultView, Outcome};

/// The outcome of the kernel check of that name. `look_age` says how old the view is; `blind_spot`, why faults of this
/// check may be missed.
pub(super) fn outcome(
    check: &str,
    view: &FaultView,
    look_age: Duration,
    policy: &Policy,
    blind_spot: fn(&BlindSpots) -> Option<String>,
) -> Outcome {
    let counts = |fault: &&Fault| fault.check == check && policy.counts(fault.scope);
    let mut faults = view.faults.iter().filter(counts);
    if let Some(first) = faults.next() {
        let more = match faults.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return Outcome::Fail(format!("{}{more}", first.reason));
    }
    if let Some(outcome) = blind(view, look_age, policy.on_blind) {
        return outcome;
    }
    let blind_spots = &view.blind_spots;
    let unwatched = blind_spots.get(BlindSpot::Unwatched).map(str::to_owned);
    unwatched.or_else(|| blind_spot(blind_spots)).map_or(Outcome::Pass, Outcome::Degraded)
}

/// The outcome while the kernel side sees nothing: the host was not looked at lately, or cannot be.
pub(super) fn blind(
    view: &FaultView,
    look_age: Duration,
    on_blind: Option<OnBlind>,
) -> Option<Outcome> {
    let is_old = look_age >= settings::LOOK_IS_OLD;
    let is_too_old = look_age >= settings::LOOK_IS_TOO_OLD;
    let old = is_old.then(|| format!("not looked for {} s", look_age.as_secs()));
    let unread = view.blind_spots.get(BlindSpot::Blind);
    let why = match (old, unread) {
        (Some(old), Some(unread)) => format!("{old}: {unread}"),
        (Some(old), None) => old,
        (None, unread) => unread?.to_owned(),
    };
    Some(match on_blind {
        // A table that cannot be read keeps the look young. An old look with a reason is a sampler that is late, and has its time.
        Some(OnBlind::Fail) if is_too_old || (unread.is_some() && !is_old) => Outcome::Fail(why),
        None if is_too_old => Outcome::Fail(why),
        None if unread.is_some() => Outcome::Unknown(why),
        Some(OnBlind::Degraded | OnBlind::Fail) | None => Outcome::Degraded(why),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::{
            CheckSource, filesystem_ro, io_errors, io_stall,
            tests::{fault, without_sight},
        },
        model::{FaultKind, Scope},
    };

    fn view(faults: &[Fault]) -> FaultView {
        FaultView { faults: faults.to_vec(), ..FaultView::default() }
    }

    fn judge(name: &str, view: &FaultView, fail_on_volumes: bool) -> Outcome {
        let policy = Policy { fail_on_volumes, ..Policy::default() };
        judge_old(name, view, Duration::ZERO, &policy)
    }

    fn judge_old(name: &str, view: &FaultView, age: Duration, policy: &Policy) -> Outcome {
        let checks = [filesystem_ro::CHECK, io_errors::CHECK, io_stall::CHECK];
        let check = checks.into_iter().find(|check| check.name == name).unwrap();
        let CheckSource::Kernel(blind_spot) = check.source else { panic!("{name}") };
        outcome(name, view, age, policy, blind_spot)
    }

    #[test]
    fn each_kind_of_fault_fails_its_own_check_only() {
        for kind in FaultKind::ALL {
            let view = view(&[fault(kind, Scope::Host)]);
            for name in ["filesystem_ro", "io_errors", "io_stall"] {
                let outcome = judge(name, &view, false);
                if name == kind.check() {
                    let reason = format!("loop3 (7:3) ext4 on /mnt/x: {}", kind.name());
                    assert_eq!(outcome, Outcome::Fail(reason), "{name}");
                } else {
                    assert_eq!(outcome, Outcome::Pass, "{name} {kind:?}");
                }
            }
        }
    }

    #[test]
    fn volumes_and_members_do_not_take_the_node_out() {
        for (scope, fail_on_volumes, fails) in [
            (Scope::Host, false, true),
            (Scope::Volume, false, false),
            (Scope::Volume, true, true),
            (Scope::Member, true, false),
        ] {
            let view = view(&[fault(FaultKind::IoError, scope)]);
            let outcome = judge("io_errors", &view, fail_on_volumes);
            assert_eq!(matches!(outcome, Outcome::Fail(_)), fails, "{scope:?} {fail_on_volumes}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_said_and_never_hides_a_fault() {
        let blind = without_sight(BlindSpot::Blind, "no table");
        let no_events = without_sight(BlindSpot::NoEvents, "not root");
        for name in ["filesystem_ro", "io_errors", "io_stall"] {
            assert_eq!(judge(name, &blind, false), Outcome::Unknown("no table".into()));
        }
        assert!(matches!(judge("filesystem_ro", &no_events, false), Outcome::Degraded(_)));
        assert!(matches!(judge("io_errors", &no_events, false), Outcome::Degraded(_)));
        assert_eq!(judge("io_stall", &no_events, false), Outcome::Pass);
        let both = FaultView {
            faults: vec![fault(FaultKind::FilesystemRo, Scope::Host)],
            ..blind.clone()
        };
        assert!(matches!(judge("filesystem_ro", &both, false), Outcome::Fail(_)));
    }

    #[test]
    fn several_faults_are_counted() {
        let view = view(&[
            fault(FaultKind::FilesystemError, Scope::Host),
            fault(FaultKind::IoError, Scope::Host),
            fault(FaultKind::IoError, Scope::Volume),
        ]);
        let expected = "loop3 (7:3) ext4 on /mnt/x: filesystem_error (and 1 more)";
        assert_eq!(judge("io_errors", &view, false), Outcome::Fail(expected.into()));
    }

    #[test]
    fn an_old_verdict_says_so_and_then_fails() {
        use OnBlind::{Degraded, Fail};
        let (seeing, blind) = (FaultView::default(), without_sight(BlindSpot::Blind, "no table"));
        let text = |outcome: Outcome| match outcome {
            Outcome::Pass => "pass".to_owned(),
            Outcome::Degraded(why) => format!("degraded: {why}"),
            Outcome::Fail(why) => format!("fail: {why}"),
            Outcome::Unknown(why) => format!("unknown: {why}"),
        };
        // (view, age in milliseconds, ON_BLIND, outcome)
        for (view, age, on_blind, expected) in [
            (&seeing, 2_999, None, "pass"),
            (&seeing, 2_999, Some(Fail), "pass"),
            (&seeing, 4_100, None, "degraded: not looked for 4 s"),
            (&seeing, 4_100, Some(Fail), "degraded: not looked for 4 s"),
            (&seeing, 29_999, None, "degraded: not looked for 29 s"),
            (&seeing, 30_000, None, "fail: not looked for 30 s"),
            (&seeing, 30_000, Some(Fail), "fail: not looked for 30 s"),
            (&seeing, 90_000, Some(Degraded), "degraded: not looked for 90 s"),
            (&blind, 0, None, "unknown: no table"),
            (&blind, 0, Some(Degraded), "degraded: no table"),
            (&blind, 0, Some(Fail), "fail: no table"),
            (&blind, 6_000, None, "unknown: not looked for 6 s: no table"),
            (&blind, 6_000, Some(Fail), "degraded: not looked for 6 s: no table"),
            (&blind, 30_000, Some(Fail), "fail: not looked for 30 s: no table"),
            (&blind, 30_000, None, "fail: not looked for 30 s: no table"),
        ] {
            let policy = Policy { on_blind, ..Policy::default() };
            let found = judge_old("io_errors", view, Duration::from_millis(age), &policy);
            assert_eq!(text(found), expected, "{age} {on_blind:?}");
        }
        let broken = view(&[fault(FaultKind::IoError, Scope::Host)]);
        let found = judge_old("io_errors", &broken, Duration::from_secs(90), &Policy::default());
        assert_eq!(text(found), "fail: loop3 (7:3) ext4 on /mnt/x: io_error");
    }
}
