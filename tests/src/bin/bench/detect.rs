//! The time from the kernel's event to the first byte of a 503, and to the message of a gRPC watch.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use e2e::agent::{TIMEOUT, run_cli};
use e2e::http::Connection;
use e2e::sync::SetOnDrop;
use e2e::sys::monotonic_ns;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::report::Report;
use crate::scale::Scale;

/// The number of devices, which have a fault in turn. The kernel programs send ten records a second for each device, and
/// a fault with its clear takes some 5 ms: with so many devices, none comes near that limit.
const DEVICES: usize = 64;

/// Gets a path without a pause, as seen by a load balancer; gives every change of the status with the time of its first
/// byte.
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

/// [`watch_status`] or [`watch_grpc`].
type Watch = for<'scope> fn(
    &'scope Scope<'scope, '_>,
    SocketAddr,
    &'static str,
    &'scope AtomicBool,
) -> Receiver<(u16, u64)>;

/// Gives every change of the status of a gRPC watch of the default set.
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
            // The first message is the status at the start.
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
    is_ready.recv_timeout(TIMEOUT).expect("a first message");
    changes
}

/// Waits until the watcher has seen this status, and gives the time.
pub(crate) fn expect(agent: &Agent, changes: &Receiver<(u16, u64)>, status: u16) -> u64 {
    match changes.recv_timeout(TIMEOUT) {
        Ok((seen, at)) if seen == status => at,
        Ok((seen, _)) => agent.fail(&format!("{seen} instead of {status}")),
        Err(RecvTimeoutError::Timeout) => agent.fail(&format!("no {status}")),
        Err(RecvTimeoutError::Disconnected) => agent.fail("the watcher ended"),
    }
}

/// Keeps the kernel's console silent, except for emergencies. While a serial console takes the message of an error, some
/// milliseconds long, its processor does nothing else, which would be measured.
pub(crate) struct SilentConsole(Option<String>);

const PRINTK: &str = "/proc/sys/kernel/printk";

impl SilentConsole {
    pub(crate) fn new() -> Self {
        let levels = fs::read_to_string(PRINTK).ok();
        Self(levels.filter(|_| fs::write(PRINTK, "1").is_ok()))
    }

    fn description(&self) -> &'static str {
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
            let _stop = SetOnDrop(&done);
            let changes = watch(scope, agent.health_address(), "/health", &done);
            let rounds = volumes.iter().cycle().take(scale.injections);
            rounds.map(|volume| once(sandbox, &agent, &changes, volume)).collect::<Vec<_>>()
        });
        let mut times: Vec<_> = found.iter().map(|found| found.took).collect();
        report.times(name, &mut times, Some(budget));
        // For these, the agent has read ext4's counter before the event, and the time is that before the injection.
        found.iter().filter(|found| !found.by_event).count()
    };
    let mut without = measure("kernel event to first 503 byte", [1.0, 5.0], watch_status);
    without += measure("kernel event to a gRPC watch", [1.0, 5.0], watch_grpc);
    let counted =
        || volumes.iter().map(|v| agent.kernel_count("ext4_error", v.device().number())).sum();
    let injected = 2 * scale.injections as u64;
    let end = Instant::now() + TIMEOUT;
    let mut count: u64 = counted();
    while count != injected && Instant::now() < end {
        count = counted();
    }
    report.count("of these, counted + missed", injected, count, agent.missed_events());
    report.note("the kernel's console", silent.description());
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
    // ext4 counts the error a little later than it reports it: a fault cleared before that would open again.
    agent.wait_for("ext4's own count", TIMEOUT, |_| {
        (inject::ext4_errors(volume.device()) > errors).then_some(())
    });
    let number = volume.device().number();
    let faults = agent.faults();
    let fault = faults.iter().find(|fault| fault.device == number);
    let Some(fault) = fault else { agent.fail(&format!("no fault on {number}")) };
    let kernel = fault.kernel_ns;
    let id = &*fault.id;
    let cleared = run_cli(sandbox, &["faults", "clear", id]);
    assert!(cleared.status.success(), "{cleared:?}");
    expect(agent, changes, 200);
    let took = Duration::from_nanos(seen.saturating_sub(kernel.unwrap_or(before)));
    Found { took, by_event: kernel.is_some() }
}
