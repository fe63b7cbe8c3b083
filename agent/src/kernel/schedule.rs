//! When to take snapshots, read the kernel's counters and look for missing hooks: pure.
//!
//! * A kernel event, or a notification that something may have changed, begins a burst of snapshots ([`BURST`]): some
//!   filesystems show the result of an error late.
//! * One snapshot is in flight at most, and after each one the burst rests for [`REST`] times as long as it took.
//! * An event on a device that no known filesystem is on ends that rest: the filesystem may have just been mounted.
//! * Counters are read often while events come, and seldom when none do.
//!
//! The snapshots that the sampler takes of its own accord, every `REREAD_INTERVAL`, are not in here: they are made on its
//! own thread, so that an idle host wakes up only that one.

use std::time::{Duration, Instant};

use super::settings::{COUNTERS_INTERVAL, HOOK_RETRY, IDLE_INTERVAL, MISSED_INTERVAL};

/// Snapshots of a burst, in time after its event: at once, and again when slower filesystems (ext4 reports an error
/// before it acts on it) show the result.
const BURST: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
];

/// 40 times the duration of a snapshot until the next one of a burst, so that ten thousand mounts do not keep a processor
/// busy.
const REST: u32 = 40;

/// 9 times the duration of such a snapshot out of the rest until the next one: devices that carry no filesystem and fail for
/// ever cost a tenth of a processor at most.
const URGENT_REST: u32 = 9;

/// 3 readings of the counters after the last event: what found no room in the ring buffer was counted by then.
const READINGS_AFTER_EVENT: u32 = 3;

/// A burst of snapshots.
#[derive(Clone, Copy, Debug)]
struct Burst {
    began: Instant,
    /// The next of [`BURST`].
    step: usize,
}

/// What is due when.
#[derive(Debug)]
pub(super) struct Schedule {
    burst: Option<Burst>,
    /// A snapshot was requested and has not come back.
    is_in_flight: bool,
    /// No snapshot of a burst before this.
    rest_until: Instant,
    /// A snapshot is wanted that begins from now on, whatever the rest.
    is_urgent: bool,
    /// The snapshot in flight is an urgent one.
    is_urgent_in_flight: bool,
    /// No urgent snapshot before this.
    urgent_rest_until: Instant,
    last_event: Option<Instant>,
    counters_at: Instant,
    missed_at: Instant,
    hooks_at: Instant,
}

