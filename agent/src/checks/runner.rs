//! Samples probes in the background, so that no request waits for one that is already running.
//!
//! A probe of the default set runs from the start. Any other one starts at its first request, which waits for the
//! first result, and stops [`settings::PROBE_IDLE`] after the last one. Every probe runs as a task of its own on a thread
//! that answers nobody: one that panics, hangs or keeps the thread busy costs its own result at most.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{sleep_until, timeout},
};
use tracing::{debug, error};

use super::beat::Beat;
use crate::{checks::settings, model::Outcome};

/// One sample that is being taken.
pub type Sampling = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What the runner is to run.
pub struct Probe {
    /// The check's name.
    pub name: &'static str,
    /// A sample that takes longer is dropped.
    pub timeout: Duration,
    /// Begins a sample.
    pub sample: Box<dyn Fn() -> Sampling + Send + Sync>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What a probe found.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The outcome.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
    /// When it was found.
    pub at: Instant,
}

/// Every probe's latest sample, for who answers.
#[derive(Clone, Debug, Default)]
pub struct Probes(Arc<Seats>);

#[derive(Debug, Default)]
struct Seats {
    by_name: BTreeMap<&'static str, Seat>,
    /// Counts changes of what any of them says, not samples: who waits for news is not woken by none.
    changes: watch::Sender<u64>,
}

