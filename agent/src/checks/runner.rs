//! Samples probes in the background, so that no request waits for a probe that already runs.
//!
//! A probe of the default set runs from the start. Any other probe starts with the first request for it, which waits
//! for the first sample, and stops [`settings::PROBE_IDLE`](super::settings::PROBE_IDLE) after the last request. Every
//! probe is a task of its own on a thread that answers no requests: a probe that panics, hangs or keeps the thread busy
//! costs no more than its own result.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{sleep_until, timeout},
};
use tracing::{debug, error};

use super::{
    sample_schedule::SampleSchedule,
    samples::{ProbeSlot, ProbeSlots, Probes, Sample},
};
use crate::model::Outcome;

/// 4 threads of the runner for names that are being resolved. Calls that may hang on a disk have threads of their own.
const BLOCKING_THREADS: usize = 4;

/// A sample that is being taken.
pub type SampleFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A probe, as the runner needs it.
pub struct Probe {
    /// The name of the check.
    pub name: &'static str,
    /// A sample that takes longer is dropped, and its outcome is unknown.
    pub timeout: Duration,
    /// Begins a sample.
    pub sample: Box<dyn Fn() -> SampleFuture + Send + Sync>,
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The task that watches the thread of the probes.
#[derive(Debug)]
pub struct Runner(mpsc::Receiver<()>);

impl Runner {
    /// Starts the thread. Probes whose names are in `always` begin at once; a sample is due every `period`.
    pub fn start(
        probes: Vec<Probe>,
        always: &[&'static str],
        period: Duration,
    ) -> io::Result<(Self, Probes)> {
        let slot = |probe: &Probe| ProbeSlot::new(probe.timeout, always.contains(&probe.name));
        let samples = Probes::new(probes.iter().map(|probe| (probe.name, slot(probe))));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .build()?;
        let (ends, ended) = mpsc::channel(1);
        let slots = samples.slots();
        thread::Builder::new().name("tocsin-probes".to_owned()).spawn(move || {
            runtime.block_on(sample_all(probes, slots, period));
            drop(ends);
        })?;
        Ok((Self(ended), samples))
    }

    /// Ends when the thread has ended, which is an error.
    pub async fn run(mut self) -> anyhow::Error {
        let _nothing_is_ever_sent = self.0.recv().await;
        anyhow::anyhow!("the thread of the probes ended")
    }
}

/// Runs every probe in a task of its own; does not end.
async fn sample_all(probes: Vec<Probe>, slots: Arc<ProbeSlots>, period: Duration) {
    let schedule = Arc::new(SampleSchedule::default());
    let mut tasks = tokio::task::JoinSet::new();
    for probe in probes {
        let (slots, schedule) = (slots.clone(), schedule.clone());
        tasks.spawn(async move {
            if let Some(slot) = slots.get(probe.name) {
                sample_repeatedly(&probe, &slots, slot, &schedule, period).await;
            }
        });
    }
    // The tasks have no end. Without any probe there is nothing to wait for.
    tasks.join_next().await;
    if tasks.is_empty() {
        std::future::pending::<()>().await;
    }
}

async fn sample_repeatedly(
    probe: &Probe,
    slots: &ProbeSlots,
    slot: &ProbeSlot,
    schedule: &SampleSchedule,
    period: Duration,
) {
    loop {
        if !slot.is_in_demand() {
            // The next request is for the state at that time, not for an old one.
            slots.publish(slot, None);
            slot.first_request().await;
        }
        let began = Instant::now();
        let outcome = sample(probe).await;
        let took = began.elapsed();
        debug!(probe = probe.name, ?took, ?outcome, "sampled");
        slots.publish(slot, Some(Sample { outcome, took, at: Instant::now() }));
        sleep_until(schedule.next(began, period).into()).await;
    }
}

/// Takes one sample. A panic is an outcome; a sample that is late is gone before the next one begins.
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

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use tokio::time::sleep;

    use super::*;

    const PERIOD: Duration = Duration::from_millis(20);

    fn probe(
        name: &'static str,
        timeout: Duration,
        sample: impl Fn() -> SampleFuture + Send + Sync + 'static,
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

    struct Running(Arc<Mutex<(usize, usize)>>);
    impl Drop for Running {
        fn drop(&mut self) {
            self.0.lock().unwrap().0 -= 1;
        }
    }

    /// The last result, however old: on a busy machine one of a period of 20 ms is soon too old to count.
    fn says(probes: &Probes, name: &str) -> Outcome {
        probes.outcome(name, Duration::from_mins(1), Instant::now())
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
        probes.demand(["asked", "no such probe"]).await;
        assert_eq!(says(&probes, "asked"), Outcome::Pass);
        while asked.load(Relaxed) < 3 {
            sleep(PERIOD).await;
        }
    }

    #[tokio::test]
    async fn hanging_and_panicking_probes_have_a_result_and_hold_up_no_other() {
        let running = Arc::new(Mutex::new((0, 0)));
        let seen = running.clone();
        let hangs = probe("hangs", PERIOD, move || {
            let mut now = seen.lock().unwrap();
            now.0 += 1;
            now.1 = now.1.max(now.0);
            let guard = Running(seen.clone());
            Box::pin(async move {
                let _until_it_is_dropped = guard;
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
}
