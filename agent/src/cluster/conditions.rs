//! What the Node's conditions should say of the kernel's checks, and whether they say it: pure.

use std::time::{Duration, Instant, SystemTime};

use humantime::format_rfc3339_seconds;

use crate::{
    checks::{self, CheckContext},
    cluster::settings,
    model::{Condition, Node, Outcome, Scope},
};

/// One condition that the agent owns.
#[derive(Debug)]
pub struct Published {
    /// Its type; node-problem-detector's where that one has it.
    pub kind: &'static str,
    /// The check that it tells of.
    pub check: &'static str,
    /// Its reason while the check fails.
    pub bad: &'static str,
    /// Its reason while the check passes.
    pub good: &'static str,
    /// Its message then.
    pub all_is_well: &'static str,
}

/// Every condition that the agent owns. Types and reasons are API.
pub static PUBLISHED: [Published; 3] = [
    Published {
        kind: "ReadonlyFilesystem",
        check: "filesystem_ro",
        bad: "FilesystemIsReadOnly",
        good: "FilesystemIsNotReadOnly",
        all_is_well: "Filesystem is not read-only",
    },
    Published {
        kind: "DiskIOError",
        check: "io_errors",
        bad: "DiskHasIOErrors",
        good: "DiskHasNoIOErrors",
        all_is_well: "No disk gives I/O errors",
    },
    Published {
        kind: "DiskStalled",
        check: "io_stall",
        bad: "DiskIsStalled",
        good: "DiskIsNotStalled",
        all_is_well: "I/O moves on every disk",
    },
];

/// Reason while the agent cannot tell.
const CANNOT_TELL: &str = "CannotTell";

/// What the conditions should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
    /// Since when, where the faults tell.
    since: Option<SystemTime>,
}

/// What the conditions should say in that context.
#[must_use]
pub fn wanted(context: &CheckContext) -> [Wanted; 3] {
    PUBLISHED.each_ref().map(|published| {
        let &Published { kind, check, bad, good, all_is_well } = published;
        let outcome = checks::find(check)
            .map_or(Outcome::Unknown(String::new()), |check| context.outcome(check));
        let (status, reason, message) = match outcome {
            Outcome::Fail(why) => ("True", bad, why),
            Outcome::Pass => ("False", good, all_is_well.to_owned()),
            Outcome::Degraded(why) => {
                ("False", good, format!("{all_is_well}, as far as can be seen: {why}"))
            }
            Outcome::Unknown(why) => ("Unknown", CANNOT_TELL, why),
        };
        let faults = context.kernel.faults.iter().filter(|fault| {
            fault.check == check && (fault.scope != Scope::Volume || context.policy.fail_on_volumes)
        });
        let since = if status == "True" { faults.map(|fault| fault.opened).min() } else { None };
        Wanted { kind, status, reason, message, since }
    })
}

/// What was wanted last, since when, and when it was written.
#[derive(Debug)]
pub struct Book {
    statuses: Vec<(&'static str, SystemTime)>,
    written: Option<Instant>,
    /// What was written last, while the watch has not shown it yet.
    in_flight: Option<Vec<Wanted>>,
}

/// What to do about the Node's conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// They are as they should be, until then.
    At(Instant),
    /// Write these.
    Write(Vec<Condition>),
}

/// For this long after a write the watch may still show what was before it.
const IN_FLIGHT: Duration = Duration::from_secs(5);

impl Book {
    /// Nothing was wanted before.
    #[must_use]
    pub fn new() -> Self {
        Self { statuses: Vec::new(), written: None, in_flight: None }
    }

