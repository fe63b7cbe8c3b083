//! The agent's HTTP compared with nginx's, one thread of each on the same processor, in turns; and the memory of idle
//! connections.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::http::Connection;
use e2e::sys::monotonic_ns;
use e2e::{Agent, Daemon, NetNs, Sandbox, require, tool};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{ClockId, CpuSet, Timespec};

use crate::idle::cpu_time_of;
use crate::report::Report;
use crate::scale::Scale;

/// The processors of the server and of the client.
const SERVER_CPU: usize = 0;
const CLIENT_CPU: usize = 1;
/// The connections of wrk.
const CONNECTIONS: u32 = 32;
/// The steady load: so many connections, each with a request every millisecond.
const STEADY: u64 = 10;
const BETWEEN: Duration = Duration::from_millis(1);
/// The number of idle connections.
const IDLE: u64 = 10_000;
const IDLE_LIMIT: &str = "12000";
/// The agent takes connections for half of the files that it may open, less these.
const OTHER_FILES: u64 = 1000;

pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let has = |name: &str| require(tool::is_installed(name), &format!("{name} is not installed"));
    let enough = thread::available_parallelism().is_ok_and(|count| count.get() > CLIENT_CPU);
    if !has("nginx") || !has("wrk") || !has("taskset") || !require(enough, "one processor only") {
        return;
    }
    let Some(network) = NetNs::new() else { return };
    // With a connection for each request, the client needs many ports.
    network.set("ipv4/ip_local_port_range", "1024 65535");
    network.run(|| {
        {
            let agent = start(sandbox, "1024");
            let (nginx, port) = nginx(sandbox, &agent.get("/health").body);
            pin(agent.pid());
            pin(nginx.pid());
            let there = SocketAddr::from(([127, 0, 0, 1], port));
            let sides = [
                Side { name: "tocsin", address: agent.health_address(), process: agent.pid() },
                Side { name: "nginx", address: there, process: nginx.pid() },
            ];
            throughput(sides, scale, report, ("keep-alive", &[], 1.0));
            let close = ["-H", "Connection: close"];
            throughput(sides, scale, report, ("Connection: close", &close, 1.1));
            for side in sides {
                latency(side, scale, report);
            }
        }
        idle(sandbox, report);
    });
}

fn start(sandbox: &Sandbox, connections: &str) -> Agent {
    Agent::start_with(sandbox, |command| {
        command
            .env("HEALTH_THREADS", "1")
            .env("MAX_CONNECTIONS", connections)
            .env_remove("IO_ERROR_WINDOW")
            .env_remove("IO_STALL_AFTER");
    })
}

fn pin(process: u32) {
    tool::run("taskset", &["-a", "-c", "-p", &SERVER_CPU.to_string(), &process.to_string()]);
}

/// Starts nginx as one process, which answers `/health` with the agent's body from memory.
fn nginx(sandbox: &Sandbox, body: &str) -> (Daemon, u16) {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let port = free.expect("find a port").port();
    let directory = sandbox.path("nginx");
    let _there_already = fs::create_dir(&directory);
    let text = format!(
        "daemon off; master_process off; worker_processes 1;\n\
        pid {directory}/pid; error_log stderr;\n\
        events {{ worker_connections 2048; }}\n\
        http {{\n\
          access_log off; keepalive_requests 1000000000; keepalive_timeout 75s;\n\
          server {{\n\
            listen 127.0.0.1:{port} backlog=4096;\n\
            default_type application/json; add_header Cache-Control no-store;\n\
            location = /health {{ return 200 '{body}'; }}\n\
          }}\n\
        }}\n",
        directory = directory.display(),
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, text).expect("write its configuration");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file);
    let mut nginx = Daemon::start(command, directory.join("log"));
    nginx.wait_for("listening", TIMEOUT, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (nginx, port)
}

#[derive(Clone, Copy)]
struct Side {
    name: &'static str,
    address: SocketAddr,
    process: u32,
}

/// The figures of one round of one side.
struct Round {
    per_second: f64,
    /// Processor time of the server for each request, in microseconds.
    each: f64,
}