impl Schedule {
    /// A schedule without a burst. The counters are due at once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            burst: None,
            is_in_flight: false,
            rest_until: now,
            is_urgent: false,
            is_urgent_in_flight: false,
            urgent_rest_until: now,
            last_event: None,
            counters_at: now,
            missed_at: now,
            hooks_at: now + HOOK_RETRY,
        }
    }

    /// Kernel events came.
    pub(super) fn event(&mut self, now: Instant) {
        self.last_event = Some(now);
        self.counters_at = self.counters_at.min(now + COUNTERS_INTERVAL);
        self.notification(now);
    }

    /// Something may have changed: a burst begins. One that has just begun goes on instead.
    pub(super) fn notification(&mut self, now: Instant) {
        if !matches!(self.burst, Some(Burst { step: 0 | 1, .. })) {
            self.burst = Some(Burst { began: now, step: 0 });
        }
    }

    /// An event came for a device that no known filesystem is on: the mount table is read at once, whatever the rest after
    /// the last reading. The reading that is in flight may have begun too early, and is followed by another one.
    pub(super) fn unknown_device(&mut self) {
        self.is_urgent = true;
    }

    /// When the next snapshot is due; `None` if none is wanted, or while a snapshot is in flight.
    pub(super) fn next_snapshot(&self) -> Option<Instant> {
        if self.is_in_flight {
            return None;
        }
        let due = |burst: Burst| (burst.began + BURST[burst.step]).max(self.rest_until);
        let urgent = self.is_urgent.then_some(self.urgent_rest_until);
        self.burst.map(due).into_iter().chain(urgent).min()
    }

    /// Whether to request a snapshot now. If so, it is in flight from now on.
    pub(super) fn begin_due_snapshot(&mut self, now: Instant) -> bool {
        let is_due = self.next_snapshot().is_some_and(|due| now >= due);
        if is_due {
            // Every snapshot from now on has what was mounted before the event.
            self.is_urgent_in_flight = std::mem::take(&mut self.is_urgent);
            // An urgent snapshot may come before the burst's first one is due, and is no step of it then.
            let step = |burst: Burst| {
                let is_reached = now >= burst.began + BURST[burst.step];
                Burst { step: burst.step + usize::from(is_reached), ..burst }
            };
            self.burst = self.burst.map(step).filter(|burst| burst.step < BURST.len());
            self.is_in_flight = true;
        }
        is_due
    }

    /// Whether to request a snapshot now, whatever is due: not while another one is in flight. If so, it is in flight
    /// from now on.
    pub(super) fn begin_snapshot(&mut self) -> bool {
        !std::mem::replace(&mut self.is_in_flight, true)
    }

    /// A snapshot came, which took `cost`.
    pub(super) fn snapshot_came(&mut self, now: Instant, cost: Duration) {
        self.is_in_flight = false;
        self.rest_until = now + cost * REST;
        if std::mem::take(&mut self.is_urgent_in_flight) {
            self.urgent_rest_until = now + cost * URGENT_REST;
        }
    }

    /// When to read the counters.
    pub(super) fn counters_at(&self) -> Instant {
        self.counters_at
    }

    /// The counters have been read at their time. They are read again soon if an event came lately.
    pub(super) fn counters_were_read(&mut self, now: Instant) {
        let recent = READINGS_AFTER_EVENT * COUNTERS_INTERVAL;
        let is_eventful = self.last_event.is_some_and(|at| now.duration_since(at) < recent);
        self.counters_at = now + if is_eventful { COUNTERS_INTERVAL } else { IDLE_INTERVAL };
    }

    /// When to look for missed events.
    pub(super) fn missed_at(&self) -> Instant {
        self.missed_at
    }

    /// Whether to look for missed events now; true once in [`MISSED_INTERVAL`].
    pub(super) fn begin_missed(&mut self, now: Instant) -> bool {
        let is_due = now >= self.missed_at;
        if is_due {
            self.missed_at = now + MISSED_INTERVAL;
        }
        is_due
    }

    /// Whether to look for missing hooks now; true once in [`HOOK_RETRY`].
    pub(super) fn begin_hooks(&mut self, now: Instant) -> bool {
        let is_due = now >= self.hooks_at;
        if is_due {
            self.hooks_at = now + HOOK_RETRY;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens, at a time in milliseconds.
    #[derive(Clone, Copy, Debug)]
    enum Input {
        Event(u64),
        Notification(u64),
        /// An event for a device that no known filesystem is on.
        Unknown(u64),
        /// A requested snapshot comes back at the first time, after the second one.
        Came(u64, u64),
    }

    /// Feeds the inputs in their order. Requests every snapshot in the millisecond in which it is due, until `end`; it
    /// takes no time, unless `Came` says otherwise. Returns the times of the requests.
    fn requests(inputs: &[Input], end: u64) -> Vec<u64> {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut schedule = Schedule::new(start);
        let instant = !inputs.iter().any(|input| matches!(input, Input::Came(..)));
        let mut requested = Vec::new();
        for millis in 0..=end {
            for input in inputs {
                match *input {
                    Input::Event(when) if when == millis => schedule.event(at(millis)),
                    Input::Notification(when) if when == millis => {
                        schedule.notification(at(millis));
                    }
                    Input::Unknown(when) if when == millis => {
                        schedule.event(at(millis));
                        schedule.unknown_device();
                    }
                    Input::Came(when, cost) if when == millis => {
                        schedule.snapshot_came(at(millis), Duration::from_millis(cost));
                    }
                    _ => {}
                }
            }
            while schedule.begin_due_snapshot(at(millis)) {
                requested.push(millis);
                if instant {
                    schedule.snapshot_came(at(millis), Duration::ZERO);
                }
            }
        }
        requested
    }

    #[test]
    fn a_burst_follows_each_event() {
        use Input::{Came, Event, Notification, Unknown};
        for (what, inputs, expected) in [
            ("nothing", &[][..], &[][..]),
            ("an event", &[Event(5)], &[5, 6, 15, 105, 1005]),
            ("a notification", &[Notification(0)], &[0, 1, 10, 100, 1000]),
            ("one that has just begun goes on", &[Event(0), Event(1)], &[0, 1, 10, 100, 1000]),
            ("a later one begins anew", &[Event(0), Event(50)], &[0, 1, 10, 50, 51, 60, 150, 1050]),
            ("none while one is in flight", &[Event(0), Came(400, 0)], &[0, 400]),
            (
                "a slow one is followed by a rest",
                &[Event(0), Came(10, 10), Came(420, 0)],
                &[0, 410, 420],
            ),
            (
                "a rest holds up the next burst too",
                &[Event(0), Came(20, 20), Event(30), Came(830, 0)],
                &[0, 820, 830],
            ),
            (
                "an unknown device ends the rest",
                &[Notification(0), Came(5, 5), Unknown(30), Came(35, 5)],
                &[0, 30, 235],
            ),
            (
                "a snapshot that began before its event is followed by another one",
                &[Notification(0), Unknown(2), Came(5, 5), Came(10, 5)],
                &[0, 5, 210],
            ),
            (
                "unknown devices that fail without end have a rest of their own",
                &[Unknown(0), Came(10, 10), Unknown(20), Came(110, 10), Unknown(111)],
                &[0, 100, 200],
            ),
        ] {
            assert_eq!(requests(inputs, 1500), expected, "{what}");
        }
    }

    #[test]
    fn a_snapshot_out_of_turn_is_in_flight_like_any_other() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        assert!(schedule.begin_snapshot());
        assert!(!schedule.begin_snapshot());
        schedule.event(now);
        assert!(!schedule.begin_due_snapshot(now));
        assert_eq!(schedule.next_snapshot(), None);
        schedule.snapshot_came(now, Duration::ZERO);
        assert!(schedule.begin_due_snapshot(now));
    }

    #[test]
    fn counters_are_read_every_second_while_events_come() {
        let start = Instant::now();
        // (events, readings until the twentieth second), in seconds
        for (events, expected) in [
            (&[][..], &[0, 5, 10, 15, 20][..]),
            (&[6], &[0, 5, 7, 8, 9, 14, 19]),
            (&[6, 8], &[0, 5, 7, 8, 9, 10, 11, 16]),
        ] {
            let mut schedule = Schedule::new(start);
            let mut readings = Vec::new();
            for second in 0..=20 {
                let now = start + Duration::from_secs(second);
                if now >= schedule.counters_at() {
                    readings.push(second);
                    schedule.counters_were_read(now);
                }
                if events.contains(&second) {
                    schedule.event(now);
                }
            }
            assert_eq!(readings, expected, "{events:?}");
        }
    }

    #[test]
    fn missing_hooks_are_looked_for_every_ten_seconds() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let due: Vec<u64> = (0..35)
            .filter(|second| schedule.begin_hooks(start + Duration::from_secs(*second)))
            .collect();
        assert_eq!(due, [10, 20, 30]);
    }

    #[test]
    fn missed_events_are_looked_for_whatever_else_happens() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        let looks = (0..10_000).filter(|millis| {
            let now = start + Duration::from_millis(*millis);
            if millis % 700 == 0 {
                schedule.event(now);
                schedule.counters_were_read(now);
            }
            schedule.begin_missed(now)
        });
        let looks: Vec<u64> = looks.collect();
        assert!(looks.windows(2).all(|pair| pair[1] - pair[0] < 1000), "{looks:?}");
        assert_eq!(looks.len(), 12);
    }
}