    /// Whether the Node's conditions have to be written now.
    pub fn due(&mut self, wanted: &[Wanted], node: &Node, now: Instant, wall: SystemTime) -> Due {
        self.note(wanted, wall);
        let (mut urgent, mut text, mut stale) = (false, false, false);
        for want in wanted {
            let Some(found) = node.condition(want.kind) else {
                urgent = true;
                continue;
            };
            urgent |= found.status != want.status || found.reason != want.reason;
            text |= found.message != want.message;
            let beat = humantime::parse_rfc3339(&found.last_heartbeat_time).ok();
            // One of the future is from before the clock was set.
            let age = beat.and_then(|beat| wall.duration_since(beat).ok());
            stale |= age.is_none_or(|age| age >= settings::PUBLISH_HEARTBEAT);
        }
        if !(urgent || text) {
            self.in_flight = None;
        }
        let passed = self.written.map(|at| now.saturating_duration_since(at));
        // What must have passed since the last write for this reason to write.
        let wait = match (urgent, text, stale) {
            (true, ..) if self.in_flight.as_deref() == Some(wanted) => IN_FLIGHT,
            (true, ..) => Duration::ZERO,
            (false, false, true) => IN_FLIGHT,
            (false, true, _) => settings::PUBLISH_MESSAGE_INTERVAL,
            (false, false, false) => settings::PUBLISH_HEARTBEAT,
        };
        let remaining = passed.map_or(Duration::ZERO, |passed| wait.saturating_sub(passed));
        if !(urgent || text || stale) {
            return Due::At(now + remaining.max(settings::PUBLISH_INTERVAL));
        }
        if !remaining.is_zero() {
            return Due::At(now + remaining);
        }
        Due::Write(
            wanted
                .iter()
                .zip(&self.statuses)
                .map(|(want, (_, since))| condition(want, node.condition(want.kind), *since, wall))
                .collect(),
        )
    }

    /// They were written.
    pub fn wrote(&mut self, wanted: &[Wanted], now: Instant) {
        (self.written, self.in_flight) = (Some(now), Some(wanted.to_vec()));
    }

    /// Since when each status has been wanted.
    fn note(&mut self, wanted: &[Wanted], wall: SystemTime) {
        if self.statuses.is_empty() {
            self.statuses = wanted.iter().map(|want| (want.status, wall)).collect();
        }
        for (want, (status, since)) in wanted.iter().zip(&mut self.statuses) {
            if *status != want.status {
                (*status, *since) = (want.status, wall);
            }
        }
    }
}

impl Default for Book {
    fn default() -> Self {
        Self::new()
    }
}