/// Measures both sides in turns, so that both have the same conditions. `case` has its name, the arguments of wrk, and
/// how many times nginx's rate the agent's has to be.
fn throughput(sides: [Side; 2], scale: Scale, report: &mut Report, case: (&str, &[&str], f64)) {
    let (how, header, at_least) = case;
    let round = |_| sides.map(|side| wrk(side, scale.http_seconds, header));
    let rounds: Vec<[Round; 2]> = (0..scale.http_rounds).map(round).collect();
    for (number, side) in sides.iter().enumerate() {
        let of = |value: fn(&Round) -> f64| {
            median(rounds.iter().filter_map(|round| round.get(number)).map(value).collect())
        };
        let (rate, each) = (of(|round| round.per_second), of(|round| round.each));
        let figures = format!("{rate:.0} requests/s, {each:.1} us of CPU each");
        report.note(&format!("{}, {how}", side.name), &figures);
    }
    let ratios: Vec<_> =
        rounds.iter().map(|[ours, theirs]| ours.per_second / theirs.per_second).collect();
    let all: Vec<_> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    report.at_least(&format!("tocsin / nginx, {how}"), median(ratios), at_least, "x");
    report.note(&format!("tocsin / nginx, {how}, rounds"), &all.join(" "));
    // On a machine that others use too, the rates depend on these and on wrk; the processor time does not.
    let shares = rounds.iter().map(|[ours, theirs]| ours.each / theirs.each).collect();
    report.below(&format!("tocsin / nginx, {how}, CPU each"), median(shares), 1.0, "x");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Sends requests as fast as possible, none of which may fail.
fn wrk(side: Side, seconds: u64, header: &[&str]) -> Round {
    let (connections, duration) = (CONNECTIONS.to_string(), format!("{seconds}s"));
    let (core, url) = (CLIENT_CPU.to_string(), format!("http://{}/health", side.address));
    let mut arguments = vec!["-c", &core, "wrk", "-t1", "-c", &connections, "-d", &duration];
    arguments.extend(header);
    arguments.push(&url);
    let before = cpu_time_of(side.process);
    let text = tool::run("taskset", &arguments);
    let used = cpu_time_of(side.process).saturating_sub(before);
    let failed = text.contains("Socket errors") || text.contains("Non-2xx");
    assert!(!failed, "{}, {header:?}: {text}", side.name);
    let number = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok());
    let rate: Option<f64> =
        text.lines().find_map(|line| line.strip_prefix("Requests/sec:")).and_then(number);
    let count: Option<f64> =
        text.lines().find(|line| line.contains(" requests in ")).and_then(number);
    let (per_second, count) = rate.zip(count).expect("wrk's figures");
    Round { per_second, each: used.as_secs_f64() * 1e6 / count }
}

/// Sends requests at fixed times, each measured from the time at which it was due: a late response makes the next ones
/// late too (no coordinated omission).
fn latency(side: Side, scale: Scale, report: &mut Report) {
    let count = scale.http_seconds * scale.http_rounds as u64 * 1000;
    let began = Instant::now();
    let first = monotonic_ns() + 10_000_000;
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let between = nanoseconds(BETWEEN);
        let clients: Vec<_> = (0..STEADY)
            .map(|number| {
                scope.spawn(move || send(side.address, first + number * between / STEADY, count))
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().expect("join")).collect()
    });
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    report.permilles(&format!("{}, {rate:.0} requests/s", side.name), &mut times);
}

fn send(address: SocketAddr, first: u64, count: u64) -> Vec<Duration> {
    let mut here = CpuSet::new();
    here.set(CLIENT_CPU);
    rustix::thread::sched_setaffinity(None, &here).expect("stay on a processor");
    // By default, the kernel wakes a thread up to 50 us late.
    rustix::thread::set_current_timer_slack(NonZero::new(1)).expect("wake in time");
    let mut connection = Connection::open(address).expect("connect");
    let due = (0..count).map(|number| first + number * nanoseconds(BETWEEN));
    let one = |due: u64| {
        if monotonic_ns() < due {
            let at = Timespec {
                tv_sec: (due / 1_000_000_000).cast_signed(),
                tv_nsec: (due % 1_000_000_000).cast_signed(),
            };
            rustix::thread::clock_nanosleep_absolute(ClockId::Monotonic, &at).expect("sleep");
        }
        let answer = connection.get("/health").expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
        Duration::from_nanos(monotonic_ns().saturating_sub(due))
    };
    due.map(one).collect()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Measures the memory for very many idle connections.
fn idle(sandbox: &Sandbox, report: &mut Report) {
    // The agent inherits this process's limit.
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("more files");
    let count = maximum.map_or(IDLE, |files| IDLE.min(files.saturating_sub(OTHER_FILES) / 2));
    let agent = start(sandbox, IDLE_LIMIT);
    let before = agent.resident_kib();
    let connections: Vec<_> = (0..count)
        .map(|_| {
            let mut connection = Connection::open(agent.health_address()).expect("connect");
            let answer = connection.get("/health").expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.body);
            connection
        })
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let mebibytes = |kib: u64| kib as f64 / 1024.0;
    let after = agent.resident_kib();
    let open = agent.counter("tocsin_health_connections");
    assert_eq!(open, count, "the agent has closed connections");
    report.note("resident before", &format!("{:.1} MiB", mebibytes(before)));
    report.below(&format!("resident, {count} idle connections"), mebibytes(after), 64.0, "MiB");
    drop(connections);
}
