//! Decides when the Node's conditions have to be written: pure.
//!
//! What the Node says is compared with what it should say, so a restart, a failed write and a change by somebody else
//! heal.

use std::time::{Duration, Instant, SystemTime};

use super::{conditions::DesiredCondition, settings};
use crate::model::{Condition, Node};

/// 5 seconds: for this long after a write the watch may still show the conditions from before it.
const IN_FLIGHT: Duration = Duration::from_secs(5);

/// Since when each status has been desired, and what was written last.
#[derive(Debug, Default)]
pub struct ConditionState {
    /// Each desired status, and since when.
    statuses: Vec<(&'static str, SystemTime)>,
    written: Option<Instant>,
    /// What was written last, until the watch shows it.
    in_flight: Option<Vec<DesiredCondition>>,
}

/// What to do about the Node's conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConditionAction {
    /// Nothing before that time.
    WaitUntil(Instant),
    /// Write these now.
    Write(Vec<Condition>),
}

impl ConditionState {
    /// What to do now, where `node` is the Node as the watch shows it.
    pub fn action(
        &mut self,
        desired: &[DesiredCondition],
        node: &Node,
        now: Instant,
        wall: SystemTime,
    ) -> ConditionAction {
        self.note_transitions(desired, wall);
        let (mut urgent, mut text, mut stale) = (false, false, false);
        for want in desired {
            let Some(found) = node.condition(want.kind) else {
                urgent = true;
                continue;
            };
            urgent |= found.status != want.status || found.reason != want.reason;
            text |= found.message != want.message;
            let heartbeat = humantime::parse_rfc3339(&found.last_heartbeat_time).ok();
            // A heartbeat in the future was written before the clock was set back.
            let age = heartbeat.and_then(|heartbeat| wall.duration_since(heartbeat).ok());
            stale |= age.is_none_or(|age| age >= settings::PUBLISH_HEARTBEAT);
        }
        if !(urgent || text) {
            self.in_flight = None;
        }
        let passed = self.written.map(|at| now.saturating_duration_since(at));
        // The time that must have passed since the last write.
        let wait = match (urgent, text, stale) {
            (true, ..) if self.in_flight.as_deref() == Some(desired) => IN_FLIGHT,
            (true, ..) => Duration::ZERO,
            (false, false, true) => IN_FLIGHT,
            (false, true, _) => settings::PUBLISH_MESSAGE_INTERVAL,
            (false, false, false) => settings::PUBLISH_HEARTBEAT,
        };
        let remaining = passed.map_or(Duration::ZERO, |passed| wait.saturating_sub(passed));
        if !(urgent || text || stale) {
            return ConditionAction::WaitUntil(now + remaining.max(settings::PUBLISH_INTERVAL));
        }
        if !remaining.is_zero() {
            return ConditionAction::WaitUntil(now + remaining);
        }
        let conditions = desired.iter().zip(&self.statuses);
        let conditions = conditions
            .map(|(want, (_, since))| want.condition(node.condition(want.kind), *since, wall));
        ConditionAction::Write(conditions.collect())
    }

    /// The conditions were written.
    pub fn wrote(&mut self, desired: &[DesiredCondition], now: Instant) {
        (self.written, self.in_flight) = (Some(now), Some(desired.to_vec()));
    }

    fn note_transitions(&mut self, desired: &[DesiredCondition], wall: SystemTime) {
        if self.statuses.is_empty() {
            self.statuses = desired.iter().map(|want| (want.status, wall)).collect();
        }
        for (want, (status, since)) in desired.iter().zip(&mut self.statuses) {
            if *status != want.status {
                (*status, *since) = (want.status, wall);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ConditionAction::{WaitUntil, Write};

    use super::*;
    use crate::{
        cluster::conditions::tests::{at, faults, of},
        model::{FaultKind, Scope},
    };

    #[test]
    fn what_differs_is_written_at_once_and_what_does_not_is_refreshed() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let (mut state, good) = (ConditionState::default(), of(&faults(&[])));
        let bad = of(&faults(&[(FaultKind::IoError, Scope::Host, 1000)]));
        let write = |action| match action {
            Write(conditions) => conditions,
            WaitUntil(at) => panic!("in {:?}", at - start),
        };
        // A Node that has none of them yet.
        let mut node = Node::default();
        node.conditions = write(state.action(&good, &node, later(0), at(500)));
        state.wrote(&good, later(0));
        assert_eq!(node.conditions.len(), 3);
        assert_eq!(node.conditions[1].last_transition_time, "1970-01-01T00:08:20Z");
        // The Node is as it should be: nothing to do for five minutes.
        assert_eq!(state.action(&good, &node, later(1), at(501)), WaitUntil(later(300)));
        // The heartbeat keeps the time of the transition.
        let beat = write(state.action(&good, &node, later(300), at(800)));
        assert_eq!(beat[1].last_transition_time, "1970-01-01T00:08:20Z");
        assert_eq!(beat[1].last_heartbeat_time, "1970-01-01T00:13:20Z");
        node.conditions = beat;
        state.wrote(&good, later(300));
        // A fault: at once, and with the fault's own time.
        let found = write(state.action(&bad, &node, later(501), at(1001)));
        assert_eq!((found[1].status.as_str(), found[0].status.as_str()), ("True", "False"));
        assert_eq!(found[1].last_transition_time, "1970-01-01T00:16:40Z");
        assert_eq!(found[0].last_transition_time, "1970-01-01T00:08:20Z");
        state.wrote(&bad, later(501));
        // The watch has not shown it yet; if it never does, it is written again.
        assert_eq!(state.action(&bad, &node, later(502), at(1002)), WaitUntil(later(506)));
        assert!(matches!(state.action(&bad, &node, later(506), at(1006)), Write(_)));
        // A change of the message alone can wait.
        node.conditions = found;
        let mut more = bad.clone();
        more[1].message.push_str(" (and 1 more)");
        assert_eq!(state.action(&more, &node, later(502), at(1002)), WaitUntil(later(511)));
        assert!(matches!(state.action(&more, &node, later(511), at(1011)), Write(_)));
        // The fault is over: the transition is now.
        let over = write(state.action(&good, &node, later(520), at(1020)));
        assert_eq!(over[1].last_transition_time, "1970-01-01T00:17:00Z");
        // Somebody else changed it back in the meantime.
        state.wrote(&good, later(520));
        assert!(matches!(state.action(&good, &node, later(530), at(1030)), Write(_)));
    }

    #[test]
    fn a_restart_keeps_the_time_of_the_transition() {
        let bad = of(&faults(&[(FaultKind::IoError, Scope::Host, 1000)]));
        let mut node = Node::default();
        let Write(first) = ConditionState::default().action(&bad, &node, Instant::now(), at(1001))
        else {
            panic!()
        };
        node.conditions = first;
        let reopened = of(&faults(&[(FaultKind::IoError, Scope::Host, 2000)]));
        let Write(second) =
            ConditionState::default().action(&reopened, &node, Instant::now(), at(2001))
        else {
            panic!()
        };
        assert_eq!(second[1].last_transition_time, "1970-01-01T00:16:40Z");
        assert_eq!(second[1].last_heartbeat_time, "1970-01-01T00:33:21Z");
    }
}