impl Seats {
    fn put(&self, seat: &Seat, sample: Option<Sample>) {
        let outcome = |sample: &Option<Sample>| sample.as_ref().map(|s| s.outcome.clone());
        let now = outcome(&sample);
        if outcome(&seat.latest.send_replace(sample)) != now {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}

/// A probe, as seen by who asks for it.
#[derive(Debug)]
struct Seat {
    timeout: Duration,
    /// Of the default set: in demand whether anybody asks or not.
    always: bool,
    began: Instant,
    /// Milliseconds from `began` to the last request, plus one; 0 before the first.
    asked: AtomicU64,
    wake: Notify,
    latest: watch::Sender<Option<Sample>>,
}

impl Seat {
    fn new(timeout: Duration, always: bool) -> Self {
        let latest = watch::Sender::new(None);
        let (asked, wake) = (AtomicU64::new(0), Notify::new());
        Self { timeout, always, began: Instant::now(), asked, wake, latest }
    }

    fn ask(&self) {
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        if self.asked.swap(ms + 1, Relaxed) == 0 {
            self.wake.notify_one();
        }
    }

    /// Whether anybody wants a sample; where not, the next one who does wakes it.
    fn is_in_demand(&self) -> bool {
        let mut asked = self.asked.load(Relaxed);
        loop {
            let since = self.began.elapsed().saturating_sub(Duration::from_millis(asked));
            if self.always || (asked != 0 && since < settings::PROBE_IDLE) {
                return true;
            }
            // Who asked in between has seen that it runs, and wakes nobody.
            match self.asked.compare_exchange(asked, 0, Relaxed, Relaxed) {
                Ok(_) => return false,
                Err(now) => asked = now,
            }
        }
    }
}

/// The task that watches the thread that the probes run on.
#[derive(Debug)]
pub struct Runner(mpsc::Receiver<()>);

impl Runner {
    /// Starts the thread. Probes whose names are in `always` begin at once.
    pub fn start(
        probes: Vec<Probe>,
        always: &[&'static str],
        period: Duration,
    ) -> io::Result<(Self, Probes)> {
        let seats = probes
            .iter()
            .map(|probe| (probe.name, Seat::new(probe.timeout, always.contains(&probe.name))));
        let seats = Seats { by_name: seats.collect(), changes: watch::Sender::default() };
        let seats = Arc::new(seats);
        let beat = Arc::new(Beat::new(Instant::now()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Names that are being resolved; what may hang on a disk has threads of its own.
            .max_blocking_threads(4)
            .build()?;
        let (ends, ended) = mpsc::channel(1);
        let followed = seats.clone();
        let follow_all = async move {
            let mut tasks = tokio::task::JoinSet::new();
            for probe in probes {
                let (seats, beat) = (followed.clone(), beat.clone());
                tasks.spawn(async move {
                    if let Some(seat) = seats.by_name.get(probe.name) {
                        follow(&seats, seat, &probe, period, &beat).await;
                    }
                });
            }
            // They have no end; without any there is nothing to wait for.
            tasks.join_next().await;
            if tasks.is_empty() {
                std::future::pending::<()>().await;
            }
        };
        thread::Builder::new().name("tocsin-probes".to_owned()).spawn(move || {
            runtime.block_on(follow_all);
            drop(ends);
        })?;
        Ok((Self(ended), Probes(seats)))
    }

    /// Ends when the thread did.
    pub async fn run(mut self) -> anyhow::Error {
        let _nothing_is_ever_sent = self.0.recv().await;
        anyhow::anyhow!("the thread of the probes ended")
    }
}

async fn follow(seats: &Seats, seat: &Seat, probe: &Probe, period: Duration, beat: &Beat) {
    loop {
        if !seat.is_in_demand() {
            // Whoever asks next wants to know what is, not what was.
            seats.put(seat, None);
            seat.wake.notified().await;
        }
        let began = Instant::now();
        let outcome = sample(probe).await;
        let took = began.elapsed();
        debug!(probe = probe.name, ?took, ?outcome, "sampled");
        seats.put(seat, Some(Sample { outcome, took, at: Instant::now() }));
        sleep_until(beat.next(began, period).into()).await;
    }
}

/// One sample: its panic is an outcome, and it is gone before the next one begins.
async fn sample(probe: &Probe) -> Outcome {
    let mut task = tokio::spawn((probe.sample)());
    match timeout(probe.timeout, &mut task).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panicked)) => {
            error!(probe = probe.name, error = %panicked, "a probe panicked");
            Outcome::Unknown("the probe itself failed: this is a bug, see the log".to_owned())
        }
        Err(_) => {
            task.abort();
            let _cancelled = task.await;
            Outcome::Unknown(format!("no result within {} s", probe.timeout.as_secs_f64()))
        }
    }
}

impl Probes {
    /// Asks for these, and waits until each of them has a result; one that is running already is not waited for.
    pub async fn demand(&self, names: impl IntoIterator<Item = &str>) {
        let names = names.into_iter();
        let seats: Vec<_> = names.filter_map(|name| self.0.by_name.get(name)).collect();
        for seat in &seats {
            seat.ask();
        }
        for seat in seats {
            let mut latest = seat.latest.subscribe();
            // A time-out ends every sample; more than that only a thread that is stuck can take.
            let limit = seat.timeout + MARGIN;
            let _says_so_itself = timeout(limit, latest.wait_for(Option::is_some)).await;
        }
    }

    /// Asks for these, and says whether each of them has a result already.
    pub fn want<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        let mut all = true;
        for seat in names.into_iter().filter_map(|name| self.0.by_name.get(name)) {
            seat.ask();
            all &= seat.latest.borrow().is_some();
        }
        all
    }

    /// Changes whenever any of them says something else.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The latest sample of that probe, if it is in demand.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<Sample> {
        self.0.by_name.get(name).and_then(|seat| seat.latest.borrow().clone())
    }

    /// What the probe says at this moment.
    #[must_use]
    pub fn outcome(&self, name: &str, period: Duration, now: Instant) -> Outcome {
        let limit =
            self.0.by_name.get(name).map_or(Duration::ZERO, |seat| seat.timeout) + period + MARGIN;
        outcome(self.latest(name).as_ref(), limit, now)
    }
}

/// A second for being scheduled.
const MARGIN: Duration = Duration::from_secs(1);

