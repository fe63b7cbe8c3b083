//! The conditions of the Node that the agent owns, and what they should say of the kernel's checks: pure.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;

use super::condition_hint::hint;
use crate::{
    checks::{self, CheckContext},
    model::{Condition, Outcome},
};

/// A condition that the agent owns.
#[derive(Debug)]
pub struct OwnCondition {
    /// Its type; node-problem-detector's where that one has it.
    pub kind: &'static str,
    /// The check that it follows.
    pub check: &'static str,
    /// Its reason while it is `True`: the check fails.
    pub reason_true: &'static str,
    /// Its reason while it is `False`: the check passes.
    pub reason_false: &'static str,
    /// Its message while it is `False`.
    pub message_false: &'static str,
}

/// Every condition that the agent owns. Types and reasons are API.
pub static OWN_CONDITIONS: [OwnCondition; 3] = [
    OwnCondition {
        kind: "ReadonlyFilesystem",
        check: "filesystem_ro",
        reason_true: "FilesystemIsReadOnly",
        reason_false: "FilesystemIsNotReadOnly",
        message_false: "Filesystem is not read-only",
    },
    OwnCondition {
        kind: "DiskIOError",
        check: "io_errors",
        reason_true: "DiskHasIOErrors",
        reason_false: "DiskHasNoIOErrors",
        message_false: "No disk gives I/O errors",
    },
    OwnCondition {
        kind: "DiskStalled",
        check: "io_stall",
        reason_true: "DiskIsStalled",
        reason_false: "DiskIsNotStalled",
        message_false: "I/O moves on every disk",
    },
];

/// The reason of a condition that is `Unknown`: the check could not be made.
const CANNOT_TELL: &str = "CannotTell";

/// What a condition should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredCondition {
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// When the oldest of the faults behind it opened; `None` where there is none.
    pub(super) since: Option<SystemTime>,
}

/// What the conditions should say in that context.
#[must_use]
pub fn desired(context: &CheckContext) -> [DesiredCondition; 3] {
    OWN_CONDITIONS.each_ref().map(|own| {
        let &OwnCondition { kind, check, reason_true, reason_false, message_false } = own;
        let outcome = checks::find(check)
            .map_or(Outcome::Unknown(String::new()), |check| context.outcome(check));
        let (status, reason, mut message) = match outcome {
            Outcome::Fail(why) => ("True", reason_true, why),
            Outcome::Pass => ("False", reason_false, message_false.to_owned()),
            Outcome::Degraded(why) => {
                ("False", reason_false, format!("{message_false}, as far as can be seen: {why}"))
            }
            Outcome::Unknown(why) => ("Unknown", CANNOT_TELL, why),
        };
        let failing =
            || context.kernel.faults.iter().filter(|fault| context.policy.counts(fault.scope));
        let own = || failing().filter(|fault| fault.check == check);
        let mut since = None;
        if status == "True" {
            since = own().map(|fault| fault.opened).min();
            if let Some(hint) = hint(own(), failing()) {
                message = format!("{message} (hint: {})", hint.word());
            }
        }
        DesiredCondition { kind, status, reason, message, since }
    })
}

impl DesiredCondition {
    /// The condition to write at `now`, where the Node has `found`. A transition keeps its time for as long as the status
    /// stays, also one that somebody else wrote. A new one has the time of its fault, or else `since`.
    #[must_use]
    pub fn condition(
        &self,
        found: Option<&Condition>,
        since: SystemTime,
        now: SystemTime,
    ) -> Condition {
        let kept = found.filter(|found| {
            let began = humantime::parse_rfc3339(&found.last_transition_time);
            found.status == self.status && began.is_ok_and(|began| began <= now)
        });
        let began = self.since.unwrap_or(since).min(now);
        Condition {
            kind: self.kind.to_owned(),
            status: self.status.to_owned(),
            reason: self.reason.to_owned(),
            message: self.message.clone(),
            last_transition_time: kept.map_or_else(
                || format_rfc3339_seconds(began).to_string(),
                |found| found.last_transition_time.clone(),
            ),
            last_heartbeat_time: format_rfc3339_seconds(now).to_string(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        checks::tests::{fault, without_sight},
        model::{BlindSpot, Fault, FaultKind, FaultView, Scope},
    };

    pub(crate) fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    pub(crate) fn of(view: &FaultView) -> [DesiredCondition; 3] {
        let kernel = Arc::new(view.clone());
        desired(&CheckContext { kernel, ..CheckContext::new(Arc::default(), Instant::now()) })
    }

    pub(crate) fn faults(faults: &[(FaultKind, Scope, u64)]) -> FaultView {
        let of = |&(kind, scope, opened): &_| Fault { opened: at(opened), ..fault(kind, scope) };
        FaultView { faults: faults.iter().map(of).collect(), ..FaultView::default() }
    }

    #[test]
    fn conditions_say_what_the_checks_say() {
        use FaultKind::{FilesystemError, FilesystemRo, IoError, IoStall};
        // (faults, statuses in the order of OWN_CONDITIONS, when the first one that is True began)
        for (view, statuses, since) in [
            (faults(&[]), ["False", "False", "False"], None),
            (faults(&[(FilesystemRo, Scope::Host, 7)]), ["True", "False", "False"], Some(7)),
            (
                faults(&[(FilesystemError, Scope::Host, 9), (IoError, Scope::Host, 8)]),
                ["False", "True", "False"],
                Some(8),
            ),
            (faults(&[(IoStall, Scope::Host, 3)]), ["False", "False", "True"], Some(3)),
            (faults(&[(IoStall, Scope::Volume, 3)]), ["False", "False", "False"], None),
            // The time is that of the fault that fails the check.
            (
                faults(&[(IoError, Scope::Member, 2), (IoError, Scope::Host, 5)]),
                ["False", "True", "False"],
                Some(5),
            ),
            (without_sight(BlindSpot::Blind, "no table"), ["Unknown", "Unknown", "Unknown"], None),
            (without_sight(BlindSpot::NoEvents, "not root"), ["False", "False", "False"], None),
        ] {
            let desired = of(&view);
            assert_eq!(desired.each_ref().map(|own| own.status), statuses, "{view:?}");
            assert_eq!(desired.iter().find_map(|own| own.since), since.map(at), "{view:?}");
            // The hint is the end of the message, and only of one that is True.
            for own in desired {
                let has_hint = own.message.ends_with(" (hint: reboot)")
                    || own.message.ends_with(" (hint: replace)");
                assert_eq!(has_hint, own.status == "True", "{own:?}");
            }
        }
        let degraded = of(&without_sight(BlindSpot::NoEvents, "not root"));
        assert!(degraded[0].message.contains("not root"));
        assert_eq!(
            of(&faults(&[(FilesystemRo, Scope::Host, 7)]))[0].reason,
            "FilesystemIsReadOnly"
        );
    }
}
