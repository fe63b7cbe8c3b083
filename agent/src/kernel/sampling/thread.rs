//! The thread of the sampler, and the kernel task's handle on it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    sampler::Sampler,
    snapshot::{Sample, Snapshot},
};
use crate::host::clock;

/// What the kernel task and the sampler's thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Whether to send every snapshot, not only those that show something new.
    send_every: AtomicBool,
    /// When the last snapshot was complete, in `CLOCK_MONOTONIC` nanoseconds.
    last: AtomicU64,
}

/// The kernel task's handle on the sampler's thread. The thread ends when the handle is dropped.
#[derive(Debug)]
pub struct SamplerHandle {
    requests: std_mpsc::SyncSender<()>,
    samples: mpsc::Receiver<Sample>,
    shared: Arc<Shared>,
}

impl SamplerHandle {
    /// Requests a snapshot. A request while another one waits adds nothing. If the thread has died, [`next`](Self::next)
    /// says so.
    pub fn request(&self) {
        let _waits_already_or_died = self.requests.try_send(());
    }

    /// Waits for the next snapshot that was requested or that shows something new; `None` if the thread has died.
    pub async fn next(&mut self) -> Option<Sample> {
        self.samples.recv().await
    }

    /// Whether to send every snapshot, because the passage of time alone can change the verdict now (a stall grows old,
    /// a quiet window ends).
    pub fn send_every(&self, every: bool) {
        self.shared.send_every.store(every, Relaxed);
    }

    /// Time since the last snapshot was complete.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_nanos(clock::monotonic().saturating_sub(self.shared.last.load(Relaxed)))
    }
}

/// Starts the sampler's thread. It takes a snapshot on request and sends it, and one whenever `reread_interval` has
/// passed without a request. Of those it sends only what shows something new, so that on an idle host this thread wakes
/// up for a moment and no other one does.
pub fn spawn(sampler: Sampler, reread_interval: Duration) -> io::Result<SamplerHandle> {
    // One request can wait while a snapshot is taken, and one snapshot while the next one is taken.
    let (requests, requested) = std_mpsc::sync_channel(1);
    let (results, snapshots) = mpsc::channel(1);
    let shared = Arc::new(Shared { last: AtomicU64::new(clock::monotonic()), ..Shared::default() });
    let handle = SamplerHandle { requests, samples: snapshots, shared: shared.clone() };
    let body = move || run(sampler, reread_interval, &requested, &results, &shared);
    thread::Builder::new().name("tocsin-sampler".into()).stack_size(256 * 1024).spawn(body)?;
    Ok(handle)
}

fn run(
    mut sampler: Sampler,
    reread_interval: Duration,
    requested: &std_mpsc::Receiver<()>,
    results: &mpsc::Sender<Sample>,
    shared: &Shared,
) {
    let mut sent: Option<Snapshot> = None;
    loop {
        let is_requested = match requested.recv_timeout(reread_interval) {
            Ok(()) => true,
            Err(std_mpsc::RecvTimeoutError::Timeout) => false,
            Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
        };
        let start = Instant::now();
        let snapshot = sampler.sample();
        shared.last.store(clock::monotonic(), Relaxed);
        if !is_requested
            && !shared.send_every.load(Relaxed)
            && let (Ok(snapshot), Some(sent)) = (&snapshot, &sent)
            && !snapshot.matters_after(sent)
        {
            continue;
        }
        sent = snapshot.as_ref().ok().cloned();
        if results.blocking_send(Sample { snapshot, cost: start.elapsed() }).is_err() {
            return;
        }
    }
}
