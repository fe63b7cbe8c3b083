//! What the load balancers' tests share: three hosts behind a balancer, and clients that must not notice what happens
//! to one host.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use e2e::Sandbox;
use e2e::agent::TIMEOUT;
use e2e::pool::{self, Clients, HOSTS, Host};
use e2e::sync::lock;
use e2e::sys::monotonic_ns;

/// The frontend's address in the examples.
pub(crate) const FRONTEND: ([u8; 4], u16) = ([127, 0, 0, 1], 80);
/// How long a slow request takes: it is under way during everything that a test does to its host.
const SLOW: Duration = Duration::from_secs(2);
/// The number of slow requests: two for each host, if they are spread evenly.
const SLOW_REQUESTS: usize = 6;

/// The path of a file of `deploy/lb`.
pub(crate) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/lb").join(name)
}

/// The text of a file of `deploy/lb`.
pub(crate) fn example_text(name: &str) -> String {
    fs::read_to_string(example(name)).unwrap()
}

/// Hosts, a balancer and clients, all of them running.
pub(crate) struct PoolScenario<B> {
    pub(crate) clients: Clients,
    pub(crate) balancer: B,
    pub(crate) hosts: [Host; 3],
}

/// Held while a scenario runs. The balancers have the time-outs of the examples, some of which are short: two scenarios
/// at a time would be too much for a small machine.
static RUNNING: Mutex<()> = Mutex::new(());

/// Runs `steps` in a pool. `start` starts the balancer; `change` is for the first host's agent. Fails if a client had
/// an error.
pub(crate) fn run<B>(
    sandbox: &Sandbox,
    change: impl Fn(&mut Command) + Sync,
    start: impl FnOnce(&[Host; 3]) -> B + Send,
    steps: impl FnOnce(&PoolScenario<B>) + Send,
) {
    let _running = lock(&RUNNING);
    let Some(network) = pool::network() else { return };
    network.run(|| {
        thread::scope(|scope| {
            let change = &change;
            let host = |which: (&'static str, &'static str)| {
                let is_first = which == HOSTS[0];
                Host::start(scope, sandbox, which, move |command| {
                    if is_first {
                        change(command);
                    }
                })
            };
            let hosts = HOSTS.map(host);
            let balancer = start(&hosts);
            let clients = Clients::start(SocketAddr::from(FRONTEND));
            let pool = PoolScenario { clients, balancer, hosts };
            for (name, _) in HOSTS {
                pool.clients.wait_served_by(name, TIMEOUT);
            }
            steps(&pool);
            let count = pool.clients.served().len();
            assert_eq!(pool.clients.errors(), [""; 0], "errors of {count} requests");
        });
    });
}

/// Slow requests that are under way.
pub(crate) struct SlowRequests(Vec<JoinHandle<Result<String, String>>>);

impl SlowRequests {
    /// Waits for all of them: every host finishes what it has begun.
    pub(crate) fn finish(self) {
        let mut by: Vec<_> = self.0.into_iter().map(|one| one.join().unwrap().unwrap()).collect();
        by.sort_unstable();
        by.dedup();
        assert_eq!(by, HOSTS.map(|(name, _)| name));
    }
}

impl<B> PoolScenario<B> {
    /// Starts slow requests; returns when every host has one.
    pub(crate) fn slow_requests(&self) -> SlowRequests {
        let address = SocketAddr::from(FRONTEND);
        let slow = SlowRequests(pool::slow_requests(address, SLOW_REQUESTS, SLOW));
        let deadline = Instant::now() + TIMEOUT;
        while self.hosts.iter().any(|host| host.slow_requests() == 0) {
            assert!(Instant::now() < deadline, "a host has no slow request");
            thread::sleep(Duration::from_millis(2));
        }
        slow
    }

    /// Checks that a host gets no request from now on, and that the others do.
    pub(crate) fn gets_no_more_requests(&self, host: &Host) {
        // Requests that were under way are over by then.
        thread::sleep(Duration::from_millis(50));
        let since = monotonic_ns();
        for other in self.hosts.iter().filter(|other| other.name() != host.name()) {
            self.clients.wait_served_by(other.name(), TIMEOUT);
        }
        thread::sleep(Duration::from_millis(300));
        assert_eq!(self.clients.served_by(host.name(), since), 0, "{}", host.name());
    }
}