/// What an old sample says: nothing.
fn outcome(latest: Option<&Sample>, limit: Duration, now: Instant) -> Outcome {
    let Some(latest) = latest else { return Outcome::Unknown("no result yet".to_owned()) };
    let age = now.saturating_duration_since(latest.at);
    if age > limit {
        return Outcome::Unknown(format!("stuck for {} s", age.as_secs()));
    }
    latest.outcome.clone()
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, atomic::AtomicUsize};

    use tokio::time::sleep;

    use super::*;

    const PERIOD: Duration = Duration::from_millis(20);

    fn probe(
        name: &'static str,
        timeout: Duration,
        sample: impl Fn() -> Sampling + Send + Sync + 'static,
    ) -> Probe {
        Probe { name, timeout, sample: Box::new(sample) }
    }

    fn counting(name: &'static str, count: &Arc<AtomicUsize>) -> Probe {
        let count = count.clone();
        probe(name, Duration::from_secs(5), move || {
            count.fetch_add(1, Relaxed);
            Box::pin(async { Outcome::Pass })
        })
    }

    struct Leaves(Arc<Mutex<(usize, usize)>>);
    impl Drop for Leaves {
        fn drop(&mut self) {
            self.0.lock().unwrap().0 -= 1;
        }
    }

    fn says(probes: &Probes, name: &str) -> Outcome {
        probes.outcome(name, PERIOD, Instant::now())
    }

    #[tokio::test]
    async fn a_probe_begins_with_its_first_request_and_goes_on_by_itself() {
        let (asked, always) = (Arc::default(), Arc::default());
        let probes = vec![counting("asked", &asked), counting("always", &always)];
        let (_runner, probes) = Runner::start(probes, &["always"], PERIOD).unwrap();
        while always.load(Relaxed) < 3 {
            sleep(PERIOD).await;
        }
        assert_eq!(asked.load(Relaxed), 0);
        assert_eq!(says(&probes, "asked"), Outcome::Unknown("no result yet".into()));
        probes.demand(["asked", "nobody"]).await;
        assert_eq!(says(&probes, "asked"), Outcome::Pass);
        while asked.load(Relaxed) < 3 {
            sleep(PERIOD).await;
        }
    }

    #[tokio::test]
    async fn hanging_and_panicking_probes_have_a_result_and_hold_up_nobody() {
        let running = Arc::new(Mutex::new((0, 0)));
        let seen = running.clone();
        let hangs = probe("hangs", PERIOD, move || {
            let mut now = seen.lock().unwrap();
            now.0 += 1;
            now.1 = now.1.max(now.0);
            let leaves = Leaves(seen.clone());
            Box::pin(async move {
                let _until_it_is_dropped = leaves;
                std::future::pending().await
            })
        });
        let panics =
            probe("panics", Duration::from_secs(5), || Box::pin(async { panic!("on purpose") }));
        let well = Arc::default();
        let probes = vec![hangs, panics, counting("well", &well)];
        let (_runner, probes) = Runner::start(probes, &[], PERIOD).unwrap();
        probes.demand(["hangs", "panics", "well"]).await;
        assert_eq!(says(&probes, "hangs"), Outcome::Unknown("no result within 0.02 s".into()));
        assert!(matches!(says(&probes, "panics"), Outcome::Unknown(why) if why.contains("bug")));
        let before = well.load(Relaxed);
        while well.load(Relaxed) < before + 10 {
            sleep(PERIOD).await;
        }
        assert_eq!(running.lock().unwrap().1, 1, "two samples at once");
        assert_eq!(says(&probes, "well"), Outcome::Pass);
    }

    #[test]
    fn an_old_sample_says_nothing() {
        let now = Instant::now();
        let sample = Sample { outcome: Outcome::Pass, took: PERIOD, at: now };
        let limit = Duration::from_secs(3);
        for (age, expected) in [
            (0, Outcome::Pass),
            (3, Outcome::Pass),
            (4, Outcome::Unknown("stuck for 4 s".into())),
            (90, Outcome::Unknown("stuck for 90 s".into())),
        ] {
            let now = now + Duration::from_secs(age);
            assert_eq!(outcome(Some(&sample), limit, now), expected, "{age}");
        }
    }

    #[test]
    fn demand_ends() {
        let seat = Seat::new(PERIOD, false);
        assert!(!seat.is_in_demand());
        seat.ask();
        assert!(seat.is_in_demand());
        let long_ago = Instant::now().checked_sub(settings::PROBE_IDLE * 2).unwrap();
        let seat = Seat { began: long_ago, ..Seat::new(PERIOD, false) };
        seat.asked.store(1, Relaxed);
        assert!(!seat.is_in_demand());
        // The next one to ask is the first again, who wakes it.
        assert_eq!(seat.asked.load(Relaxed), 0);
        seat.ask();
        assert!(seat.is_in_demand());
        assert!(Seat { began: long_ago, ..Seat::new(PERIOD, true) }.is_in_demand());
    }
}
