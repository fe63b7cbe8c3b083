//! The state of the connection to the API server: pure, from the session's events and the time to a [`NodeView`].

use std::time::{Duration, Instant, SystemTime};

use super::{
    session_event::{SessionError, SessionEvent},
    settings,
};
use crate::model::{ApiState, NodeObservation, NodeView};

/// 1 second: a connection that is lost again sooner had not recovered.
const STEADY: Duration = Duration::from_secs(1);
/// 10 seconds: two heartbeats that did not come, which leaves time to be scheduled.
const STUCK: Duration = settings::HEARTBEAT_INTERVAL.saturating_mul(2);

/// A reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    /// For durations: this clock never jumps.
    pub monotonic: Instant,
    /// For people.
    pub wall: SystemTime,
}

/// A connection that is down, but not yet long enough to be a loss.
#[derive(Clone, Debug)]
struct Interruption {
    since: Timestamp,
    error: String,
}

/// Tracks the state of the API server and what it showed last.
#[derive(Debug)]
pub struct ApiStateTracker {
    view: NodeView,
    interruption: Option<Interruption>,
    last_event: Timestamp,
    /// The API server is called lost because the session's thread was silent, and for no other reason.
    is_stuck: bool,
    /// When the API server was back after a loss.
    recovered: Option<Instant>,
    /// The last recovery did not last, so the next one must last for [`STEADY`] before it counts.
    is_unsteady: bool,
    /// When the recovery began that must last.
    on_trial: Option<Instant>,
}

