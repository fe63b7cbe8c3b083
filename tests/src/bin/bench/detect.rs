//! From the kernel's event to the first byte of a 503, and to what a gRPC watch is told.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use e2e::agent::{PATIENCE, run_cli};
use e2e::http::Connection;
use e2e::sys::monotonic_ns;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::Scale;
use crate::report::Report;

/// The kernel side passes on ten records per device and second, and an injection with its clear takes
/// some 5 ms: with this many devices in turn, none of them comes near the limit.
const DEVICES: usize = 64;

/// How a load balancer sees the agent: every change of the status, with the time of its first byte.
pub(crate) fn watch_status<'scope>(
    scope: &'scope Scope<'scope, '_>,
    address: SocketAddr,
    path: &'static str,
    done: &'scope AtomicBool,
) -> Receiver<(u16, u64)> {
    let (sender, changes) = channel();
    scope.spawn(move || {
        let mut connection = Connection::open(address).expect("connect to the agent");
        let mut status = 200;
        while !done.load(Ordering::Relaxed) {
            let answer = connection.get(path).expect("an answer");
            if answer.status != status {
                status = answer.status;
                if sender.send((status, answer.first_byte_ns)).is_err() {
                    return;
                }
            }
        }
    });
    changes
}

/// One of the two ways to see it.
type Watch = for<'scope> fn(
    &'scope Scope<'scope, '_>,
    SocketAddr,
    &'static str,
    &'scope AtomicBool,
) -> Receiver<(u16, u64)>;

/// The same by a gRPC watch of the default set: nobody asks, the agent tells.
fn watch_grpc<'scope>(
    scope: &'scope Scope<'scope, '_>,
    address: SocketAddr,
    _path: &'static str,
    done: &'scope AtomicBool,
) -> Receiver<(u16, u64)> {
    let (sender, changes) = channel();
    let (ready, is_ready) = channel();
    scope.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
            let channel = endpoint.connect().await.expect("connect to the agent");
            let request = HealthCheckRequest { service: String::new() };
            let watch = HealthClient::new(channel).watch(request).await.expect("a watch");
            let mut watch = watch.into_inner();
            // The first one tells how it is, not what changed.
            watch.message().await.expect("no error").expect("no end");
            let _gone = ready.send(());
            while !done.load(Ordering::Relaxed) {
                let next = timeout(Duration::from_millis(20), watch.message()).await;
                let Ok(message) = next else { continue };
                let at = monotonic_ns();
                let message = message.expect("no error").expect("no end");
                let status = if message.status() == ServingStatus::Serving { 200 } else { 503 };
                if sender.send((status, at)).is_err() {
                    return;
                }
            }
        });
    });
    is_ready.recv_timeout(PATIENCE).expect("a first message");
    changes
}

/// Waits until the watcher saw this status, and gives the time.
pub(crate) fn expect(agent: &Agent, changes: &Receiver<(u16, u64)>, status: u16) -> u64 {
    match changes.recv_timeout(PATIENCE) {
        Ok((seen, at)) if seen == status => at,
        Ok((seen, _)) => agent.fail(&format!("{seen} instead of {status}")),
        Err(RecvTimeoutError::Timeout) => agent.fail(&format!("no {status}")),
        Err(RecvTimeoutError::Disconnected) => agent.fail("the watcher ended"),
    }
}

/// Ends the watcher however its scope is left.
pub(crate) struct Stop<'a>(pub(crate) &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While a serial console takes the kernel's message of an error, some milliseconds long, that processor does nothing
/// else: that would be measured. As long as this lives, nothing but an emergency is printed there.
struct SilentConsole(Option<String>);

const PRINTK: &str = "/proc/sys/kernel/printk";

impl SilentConsole {
    fn new() -> Self {
        let levels = fs::read_to_string(PRINTK).ok();
        Self(levels.filter(|_| fs::write(PRINTK, "1").is_ok()))
    }

    fn told(&self) -> &'static str {
        match self.0 {
            Some(_) => "silent while it was measured",
            None => "as it was: /proc/sys/kernel/printk cannot be written",
        }
    }
}

impl Drop for SilentConsole {
    fn drop(&mut self) {
        if let Some(levels) = &self.0 {
            let _best_effort = fs::write(PRINTK, levels);
        }
    }
}

pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let volumes: Vec<_> = (0..DEVICES)
        .map(|number| {
            Volume::new(sandbox, &format!("detect-{number}"), Filesystem::Ext4, "errors=continue")
        })
        .collect();
    let agent = Agent::start(sandbox);
    let silent = SilentConsole::new();
    let mut measure = |name, budget, watch: Watch| {
        let done = AtomicBool::new(false);
        let found = thread::scope(|scope| {
            let _stop = Stop(&done);
            let changes = watch(scope, agent.health_address(), "/health", &done);
            let rounds = volumes.iter().cycle().take(scale.injections);
            rounds.map(|volume| once(sandbox, &agent, &changes, volume)).collect::<Vec<_>>()
        });
        let mut times: Vec<_> = found.iter().map(|found| found.took).collect();
        report.times(name, &mut times, Some(budget));
        // Then ext4's count was read before the event was, and the time is from before the injection.
        found.iter().filter(|found| !found.by_event).count()
    };
    let mut without = measure("kernel event to first 503 byte", [1.0, 5.0], watch_status);
    without += measure("kernel event to a gRPC watch", [1.0, 5.0], watch_grpc);
    let counted = || volumes.iter().map(|v| agent.count("ext4_error", v.device().number())).sum();
    let injected = 2 * scale.injections as u64;
    let end = Instant::now() + PATIENCE;
    let mut count: u64 = counted();
    while count != injected && Instant::now() < end {
        count = counted();
    }
    report.count("of these, counted + missed", injected, count, agent.missed());
    report.note("the kernel's console", silent.told());
    report.note("of these, found by ext4's count first", &without.to_string());
}

struct Found {
    took: Duration,
    /// Whether the fault has the kernel's time of the event.
    by_event: bool,
}

fn once(
    sandbox: &Sandbox,
    agent: &Agent,
    changes: &Receiver<(u16, u64)>,
    volume: &Volume,
) -> Found {
    let errors = inject::ext4_errors(volume.device());
    let before = monotonic_ns();
    inject::ext4_error(volume.device());
    let seen = expect(agent, changes, 503);
    // ext4 counts the error a little later; cleared before that, the count would be news.
    agent.wait_for("ext4's own count", PATIENCE, |_| {
        (inject::ext4_errors(volume.device()) > errors).then_some(())
    });
    let number = volume.device().number();
    let faults = agent.faults();
    let fault = faults.iter().find(|fault| fault["device"] == number);
    let Some(fault) = fault else { agent.fail(&format!("no fault on {number}")) };
    let kernel = fault["kernel_ns"].as_u64();
    let id = fault["id"].as_str().expect("an id");
    let cleared = run_cli(sandbox, &["faults", "clear", id]);
    assert!(cleared.status.success(), "{cleared:?}");
    expect(agent, changes, 200);
    let took = Duration::from_nanos(seen.saturating_sub(kernel.unwrap_or(before)));
    Found { took, by_event: kernel.is_some() }
}
