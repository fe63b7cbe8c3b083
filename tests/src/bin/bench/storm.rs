//! A storm: a million failed requests to a device, as fast as the machine makes them.

use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::http::Connection;
use e2e::sync::SetOnDrop;
use e2e::sys::monotonic_ns;
use e2e::{Agent, Filesystem, MIB, Sandbox, Volume, inject};

use crate::detect::{expect, watch_status};
use crate::report::Report;
use crate::scale::Scale;

/// The number of threads: more than processors, so that the device is never idle.
const WRITERS: u64 = 4;

/// From here on the mounted device's end is missing: every read of it fails (6.12 and later), and the filesystem before it
/// does not notice.
const MISSING: u64 = 60 * MIB;

pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let victim = Volume::new(sandbox, "storm", Filesystem::Ext4, "");
    let backing = OpenOptions::new().write(true).open(sandbox.path("storm.img"));
    backing.and_then(|file| file.set_len(MISSING)).expect("cut the backing file");
    let device = victim.device().path();
    if inject::read_block(&device, MISSING).is_ok() {
        report.note("storm", "not on this kernel: a loop device over a short file reads zeroes");
        return;
    }
    let mut other = Volume::new(sandbox, "beside", Filesystem::Ext4, "");
    let agent = Agent::start(sandbox);
    let address = agent.health_address();
    let before = agent.resident_kib();
    let done = AtomicBool::new(false);
    let failed = AtomicU64::new(0);
    thread::scope(|scope| {
        let stop = SetOnDrop(&done);
        let latency = scope.spawn(|| latency(address, &done));
        let changes = watch_status(scope, address, "/health/filesystem_ro", &done);

        let start = Instant::now();
        let storm: Vec<_> = (0..WRITERS)
            .map(|_| scope.spawn(|| storm(&device, scale.storm_errors / WRITERS, &failed)))
            .collect();
        // Another filesystem breaks meanwhile, many times.
        let mut times = Vec::new();
        while times.len() < scale.storm_injections
            && !storm.iter().all(ScopedJoinHandle::is_finished)
        {
            // The check io_errors fails because of the storm, so this one is watched. The time is from before the call:
            // the agent may find the fault in the mount table first, which has no kernel time.
            let at = monotonic_ns();
            inject::shut_down(other.point());
            let seen = expect(&agent, &changes, 503);
            times.push(Duration::from_nanos(seen.saturating_sub(at)));
            other.unmount();
            other.mount("");
            expect(&agent, &changes, 200);
        }
        for one in storm {
            one.join().expect("join the storm");
        }
        let took = start.elapsed();
        drop(stop);

        let failed = failed.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = failed as f64 / took.as_secs_f64();
        report.note("storm", &format!("{failed} errors in {took:.1?}, {rate:.0}/s"));
        // The counters are at most a second old.
        let number = victim.device().number();
        let end = Instant::now() + TIMEOUT;
        // A program does not run while another one on its CPU reads a map, which the kernel counts as missed; and in
        // some virtual machines not while the machine's own agent runs, which nothing counts.
        let look = || (agent.kernel_count("block_read", number), agent.missed_events());
        let mut seen = look();
        while seen.0 + seen.1 != failed && Instant::now() < end {
            seen = look();
        }
        report.count("storm, errors counted + missed", failed, seen.0, seen.1);
        report.times("storm, /health", &mut latency.join().expect("join"), Some([1.0, 5.0]));
        report.times("storm, shutdown call to first 503 byte", &mut times, Some([1.0, 5.0]));
    });
    report.note("storm, resident before", &format!("{before} KiB"));
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let after = agent.resident_kib() as f64 / 1024.0;
    report.below("storm, resident after", after, 10.0, "MiB");
}

fn storm(device: &Path, times: u64, failed: &AtomicU64) {
    // Each read is one request, since it is the same block each time.
    failed.fetch_add(inject::read_block_times(device, MISSING, times), Ordering::Relaxed);
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