impl ApiStateTracker {
    /// The state at the start: nothing has arrived yet.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        let error = "it has not answered yet".to_owned();
        Self {
            view: NodeView { api: ApiState::Pending, last: None },
            interruption: Some(Interruption { since: now, error }),
            last_event: now,
            is_stuck: false,
            recovered: None,
            is_unsteady: false,
            on_trial: None,
        }
    }

    /// The view now.
    #[must_use]
    pub fn view(&self) -> &NodeView {
        &self.view
    }

    /// When [`Self::on_time`] must be called, if no event arrives before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let stuck = Some(self.last_event.monotonic + STUCK);
        match (&self.view.api, &self.interruption) {
            (ApiState::Lost { .. } | ApiState::NotConfigured, _) => {
                self.on_trial.map(|since| since + STEADY)
            }
            (_, Some(down)) => stuck.min(Some(down.since.monotonic + settings::API_GRACE)),
            (_, None) => stuck,
        }
    }

    /// Takes in an event of the session.
    pub fn on_event(&mut self, event: SessionEvent, now: Timestamp) {
        self.last_event = now;
        match event {
            // The thread is running again, and whatever happened meanwhile is behind this event in the queue.
            SessionEvent::Heartbeat if self.is_stuck => self.set_up(now),
            SessionEvent::Heartbeat => {}
            SessionEvent::Observed(node) => {
                self.interruption = None;
                self.view.last = Some(NodeObservation { at: now.wall, node });
                if self.is_unsteady && self.is_lost() {
                    self.on_trial.get_or_insert(now.monotonic);
                } else {
                    self.set_up(now);
                }
            }
            SessionEvent::WatchEnded => {
                let message = "the watch ended".to_owned();
                self.set_down(SessionError { message, silent_for: Duration::ZERO }, now);
            }
            SessionEvent::Failed(error) => self.on_error(error, now),
        }
        self.on_time(now);
    }

    /// Takes in that time has passed.
    pub fn on_time(&mut self, now: Timestamp) {
        if self.on_trial.is_some_and(|since| now.monotonic >= since + STEADY) {
            self.is_unsteady = false;
            self.set_up(now);
        }
        if self.is_lost() || self.view.api == ApiState::NotConfigured {
            return;
        }
        let since = |then: Timestamp| now.monotonic.saturating_duration_since(then.monotonic);
        let lost = self.interruption.take_if(|down| since(down.since) >= settings::API_GRACE);
        if let Some(Interruption { since, error }) = lost {
            self.view.api = ApiState::Lost { since: since.wall, error };
        } else if since(self.last_event) >= STUCK {
            self.is_stuck = self.view.api == ApiState::Up;
            let error = "the thread that talks to it is stuck".to_owned();
            self.view.api = ApiState::Lost { since: self.last_event.wall, error };
        }
    }

    fn on_error(&mut self, error: SessionError, now: Timestamp) {
        (self.is_stuck, self.on_trial) = (false, None);
        let is_short = |since| now.monotonic.saturating_duration_since(since) < STEADY;
        if self.view.api == ApiState::Up && self.recovered.is_some_and(is_short) {
            // A server that fails again at once was not back: this is one outage, not many.
            self.is_unsteady = true;
            self.view.api = ApiState::Lost { since: now.wall, error: error.message };
        } else {
            self.set_down(error, now);
        }
    }

    fn is_lost(&self) -> bool {
        matches!(self.view.api, ApiState::Lost { .. })
    }

    fn set_up(&mut self, now: Timestamp) {
        if self.is_lost() {
            self.recovered = Some(now.monotonic);
        }
        self.view.api = ApiState::Up;
        (self.is_stuck, self.on_trial) = (false, None);
    }

    fn set_down(&mut self, error: SessionError, now: Timestamp) {
        let SessionError { message, silent_for } = error;
        if let ApiState::Lost { error, .. } = &mut self.view.api {
            *error = message;
            return;
        }
        // Before the first answer there is no verdict to keep while the next attempt is made.
        if self.view.api == ApiState::Pending {
            let since = self.interruption.as_ref().map_or(now.wall, |down| down.since.wall);
            self.view.api = ApiState::Lost { since, error: message };
            return;
        }
        if let Some(down) = &mut self.interruption {
            down.error = message;
            return;
        }
        let since = Timestamp {
            monotonic: now.monotonic.checked_sub(silent_for).unwrap_or(now.monotonic),
            wall: now.wall.checked_sub(silent_for).unwrap_or(now.wall),
        };
        self.interruption = Some(Interruption { since, error: message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Node;

    struct Clock(Timestamp);

    impl Clock {
        fn new() -> Self {
            Self(Timestamp { monotonic: Instant::now(), wall: SystemTime::UNIX_EPOCH })
        }

        fn at(&self, ms: u64) -> Timestamp {
            let later = Duration::from_millis(ms);
            Timestamp { monotonic: self.0.monotonic + later, wall: self.0.wall + later }
        }
    }

    fn failed(message: &str, silent_ms: u64) -> SessionEvent {
        let silent_for = Duration::from_millis(silent_ms);
        SessionEvent::Failed(SessionError { message: message.to_owned(), silent_for })
    }

    /// The state in words: its name, and since when and why the server is lost.
    fn shown(state: &ApiStateTracker) -> String {
        match &state.view.api {
            ApiState::NotConfigured => "none".to_owned(),
            ApiState::Pending => "pending".to_owned(),
            ApiState::Up => "up".to_owned(),
            ApiState::Lost { since, error } => {
                let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
                format!("lost since {since}: {error}")
            }
        }
    }

    #[test]
    fn a_loss_shows_after_the_grace_and_ends_with_an_observation() {
        let up = || SessionEvent::Observed(Some(Node::default()));
        // Of each story: (ms, the event or None where time passes, the state shown)
        let stories: &[&[(u64, Option<SessionEvent>, &str)]] = &[
            &[(0, Some(up()), "up"), (4000, Some(SessionEvent::Heartbeat), "up")],
            // The start.
            &[
                (0, None, "pending"),
                (999, None, "pending"),
                (1000, None, "lost since 0: it has not answered yet"),
            ],
            &[(5, Some(failed("refused", 0)), "lost since 0: refused"), (900, Some(up()), "up")],
            // A reconnection within the grace does not show.
            &[
                (0, Some(up()), "up"),
                (2000, Some(failed("closed", 0)), "up"),
                (2500, Some(failed("refused", 0)), "up"),
                (2990, Some(up()), "up"),
                (4000, None, "up"),
            ],
            // The loss began with the first error; the last error is shown.
            &[
                (0, Some(up()), "up"),
                (2000, Some(failed("closed", 0)), "up"),
                (2500, Some(failed("refused", 0)), "up"),
                (2999, None, "up"),
                (3000, None, "lost since 2000: refused"),
                (3500, Some(failed("forbidden", 0)), "lost since 2000: forbidden"),
                (4000, Some(up()), "up"),
            ],
            // With an unanswered PING, the loss began before the error was noticed.
            &[
                (0, Some(up()), "up"),
                (2500, Some(failed("PING", 500)), "up"),
                (2999, None, "up"),
                (3000, None, "lost since 2000: PING"),
            ],
            // A renewal of the watch is short; one that is not is a loss.
            &[
                (0, Some(up()), "up"),
                (10, Some(SessionEvent::WatchEnded), "up"),
                (20, Some(up()), "up"),
                (2000, None, "up"),
            ],
            &[
                (0, Some(up()), "up"),
                (10, Some(SessionEvent::WatchEnded), "up"),
                (1010, None, "lost since 10: the watch ended"),
            ],
            // A thread without heartbeats.
            &[
                (0, Some(up()), "up"),
                (9999, None, "up"),
                (10_000, None, "lost since 0: the thread that talks to it is stuck"),
                (11_000, Some(SessionEvent::Heartbeat), "up"),
                (12_000, None, "up"),
            ],
            // A thread that was stuck and then reports an error.
            &[
                (0, Some(up()), "up"),
                (10_000, None, "lost since 0: the thread that talks to it is stuck"),
                (11_000, Some(failed("closed", 0)), "lost since 0: closed"),
                (15_000, Some(SessionEvent::Heartbeat), "lost since 0: closed"),
                (16_000, Some(up()), "up"),
            ],
            // A server that is lost again at once is one outage until it stays.
            &[
                (0, Some(failed("refused", 0)), "lost since 0: refused"),
                (500, Some(up()), "up"),
                (510, Some(failed("ends", 0)), "lost since 510: ends"),
                (1400, Some(up()), "lost since 510: ends"),
                (1410, Some(failed("ends", 0)), "lost since 510: ends"),
                (2300, Some(up()), "lost since 510: ends"),
                (2900, Some(up()), "lost since 510: ends"),
                (3300, None, "up"),
                (4310, Some(failed("closed", 0)), "up"),
                (4900, Some(up()), "up"),
            ],
        ];
        for story in stories {
            let clock = Clock::new();
            let mut state = ApiStateTracker::new(clock.at(0));
            for (ms, event, expected) in *story {
                if let Some(deadline) = state.deadline() {
                    // Nothing changes before the deadline.
                    let before = (shown(&state), deadline);
                    if clock.at(*ms).monotonic < deadline && event.is_none() {
                        state.on_time(clock.at(*ms));
                        assert_eq!((shown(&state), deadline), before);
                    }
                }
                match event {
                    Some(event) => state.on_event(event.clone(), clock.at(*ms)),
                    None => state.on_time(clock.at(*ms)),
                }
                assert_eq!(shown(&state), *expected, "at {ms} of {story:?}");
            }
        }
    }

    #[test]
    fn the_last_observation_outlives_a_loss() {
        let clock = Clock::new();
        let mut state = ApiStateTracker::new(clock.at(0));
        state.on_event(SessionEvent::Observed(None), clock.at(1));
        state.on_event(failed("closed", 0), clock.at(2));
        state.on_time(clock.at(5000));
        assert_eq!(state.view().last.as_ref().unwrap().at, clock.at(1).wall);
        assert_eq!(shown(&state), "lost since 2: closed");
    }
}
