//! How things stand with the API server: a pure state, from news and the time to a [`NodeView`].

use std::time::{Duration, Instant, SystemTime};

use crate::{
    cluster::settings,
    model::{ApiState, Node, NodeObservation, NodeView},
};

/// A reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For what must not jump.
    pub monotonic: Instant,
    /// For people.
    pub wall: SystemTime,
}

/// What the session tells.
#[derive(Clone, Debug)]
pub enum News {
    /// The Node as it is now, on a watch that is established; `None` where the cluster has none of that name.
    Word(Option<Node>),
    /// The watch ended and is being renewed.
    Ended,
    /// An attempt failed.
    Trouble(Trouble),
    /// The session's thread runs.
    Alive,
}

/// What an attempt failed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One line.
    pub why: String,
    /// For how long the server had been silent when that was noticed.
    pub silent: Duration,
}

/// A connection that is down, and not yet lost.
#[derive(Clone, Debug)]
struct Down {
    since: Now,
    why: String,
}

/// The state.
#[derive(Debug)]
pub struct State {
    view: NodeView,
    down: Option<Down>,
    alive: Now,
    /// It is called lost because its thread said nothing, and for no other reason.
    stuck: bool,
    /// Since when it is up after a loss.
    recovered: Option<Instant>,
    /// The last recovery did not last: the next one has to prove itself.
    unsteady: bool,
    /// Since when it does.
    proving: Option<Instant>,
}

/// A recovery of this length was one.
const STEADY: Duration = Duration::from_secs(1);

/// Two signs of life that did not come, and some time to be scheduled.
const STUCK: Duration = settings::API_ALIVE_INTERVAL.saturating_mul(2);

impl State {
    /// Nothing has been heard yet.
    #[must_use]
    pub fn new(now: Now) -> Self {
        let view = NodeView { api: ApiState::Pending, last: None };
        let down = Down { since: now, why: "it has not answered yet".to_owned() };
        Self {
            view,
            down: Some(down),
            alive: now,
            stuck: false,
            recovered: None,
            unsteady: false,
            proving: None,
        }
    }

    /// What is known now.
    #[must_use]
    pub fn view(&self) -> &NodeView {
        &self.view
    }

