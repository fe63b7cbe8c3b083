//! The agent when nothing happens: size of the binary, time to start, memory, CPU time.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::http::Connection;
use e2e::{Agent, Filesystem, MIB, Sandbox, Volume};

use crate::report::Report;
use crate::scale::Scale;

/// Measures the sizes of the two programs.
pub(crate) fn size(_: &Sandbox, _: Scale, report: &mut Report) {
    let controller = e2e::process::binary("tocsin-controller", "TOCSIN_CONTROLLER_BIN");
    for (name, path, budget) in
        [("tocsin", e2e::agent::binary(), 12.0), ("tocsin-controller", controller, 14.0)]
    {
        let bytes = fs::metadata(&path).expect("stat the binary").len();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        report.below(&format!("binary, {name}"), bytes as f64 / MIB as f64, budget, "MiB");
        report.note(&format!("binary, {name}, path"), &path.display().to_string());
    }
}

/// Measures from exec to the first response to a client that tries to connect all the time.
pub(crate) fn start(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let _volume = Volume::new(sandbox, "start", Filesystem::Ext4, "");
    let mut times: Vec<_> = (0..scale.starts).map(|_| start_once(sandbox)).collect();
    times.sort_unstable();
    let worst = times.last().copied().unwrap_or_default();
    let middle = times.get(times.len() / 2).copied().unwrap_or_default();
    report.below("start to first answer, median", middle.as_secs_f64() * 1e3, 150.0, "ms");
    report.note(
        &format!("start to first answer, max of {}", times.len()),
        &format!("{:.1} ms", worst.as_secs_f64() * 1e3),
    );
}

fn start_once(sandbox: &Sandbox) -> Duration {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("find a port");
    let address = listener.local_addr().expect("its number");
    drop(listener);
    let start = Instant::now();
    let connecting = thread::spawn(move || {
        loop {
            if let Ok(answer) = Connection::open(address).and_then(|mut open| open.get("/health")) {
                return (answer.status, start.elapsed());
            }
            assert!(start.elapsed() < TIMEOUT, "no answer");
            thread::sleep(Duration::from_micros(200));
        }
    });
    let agent = Agent::start_with(sandbox, |command| {
        command.env("LISTEN_PORT", address.port().to_string());
    });
    let (status, took) = connecting.join().expect("join");
    assert_eq!(status, 200, "the first answer");
    drop(agent);
    took
}

/// Measures memory and CPU time of an agent without a request or a fault.
pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let _volume = Volume::new(sandbox, "idle", Filesystem::Ext4, "");
    let agent = Agent::start_with(sandbox, |command| {
        // With the defaults: the short windows of the tests would cost more.
        command.env_remove("IO_ERROR_WINDOW").env_remove("IO_STALL_AFTER");
    });
    let wall = Duration::from_secs(scale.idle_seconds);
    thread::sleep(Duration::from_secs(1));
    let before = cpu_time(&agent);
    thread::sleep(wall);
    let used = cpu_time(&agent).saturating_sub(before);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let resident = agent.resident_kib() as f64 / 1024.0;
    report.below("idle, resident", resident, 12.0, "MiB");
    let share = used.as_secs_f64() / wall.as_secs_f64() * 100.0;
    report.below(&format!("idle, CPU over {} s", wall.as_secs()), share, 0.05, "% of a core");
}

/// The CPU time of the agent's process. `/proc/<pid>/task` lacks threads that have ended, and `/proc/<pid>/stat` counts in
/// ticks of 10 ms.
pub(crate) fn cpu_time(agent: &Agent) -> Duration {
    cpu_time_of(agent.pid())
}

/// The CPU time of any process.
pub(crate) fn cpu_time_of(process: u32) -> Duration {
    e2e::sys::cpu_time(process).expect("its clock")
}
