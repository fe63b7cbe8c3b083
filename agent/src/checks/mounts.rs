//! `mounts`: what has to be mounted is, from the device that it should be from.

use std::time::Duration;

use super::{Check, CheckSource, OnUnknown, Policy, kernel};
use crate::model::{FaultView, Outcome};

pub(super) const CHECK: Check = Check {
    name: "mounts",
    passes_when: "every path of `REQUIRE_MOUNTS` is a mount point, of the device that is named there",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Mounts,
};

/// The outcome from what the kernel side says of the required mounts, which was `look_age` ago.
pub(super) fn outcome(view: &FaultView, look_age: Duration, policy: &Policy) -> Outcome {
    if !policy.requires_mounts {
        return Outcome::Unknown("REQUIRE_MOUNTS is not set: no mount is required".to_owned());
    }
    let (wrong, untold) = (&view.required_mounts.wrong, &view.required_mounts.untold);
    if let Some((first, rest)) = wrong.split_first() {
        let more =
            if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
        return Outcome::Fail(format!("{first}{more}"));
    }
    if let Some(outcome) = kernel::blind(view, look_age, policy.on_blind) {
        return outcome;
    }
    if untold.is_empty() { Outcome::Pass } else { Outcome::Degraded(untold.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::tests::without_sight,
        model::{BlindSpot, RequiredMounts},
    };

    #[test]
    fn a_wrong_mount_fails_and_what_cannot_be_told_is_degraded() {
        let view = |wrong: &[&str], untold: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let required_mounts = RequiredMounts { wrong: texts(wrong), untold: texts(untold) };
            FaultView { required_mounts, ..FaultView::default() }
        };
        let unread = without_sight(BlindSpot::Blind, "no table");
        let not_set = "REQUIRE_MOUNTS is not set: no mount is required";
        let (fail, degraded, unknown) = (Outcome::Fail, Outcome::Degraded, Outcome::Unknown);
        for (requires_mounts, view, expected) in [
            (false, view(&[], &[]), unknown(not_set.into())),
            (true, view(&[], &[]), Outcome::Pass),
            (true, view(&["a"], &["c"]), fail("a".into())),
            (true, view(&["a", "b"], &[]), fail("a (and 1 more)".into())),
            (true, view(&[], &["c", "d"]), degraded("c; d".into())),
            (true, unread, unknown("no table".into())),
        ] {
            let policy = Policy { requires_mounts, ..Policy::default() };
            assert_eq!(outcome(&view, Duration::ZERO, &policy), expected);
        }
    }
}
