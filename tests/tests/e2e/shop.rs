//! Three hosts behind a load balancer, and customers who must not notice what happens to one of them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use e2e::Sandbox;
use e2e::agent::PATIENCE;
use e2e::pool::{self, Customers, HOSTS, Host};
use e2e::sys::monotonic_ns;

/// The examples' front door.
pub(crate) const FRONT: ([u8; 4], u16) = ([127, 0, 0, 1], 80);
/// Long enough to be on its way through everything that happens.
const SLOW: Duration = Duration::from_secs(2);
/// Two for each host, if they are dealt out evenly.
const SLOW_REQUESTS: usize = 6;

/// A file of `deploy/lb`.
pub(crate) fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/lb").join(name)
}

/// What is in it.
pub(crate) fn text(name: &str) -> String {
    fs::read_to_string(shipped(name)).unwrap()
}

/// Hosts, a balancer, customers.
pub(crate) struct Shop<B> {
    pub(crate) customers: Customers,
    pub(crate) balancer: B,
    pub(crate) hosts: [Host; 3],
}

/// The balancers' time-outs are the shipped ones, and some are short: no more than one shop at a time.
static OPEN: Mutex<()> = Mutex::new(());

/// Opens a shop and lets `story` happen in it. `start` starts the balancer; `change` is for the first host's agent.
pub(crate) fn shop<B>(
    sandbox: &Sandbox,
    change: impl Fn(&mut Command) + Sync,
    start: impl FnOnce(&[Host; 3]) -> B + Send,
    story: impl FnOnce(&Shop<B>) + Send,
) {
    let _only = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(network) = pool::network() else { return };
    network.run(|| {
        thread::scope(|scope| {
            let change = &change;
            let host = |which: (&'static str, &'static str)| {
                let first = which == HOSTS[0];
                Host::start(scope, sandbox, which, move |command| {
                    if first {
                        change(command);
                    }
                })
            };
            let hosts = HOSTS.map(host);
            let balancer = start(&hosts);
            let customers = Customers::come(SocketAddr::from(FRONT));
            let shop = Shop { customers, balancer, hosts };
            for (name, _) in HOSTS {
                shop.customers.wait_served_by(name, PATIENCE);
            }
            story(&shop);
            assert_eq!(shop.customers.complaints(), [""; 0], "of {}", shop.customers.got().len());
        });
    });
}

/// Requests that are under way.
pub(crate) struct Slow(Vec<JoinHandle<Result<String, String>>>);

impl Slow {
    /// Every host finishes what it has begun.
    pub(crate) fn finished(self) {
        let mut by: Vec<_> = self.0.into_iter().map(|one| one.join().unwrap().unwrap()).collect();
        by.sort_unstable();
        by.dedup();
        assert_eq!(by, HOSTS.map(|(name, _)| name));
    }
}

impl<B> Shop<B> {
    /// Some for every host; returns when all hosts have theirs.
    pub(crate) fn slow_requests(&self) -> Slow {
        let slow = Slow(pool::slow_requests(SocketAddr::from(FRONT), SLOW_REQUESTS, SLOW));
        let deadline = Instant::now() + PATIENCE;
        while self.hosts.iter().any(|host| host.slow_requests() == 0) {
            assert!(Instant::now() < deadline, "a host has no slow request");
            thread::sleep(Duration::from_millis(2));
        }
        slow
    }

    /// From now on that host serves nobody, and the others do.
    pub(crate) fn serves_no_more(&self, host: &Host) {
        // What was on its way is there.
        thread::sleep(Duration::from_millis(50));
        let since = monotonic_ns();
        for other in self.hosts.iter().filter(|other| other.name() != host.name()) {
            self.customers.wait_served_by(other.name(), PATIENCE);
        }
        thread::sleep(Duration::from_millis(300));
        assert_eq!(self.customers.served_by(host.name(), since), 0, "{}", host.name());
    }
}
