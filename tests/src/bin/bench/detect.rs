//! From the kernel's event to the first byte of a 503.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, Scope};
use std::time::Duration;

use e2e::agent::{PATIENCE, run_cli};
use e2e::http::Connection;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

use crate::Scale;
use crate::report::Report;

/// The kernel side passes on ten records per device and second, and an operator's clear takes some
/// milliseconds: with this many devices in turn, none of them comes near the limit.
const DEVICES: usize = 20;

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

/// When the kernel saw what the one open fault is about.
fn kernel_time(agent: &Agent, check: &str) -> (String, u64) {
    let faults = agent.faults();
    let fault = faults.iter().find(|fault| fault["check"] == check);
    let found = fault.and_then(|fault| Some((fault["id"].as_str()?, fault["kernel_ns"].as_u64()?)));
    let Some((id, at)) = found else { agent.fail("no open fault with a kernel time") };
    (id.to_owned(), at)
}

pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let volumes: Vec<_> = (0..DEVICES)
        .map(|number| {
            Volume::new(sandbox, &format!("detect-{number}"), Filesystem::Ext4, "errors=continue")
        })
        .collect();
    let agent = Agent::start(sandbox);
    let done = AtomicBool::new(false);
    let mut times = thread::scope(|scope| {
        let _stop = Stop(&done);
        let changes = watch_status(scope, agent.health_address(), "/health", &done);
        let rounds = volumes.iter().cycle().take(scale.injections);
        rounds.map(|volume| once(sandbox, &agent, &changes, volume)).collect::<Vec<_>>()
    });
    report.times("kernel event to first 503 byte", &mut times, Some([1.0, 5.0]));
}

fn once(
    sandbox: &Sandbox,
    agent: &Agent,
    changes: &Receiver<(u16, u64)>,
    volume: &Volume,
) -> Duration {
    let errors = inject::ext4_errors(volume.device());
    inject::ext4_error(volume.device());
    let seen = expect(agent, changes, 503);
    // ext4 counts the error a little later; cleared before that, the count would be news.
    agent.wait_for("ext4's own count", PATIENCE, |_| {
        (inject::ext4_errors(volume.device()) > errors).then_some(())
    });
    let (id, kernel) = kernel_time(agent, "io_errors");
    let cleared = run_cli(sandbox, &["faults", "clear", &id]);
    assert!(cleared.status.success(), "{cleared:?}");
    expect(agent, changes, 200);
    Duration::from_nanos(seen.saturating_sub(kernel))
}
