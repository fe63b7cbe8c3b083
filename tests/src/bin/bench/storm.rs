//! A storm: a million failed requests to a device, as fast as the machine makes them, five times.
//!
//! What the agent counted, and what it says that it missed, is compared with what the kernel emitted ([`Emitted`]).
//! Meanwhile another filesystem breaks, again and again.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::emitted::Counts;
use e2e::http::Connection;
use e2e::sync::SetOnDrop;
use e2e::sys::monotonic_ns;
use e2e::{Agent, Emitted, Filesystem, MIB, Sandbox, Volume, inject};

use crate::detect::{SilentConsole, expect, watch_status};
use crate::report::Report;
use crate::scale::Scale;

/// The number of threads: more than processors, so that the device is never idle.
const WRITERS: u64 = 4;

/// From here on the mounted device's end is missing: every read of it fails (6.12 and later), and the filesystem before it
/// does not notice.
const MISSING: u64 = 60 * MIB;

/// The storm's device, and who counts its events.
struct Storm<'a> {
    agent: &'a Agent,
    victim: &'a Volume,
    emitted: Option<Emitted>,
    scale: Scale,
}

/// What was counted so far.
#[derive(Clone, Copy)]
struct Counted {
    kernel: Option<Counts>,
    events: u64,
    missed: u64,
}

/// The times of what happened meanwhile.
#[derive(Default)]
struct Times {
    health: Vec<Duration>,
    /// From the kernel's time of the second fault's event to the first byte of a 503.
    second: Vec<Duration>,
    /// Those of them that the agent found in the mount table before it read their event, which has the time. They are timed
    /// from before the call that makes them.
    without_event: usize,
}

pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let victim = Volume::new(sandbox, "storm", Filesystem::Ext4, "");
    let backing = OpenOptions::new().write(true).open(sandbox.path("storm.img"));
    backing.and_then(|file| file.set_len(MISSING)).expect("cut the backing file");
    if inject::read_block(&victim.device().path(), MISSING).is_ok() {
        report.note("storm", "not on this kernel: a loop device over a short file reads zeroes");
        return;
    }
    let mut other = Volume::new(sandbox, "beside", Filesystem::Ext4, "");
    let agent = Agent::start(sandbox);
    let _silent = SilentConsole::new();
    let resident = agent.resident_kib();
    let emitted = Emitted::new(sandbox, victim.device());
    let storm = Storm { agent: &agent, victim: &victim, emitted, scale };
    let mut times = Times::default();
    for number in 1..=scale.storms {
        storm.once(number, &mut other, &mut times, report);
    }
    report.times("storm, /health", &mut times.health, Some([1.0, 5.0]));
    let what = "storm, kernel event of a second fault to first 503 byte";
    report.times(what, &mut times.second, Some([1.0, 5.0]));
    let without = format!("{}, timed from the call that makes them", times.without_event);
    report.note("storm, second faults found in the mount table first", &without);
    report.note("storm, resident before", &format!("{resident} KiB"));
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let after = agent.resident_kib() as f64 / 1024.0;
    report.below("storm, resident after", after, 10.0, "MiB");
}

impl Storm<'_> {
    fn once(&self, number: usize, other: &mut Volume, times: &mut Times, report: &mut Report) {
        let (device, address) = (self.victim.device().path(), self.agent.health_address());
        let before = self.look();
        let bytes = self.emitted.as_ref().map_or(4096, Emitted::request);
        let (done, share) = (AtomicBool::new(false), self.scale.storm_errors / WRITERS);
        let (failed, took) = thread::scope(|scope| {
            let stop = SetOnDrop(&done);
            let latency = scope.spawn(|| latency(address, &done));
            let changes = watch_status(scope, address, "/health/filesystem_ro", &done);
            let start = Instant::now();
            // Each read is one request, since it is the same place each time.
            let read = || inject::read_times(&device, MISSING, bytes, share);
            let storm: Vec<_> = (0..WRITERS).map(|_| scope.spawn(read)).collect();
            let mut seconds = 0;
            while seconds < self.scale.storm_injections
                && !storm.iter().all(ScopedJoinHandle::is_finished)
            {
                self.second_fault(other, &changes, times);
                seconds += 1;
            }
            let failed: u64 =
                storm.into_iter().map(|one| one.join().expect("join the storm")).sum();
            let took = start.elapsed();
            drop(stop);
            times.health.extend(latency.join().expect("join"));
            (failed, took)
        });
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = failed as f64 / took.as_secs_f64();
        report.note(
            &format!("storm {number}, reads that failed"),
            &format!("{failed} in {took:.1?}, {rate:.0}/s"),
        );
        self.compare(number, failed, before, report);
    }

    /// Another filesystem breaks, and is mounted anew. The check `io_errors` fails because of the storm, so that of the
    /// second fault is another one.
    fn second_fault(&self, other: &mut Volume, changes: &Receiver<(u16, u64)>, times: &mut Times) {
        let before = monotonic_ns();
        inject::shut_down(other.point());
        let seen = expect(self.agent, changes, 503);
        let number = other.device().number();
        let faults = self.agent.faults();
        let fault = faults.iter().find(|fault| fault.device == number);
        let kernel = fault.and_then(|fault| fault.kernel_ns);
        times.without_event += usize::from(kernel.is_none());
        let from = kernel.unwrap_or(before);
        times.second.push(Duration::from_nanos(seen.saturating_sub(from)));
        // Mounted again at once, it could be taken for the same superblock until a probe says otherwise.
        other.unmount();
        expect(self.agent, changes, 200);
        other.mount("");
    }

    fn look(&self) -> Counted {
        let number = self.victim.device().number();
        Counted {
            events: self.agent.kernel_count("block_read", number),
            missed: self.agent.missed_events(),
            kernel: self.emitted.as_ref().map(Emitted::counts),
        }
    }

    /// The counters are at most a second old.
    fn compare(&self, number: usize, failed: u64, before: Counted, report: &mut Report) {
        let end = Instant::now() + TIMEOUT;
        loop {
            let now = self.look();
            let (counted, missed) = (now.events - before.events, now.missed - before.missed);
            let kernel = now.kernel.zip(before.kernel);
            let emitted = kernel.map(|(now, before)| now.emitted - before.emitted);
            let programs = kernel.map_or(failed, |(now, before)| now.programs - before.programs);
            if counted + missed != programs && Instant::now() < end {
                continue;
            }
            if let Some(emitted) = emitted {
                report.exact(
                    &format!("storm {number}, events that the kernel emitted"),
                    emitted,
                    failed,
                );
                report.note(
                    &format!("storm {number}, of these without any BPF program"),
                    &emitted.saturating_sub(programs).to_string(),
                );
            }
            let what = format!("storm {number}, counted + missed: {counted} + {missed}");
            report.exact(&what, counted + missed, programs);
            return;
        }
    }
}

/// Measures how long `/health` takes, once a millisecond.
fn latency(address: SocketAddr, done: &AtomicBool) -> Vec<Duration> {
    let mut connection = Connection::open(address).expect("connect to the agent");
    let mut times = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let start = Instant::now();
        connection.get("/health").expect("an answer");
        times.push(start.elapsed());
        thread::sleep(Duration::from_millis(1));
    }
    times
}
