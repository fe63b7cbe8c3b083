//! The verdict of one check, and what a whole response means to a load balancer: pure.

use tocsin_api::health::{CheckResult, HealthResponse};

use crate::{
    checks::{Check, OnUnknown},
    model::Outcome,
};

/// The check that fails while a node is only cordoned.
pub(super) const SCHEDULABLE: &str = "schedulable";

/// The result of the check: its policy turns "unknown" into a verdict.
pub(super) fn result(check: &Check, outcome: Outcome) -> CheckResult {
    let (passed, reason, degraded) = match (outcome, check.on_unknown) {
        (Outcome::Pass, _) => (true, None, None),
        (Outcome::Degraded(why), _) | (Outcome::Unknown(why), OnUnknown::Pass) => {
            (true, None, Some(why))
        }
        (Outcome::Fail(why), _) | (Outcome::Unknown(why), OnUnknown::Fail) => {
            (false, Some(why), None)
        }
    };
    CheckResult { name: check.name.to_owned(), passed, reason, degraded, duration_ms: 0 }
}

/// The result for a name that no check has: a failure, in the words of the readiness endpoint that this replaces.
pub(super) fn unknown_check(name: &str) -> CheckResult {
    CheckResult {
        name: name.to_owned(),
        passed: false,
        reason: Some(format!("Unknown check: {name}")),
        degraded: None,
        duration_ms: 0,
    }
}

/// Whether the node is cordoned and nothing else is wrong with it.
#[must_use]
pub fn is_only_cordoned(response: &HealthResponse) -> bool {
    let mut failed = response.checks.iter().filter(|check| !check.passed).peekable();
    failed.peek().is_some() && failed.all(|check| check.name == SCHEDULABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::find;

    #[test]
    fn the_policy_turns_unknown_into_a_verdict() {
        let why = || "why".to_owned();
        // (check, outcome, passed, reason, degraded)
        for (check, outcome, passed, reason, degraded) in [
            ("io_stall", Outcome::Pass, true, None, None),
            ("io_stall", Outcome::Degraded(why()), true, None, Some(why())),
            ("io_stall", Outcome::Unknown(why()), true, None, Some(why())),
            ("io_stall", Outcome::Fail(why()), false, Some(why()), None),
            ("kubelet", Outcome::Unknown(why()), false, Some(why()), None),
            ("kubelet", Outcome::Degraded(why()), true, None, Some(why())),
        ] {
            let found = result(find(check).unwrap(), outcome.clone());
            let expected =
                CheckResult { name: check.to_owned(), passed, reason, degraded, duration_ms: 0 };
            assert_eq!(found, expected, "{check} {outcome:?}");
        }
        assert_eq!(unknown_check("bogus").reason.as_deref(), Some("Unknown check: bogus"));
    }

    #[test]
    fn only_the_cordon_alone_is_a_drain() {
        let check = |name: &str, passed| CheckResult {
            name: name.to_owned(),
            passed,
            reason: None,
            degraded: None,
            duration_ms: 0,
        };
        for (checks, expected) in [
            (vec![], false),
            (vec![check(SCHEDULABLE, true)], false),
            (vec![check(SCHEDULABLE, false)], true),
            (vec![check("io_stall", true), check(SCHEDULABLE, false)], true),
            (vec![check("io_stall", false), check(SCHEDULABLE, false)], false),
            (vec![check("io_stall", false)], false),
        ] {
            let response = HealthResponse::new(checks);
            assert_eq!(is_only_cordoned(&response), expected, "{response:?}");
        }
    }
}