    /// When [`Self::pass`] has something to do, if nothing is heard before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let stuck = Some(self.alive.monotonic + STUCK);
        match (&self.view.api, &self.down) {
            (ApiState::Lost { .. } | ApiState::NotConfigured, _) => {
                self.proving.map(|since| since + STEADY)
            }
            (_, Some(down)) => stuck.min(Some(down.since.monotonic + settings::API_GRACE)),
            (_, None) => stuck,
        }
    }

    /// Takes in what was heard.
    pub fn hear(&mut self, news: News, now: Now) {
        self.alive = now;
        match news {
            // Whatever happened meanwhile comes after it.
            News::Alive if self.stuck => self.is_up(now),
            News::Alive => {}
            News::Word(node) => {
                self.down = None;
                self.view.last = Some(NodeObservation { at: now.wall, node });
                if self.unsteady && matches!(self.view.api, ApiState::Lost { .. }) {
                    self.proving.get_or_insert(now.monotonic);
                } else {
                    self.is_up(now);
                }
            }
            News::Ended => self.is_down(Duration::ZERO, "the watch ended".to_owned(), now),
            News::Trouble(Trouble { why, silent }) => {
                (self.stuck, self.proving) = (false, None);
                let is_short = |since| now.monotonic.saturating_duration_since(since) < STEADY;
                if self.view.api == ApiState::Up && self.recovered.is_some_and(is_short) {
                    // A server that is lost again at once was not back: one outage, not many.
                    self.unsteady = true;
                    self.view.api = ApiState::Lost { since: now.wall, error: why };
                } else {
                    self.is_down(silent, why, now);
                }
            }
        }
        self.pass(now);
    }

    fn is_up(&mut self, now: Now) {
        if let ApiState::Lost { .. } = self.view.api {
            self.recovered = Some(now.monotonic);
        }
        self.view.api = ApiState::Up;
        (self.stuck, self.proving) = (false, None);
    }

    fn is_down(&mut self, silent: Duration, why: String, now: Now) {
        if let ApiState::Lost { error: old, .. } = &mut self.view.api {
            *old = why;
            return;
        }
        // Before the first word there is nothing to hold on to while it is tried again.
        if self.view.api == ApiState::Pending {
            let since = self.down.as_ref().map_or(now.wall, |down| down.since.wall);
            self.view.api = ApiState::Lost { since, error: why };
            return;
        }
        if let Some(down) = &mut self.down {
            down.why = why;
            return;
        }
        let since = Now {
            monotonic: now.monotonic.checked_sub(silent).unwrap_or(now.monotonic),
            wall: now.wall.checked_sub(silent).unwrap_or(now.wall),
        };
        self.down = Some(Down { since, why });
    }

    /// Takes in that time has passed.
    pub fn pass(&mut self, now: Now) {
        if self.proving.is_some_and(|since| now.monotonic >= since + STEADY) {
            self.unsteady = false;
            self.is_up(now);
        }
        if matches!(self.view.api, ApiState::Lost { .. } | ApiState::NotConfigured) {
            return;
        }
        let after = |then: Now| now.monotonic.saturating_duration_since(then.monotonic);
        if let Some(down) = self.down.take_if(|down| after(down.since) >= settings::API_GRACE) {
            self.view.api = ApiState::Lost { since: down.since.wall, error: down.why };
        } else if after(self.alive) >= STUCK {
            self.stuck = self.view.api == ApiState::Up;
            let why = "the thread that talks to it is stuck".to_owned();
            self.view.api = ApiState::Lost { since: self.alive.wall, error: why };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Clock(Now);

    impl Clock {
        fn new() -> Self {
            Self(Now { monotonic: Instant::now(), wall: SystemTime::UNIX_EPOCH })
        }

        fn at(&self, ms: u64) -> Now {
            let later = Duration::from_millis(ms);
            Now { monotonic: self.0.monotonic + later, wall: self.0.wall + later }
        }
    }

    fn trouble(why: &str, silent: u64) -> News {
        News::Trouble(Trouble { why: why.to_owned(), silent: Duration::from_millis(silent) })
    }

    /// What the link is called, and since when and why it is lost.
    fn tell(state: &State) -> String {
        match &state.view.api {
            ApiState::NotConfigured => "none".to_owned(),
            ApiState::Pending => "awaited".to_owned(),
            ApiState::Up => "up".to_owned(),
            ApiState::Lost { since, error } => {
                let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
                format!("lost since {since}: {error}")
            }
        }
    }

    #[test]
    fn a_loss_shows_after_the_grace_and_ends_with_a_word() {
        let up = || News::Word(Some(Node::default()));
        // Of each story: (ms, what is heard or that time passes, what is shown)
        let stories: &[&[(u64, Option<News>, &str)]] = &[
            &[(0, Some(up()), "up"), (4000, Some(News::Alive), "up")],
            // The start.
            &[
                (0, None, "awaited"),
                (999, None, "awaited"),
                (1000, None, "lost since 0: it has not answered yet"),
            ],
            &[(5, Some(trouble("refused", 0)), "lost since 0: refused"), (900, Some(up()), "up")],
            // A reconnection within the grace is nobody's business.
            &[
                (0, Some(up()), "up"),
                (2000, Some(trouble("closed", 0)), "up"),
                (2500, Some(trouble("refused", 0)), "up"),
                (2990, Some(up()), "up"),
                (4000, None, "up"),
            ],
            // The first failure counts, the last one is told.
            &[
                (0, Some(up()), "up"),
                (2000, Some(trouble("closed", 0)), "up"),
                (2500, Some(trouble("refused", 0)), "up"),
                (2999, None, "up"),
                (3000, None, "lost since 2000: refused"),
                (3500, Some(trouble("forbidden", 0)), "lost since 2000: forbidden"),
                (4000, Some(up()), "up"),
            ],
            // A PING without an answer tells that the server had been silent before.
            &[
                (0, Some(up()), "up"),
                (2500, Some(trouble("PING", 500)), "up"),
                (2999, None, "up"),
                (3000, None, "lost since 2000: PING"),
            ],
            // A renewal is short; one that is not is a loss.
            &[
                (0, Some(up()), "up"),
                (10, Some(News::Ended), "up"),
                (20, Some(up()), "up"),
                (2000, None, "up"),
            ],
            &[
                (0, Some(up()), "up"),
                (10, Some(News::Ended), "up"),
                (1010, None, "lost since 10: the watch ended"),
            ],
            // A thread that says nothing.
            &[
                (0, Some(up()), "up"),
                (9999, None, "up"),
                (10_000, None, "lost since 0: the thread that talks to it is stuck"),
                (11_000, Some(News::Alive), "up"),
                (12_000, None, "up"),
            ],
            // A thread that was stuck and then has bad news.
            &[
                (0, Some(up()), "up"),
                (10_000, None, "lost since 0: the thread that talks to it is stuck"),
                (11_000, Some(trouble("closed", 0)), "lost since 0: closed"),
                (15_000, Some(News::Alive), "lost since 0: closed"),
                (16_000, Some(up()), "up"),
            ],
            // What is lost again as soon as it is back is one outage until it stays.
            &[
                (0, Some(trouble("refused", 0)), "lost since 0: refused"),
                (500, Some(up()), "up"),
                (510, Some(trouble("ends", 0)), "lost since 510: ends"),
                (1400, Some(up()), "lost since 510: ends"),
                (1410, Some(trouble("ends", 0)), "lost since 510: ends"),
                (2300, Some(up()), "lost since 510: ends"),
                (2900, Some(up()), "lost since 510: ends"),
                (3300, None, "up"),
                (4310, Some(trouble("closed", 0)), "up"),
                (4900, Some(up()), "up"),
            ],
        ];
        for story in stories {
            let clock = Clock::new();
            let mut state = State::new(clock.at(0));
            for (ms, news, expected) in *story {
                if let Some(deadline) = state.deadline() {
                    // Whoever waits for the deadline misses nothing.
                    let before = (tell(&state), deadline);
                    if clock.at(*ms).monotonic < deadline && news.is_none() {
                        state.pass(clock.at(*ms));
                        assert_eq!((tell(&state), deadline), before);
                    }
                }
                match news {
                    Some(news) => state.hear(news.clone(), clock.at(*ms)),
                    None => state.pass(clock.at(*ms)),
                }
                assert_eq!(tell(&state), *expected, "at {ms} of {story:?}");
            }
        }
    }

    #[test]
    fn what_was_said_last_outlives_a_loss() {
        let clock = Clock::new();
        let mut state = State::new(clock.at(0));
        state.hear(News::Word(None), clock.at(1));
        state.hear(trouble("closed", 0), clock.at(2));
        state.pass(clock.at(5000));
        assert_eq!(state.view().last.as_ref().unwrap().at, clock.at(1).wall);
        assert_eq!(tell(&state), "lost since 2: closed");
    }
}
