//! What the checks of the kernel side have in common: open faults come first, then blind spots. Pure.

use crate::model::{BlindSpot, BlindSpots, Fault, FaultView, Outcome, Scope};

/// The outcome of the kernel check of that name. `counts` says whether a fault of a scope fails its check; `blind_spot`,
/// why faults of this check may be missed.
pub(super) fn outcome(
    check: &str,
    view: &FaultView,
    counts: impl Fn(Scope) -> bool,
    blind_spot: fn(&BlindSpots) -> Option<String>,
) -> Outcome {
    let mut faults =
        view.faults.iter().filter(|fault: &&Fault| fault.check == check && counts(fault.scope));
    if let Some(first) = faults.next() {
        let more = match faults.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return Outcome::Fail(format!("{}{more}", first.reason));
    }
    let blind_spots = &view.blind_spots;
    if let Some(why) = blind_spots.get(BlindSpot::Blind) {
        return Outcome::Unknown(why.to_owned());
    }
    let unwatched = blind_spots.get(BlindSpot::Unwatched).map(str::to_owned);
    unwatched.or_else(|| blind_spot(blind_spots)).map_or(Outcome::Pass, Outcome::Degraded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::{
            CheckSource, Policy, filesystem_ro, io_errors, io_stall,
            tests::{fault, without_sight},
        },
        model::FaultKind,
    };

    fn view(faults: &[Fault]) -> FaultView {
        FaultView { faults: faults.to_vec(), ..FaultView::default() }
    }

    fn judge(name: &str, view: &FaultView, fail_on_volumes: bool) -> Outcome {
        let checks = [filesystem_ro::CHECK, io_errors::CHECK, io_stall::CHECK];
        let check = checks.into_iter().find(|check| check.name == name).unwrap();
        let CheckSource::Kernel(blind_spot) = check.source else { panic!("{name}") };
        let policy = Policy { fail_on_volumes, ..Policy::default() };
        outcome(name, view, |scope| policy.counts(scope), blind_spot)
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
}