/// A transition keeps its time for as long as the status stays, whoever saw it.
fn condition(
    want: &Wanted,
    found: Option<&Condition>,
    since: SystemTime,
    wall: SystemTime,
) -> Condition {
    let kept = found.filter(|found| {
        let began = humantime::parse_rfc3339(&found.last_transition_time);
        found.status == want.status && began.is_ok_and(|began| began <= wall)
    });
    let began = want.since.unwrap_or(since).min(wall);
    Condition {
        kind: want.kind.to_owned(),
        status: want.status.to_owned(),
        reason: want.reason.to_owned(),
        message: want.message.clone(),
        last_transition_time: kept.map_or_else(
            || format_rfc3339_seconds(began).to_string(),
            |found| found.last_transition_time.clone(),
        ),
        last_heartbeat_time: format_rfc3339_seconds(wall).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        checks::tests::{fault, without_sight},
        model::{BlindSpot, Fault, FaultKind, FaultView},
    };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn of(view: &FaultView) -> [Wanted; 3] {
        let kernel = Arc::new(view.clone());
        wanted(&CheckContext { kernel, ..CheckContext::new(Arc::default(), Instant::now()) })
    }

    fn faults(faults: &[(FaultKind, Scope, u64)]) -> FaultView {
        let of = |&(kind, scope, opened): &_| Fault { opened: at(opened), ..fault(kind, scope) };
        FaultView { faults: faults.iter().map(of).collect(), ..FaultView::default() }
    }

    #[test]
    fn conditions_say_what_the_checks_say() {
        use FaultKind::{FilesystemError, FilesystemRo, IoError, IoStall};
        // (faults, statuses in the order of PUBLISHED, when the first one that is True began)
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
            (without_sight(BlindSpot::Blind, "no table"), ["Unknown", "Unknown", "Unknown"], None),
            (without_sight(BlindSpot::NoEvents, "not root"), ["False", "False", "False"], None),
        ] {
            let wanted = of(&view);
            assert_eq!(wanted.each_ref().map(|want| want.status), statuses, "{view:?}");
            assert_eq!(wanted.iter().find_map(|want| want.since), since.map(at), "{view:?}");
        }
        let degraded = of(&without_sight(BlindSpot::NoEvents, "not root"));
        assert!(degraded[0].message.contains("not root"));
        assert_eq!(
            of(&faults(&[(FilesystemRo, Scope::Host, 7)]))[0].reason,
            "FilesystemIsReadOnly"
        );
    }

    #[test]
    fn what_differs_is_written_at_once_and_what_does_not_is_refreshed() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let (mut book, good) = (Book::new(), of(&faults(&[])));
        let bad = of(&faults(&[(FaultKind::IoError, Scope::Host, 1000)]));
        let write = |due: Due| match due {
            Due::Write(conditions) => conditions,
            Due::At(at) => panic!("in {:?}", at - start),
        };
        // A Node that has none of them yet.
        let mut node = Node::default();
        node.conditions = write(book.due(&good, &node, later(0), at(500)));
        book.wrote(&good, later(0));
        assert_eq!(node.conditions.len(), 3);
        assert_eq!(node.conditions[1].last_transition_time, "1970-01-01T00:08:20Z");
        // As it should be: nothing to do for five minutes.
        assert_eq!(book.due(&good, &node, later(1), at(501)), Due::At(later(300)));
        // The heartbeat keeps the time of the transition.
        let beat = write(book.due(&good, &node, later(300), at(800)));
        assert_eq!(beat[1].last_transition_time, "1970-01-01T00:08:20Z");
        assert_eq!(beat[1].last_heartbeat_time, "1970-01-01T00:13:20Z");
        node.conditions = beat;
        book.wrote(&good, later(300));
        // A fault: at once, and with the fault's own time.
        let found = write(book.due(&bad, &node, later(501), at(1001)));
        assert_eq!((found[1].status.as_str(), found[0].status.as_str()), ("True", "False"));
        assert_eq!(found[1].last_transition_time, "1970-01-01T00:16:40Z");
        assert_eq!(found[0].last_transition_time, "1970-01-01T00:08:20Z");
        book.wrote(&bad, later(501));
        // The watch has not shown it yet; if it never does, it is written again.
        assert_eq!(book.due(&bad, &node, later(502), at(1002)), Due::At(later(506)));
        assert!(matches!(book.due(&bad, &node, later(506), at(1006)), Due::Write(_)));
        // Another message alone can wait.
        node.conditions = found;
        let mut more = bad.clone();
        more[1].message.push_str(" (and 1 more)");
        assert_eq!(book.due(&more, &node, later(502), at(1002)), Due::At(later(511)));
        assert!(matches!(book.due(&more, &node, later(511), at(1011)), Due::Write(_)));
        // Over: the time is now.
        let over = write(book.due(&good, &node, later(520), at(1020)));
        assert_eq!(over[1].last_transition_time, "1970-01-01T00:17:00Z");
        // Somebody else changed it back in the meantime.
        book.wrote(&good, later(520));
        assert!(matches!(book.due(&good, &node, later(530), at(1030)), Due::Write(_)));
    }

    #[test]
    fn a_restart_keeps_the_time_of_the_transition() {
        let bad = of(&faults(&[(FaultKind::IoError, Scope::Host, 1000)]));
        let mut node = Node::default();
        let Due::Write(first) = Book::new().due(&bad, &node, Instant::now(), at(1001)) else {
            panic!()
        };
        node.conditions = first;
        let reopened = of(&faults(&[(FaultKind::IoError, Scope::Host, 2000)]));
        let Due::Write(second) = Book::new().due(&reopened, &node, Instant::now(), at(2001)) else {
            panic!()
        };
        assert_eq!(second[1].last_transition_time, "1970-01-01T00:16:40Z");
        assert_eq!(second[1].last_heartbeat_time, "1970-01-01T00:33:21Z");
    }
}
