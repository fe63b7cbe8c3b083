//! What the tests of abuse share: a load balancer that probes meanwhile, and limits for files and memory.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::sandbox::say;
use e2e::sync::SetOnDrop;
use e2e::{Agent, Sandbox, sys};

/// Less than the time-out of any load balancer's probe: nearly all probes take less, also with a debug build.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
/// The share of probes that take less than [`PROBE_TIMEOUT`], in percent: a machine with two busy processors may delay
/// some, and no load balancer takes a host out for one probe.
const IN_TIME: usize = 95;
/// No probe takes longer, whatever the machine does.
const SLOWEST_PROBE: Duration = Duration::from_secs(1);

/// Probes the listener as a load balancer does, with a connection for each probe, until it is stopped.
struct Prober {
    stop: Arc<AtomicBool>,
    /// How long each probe took.
    took: thread::JoinHandle<Vec<Duration>>,
    /// How late a thread of this process woke up at most that did nothing but sleep.
    late: thread::JoinHandle<Duration>,
}

fn probe(to: SocketAddr) -> Result<Duration, std::io::Error> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"OPTIONS /health HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let took = began.elapsed();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer:?}");
    assert!(answer.contains(r#"{"status":"ready""#), "{answer:?}");
    Ok(took)
}

impl Prober {
    fn start(to: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (here, there) = (stop.clone(), stop.clone());
        let took = thread::spawn(move || {
            let mut took = Vec::new();
            while !here.load(Ordering::Relaxed) {
                took.push(probe(to).unwrap());
                thread::sleep(Duration::from_millis(10));
            }
            took
        });
        let late = thread::spawn(move || {
            const SLEEP: Duration = Duration::from_millis(1);
            let mut worst = Duration::ZERO;
            while !there.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(SLEEP);
                worst = worst.max(began.elapsed().saturating_sub(SLEEP));
            }
            worst
        });
        Self { stop, took, late }
    }

    fn stop(self, what: &str, sandbox: &Sandbox) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.took.join().unwrap();
        let late = self.late.join().unwrap();
        took.sort();
        let worst = *took.last().unwrap();
        say(&format!(
            "MEASURED {}: {what}: {} probes, median {:?}, slowest {worst:?} (a sleeping thread: {late:?} late)",
            sandbox.name(),
            took.len(),
            took[took.len() / 2],
        ));
        // A delay that a sleeping thread has too is the machine's, not the agent's.
        let in_time = took[(took.len() - 1) * IN_TIME / 100];
        assert!(in_time < PROBE_TIMEOUT + late, "{what}: {IN_TIME} % take up to {in_time:?}");
        assert!(worst < SLOWEST_PROBE + late, "{what}: {worst:?}");
    }
}

/// The number of files that the agent has open.
fn files(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count()
}

/// How much more memory the agent may use at most while it is abused, in KiB, where a test has no limit of its own.
const MORE_MEMORY: u64 = 12 * 1024;

/// Runs `abuse` while a load balancer probes, and checks that the agent uses no more files and memory afterwards.
pub(crate) fn survives(what: &str, abuse: impl FnOnce(&Agent, SocketAddr) + Send) {
    survives_within(what, MORE_MEMORY, |_| {}, abuse);
}

/// As [`survives`], with a limit of the memory during the abuse. `warm_up` does before what uses memory once.
pub(crate) fn survives_within(
    what: &str,
    more_memory: u64,
    warm_up: impl FnOnce(SocketAddr),
    abuse: impl FnOnce(&Agent, SocketAddr) + Send,
) {
    // Alone: memory and response times of a busy machine would be those of other tests.
    let Some(sandbox) = Sandbox::alone() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.health_address();
    // What is only set up at its first use is in use then.
    for _ in 0..200 {
        probe(to).unwrap();
    }
    assert_eq!(agent.admin("/metrics").status, 200);
    let open = files(&agent);
    warm_up(to);
    agent.wait_for("the first connections are closed", TIMEOUT, |agent| {
        (files(agent) <= open).then_some(())
    });
    let (memory, open) = (agent.resident_kib(), files(&agent));
    let prober = Prober::start(to);
    let began = Instant::now();
    let peak = peak_memory(agent.pid(), || abuse(&agent, to));
    say(&format!("MEASURED {}: {what} took {:?}", sandbox.name(), began.elapsed()));
    prober.stop(what, &sandbox);
    agent.wait_for("the connections are closed", TIMEOUT, |agent| {
        (files(agent) <= open).then_some(())
    });
    let began = Instant::now();
    let after = loop {
        let after = agent.resident_kib();
        if after * 5 <= memory * 6 || began.elapsed() > TIMEOUT {
            break after;
        }
        thread::sleep(Duration::from_millis(20));
    };
    say(&format!("MEASURED {}: {memory} KiB, at most {peak}, then {after}", sandbox.name()));
    assert!(peak < memory + more_memory, "{memory} KiB before and {peak} KiB meanwhile");
    assert!(after * 5 <= memory * 6, "{memory} KiB before and {after} KiB after");
    assert!(agent.log().iter().all(|line| !line.contains("panic")), "{:?}", agent.log());
    assert_eq!(agent.health("").status, 200);
}

/// The most memory that a process has while `work` runs, in KiB.
fn peak_memory(process: u32, work: impl FnOnce()) -> u64 {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(sys::resident_kib(process));
                thread::sleep(Duration::from_millis(2));
            }
            most
        });
        let stop = SetOnDrop(&done);
        work();
        drop(stop);
        sampler.join().unwrap()
    })
}
