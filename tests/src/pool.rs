//! What stands behind a load balancer: hosts, each with its disk, its agent and something that it serves; and the
//! customers in front of it, who count.
//!
//! All of it is in a network namespace, at the very addresses and ports of the examples in `deploy/lb`, so that those
//! can be tested as they are. Each host is a thread with a mount namespace of its own: the kernel tells every agent of
//! every fault, and each has to know which disks are its host's.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Scope};
use std::time::{Duration, Instant};

use crate::http::Connection;
use crate::sys::monotonic_ns;
use crate::{Agent, Filesystem, NetNs, Sandbox, Volume, inject, sys};

/// The examples' hosts.
pub const HOSTS: [(&str, &str); 3] =
    [("node-1", "192.0.2.11"), ("node-2", "192.0.2.12"), ("node-3", "192.0.2.13")];

/// Where an agent answers.
pub const HEALTH_PORT: u16 = 25001;
/// Where it speaks `HAProxy`'s language.
pub const AGENT_CHECK_PORT: u16 = 25003;
/// Where a host serves.
const SERVICE_PORT: u16 = 8080;

/// As ext4 is mounted where somebody cares.
const OPTIONS: &str = "errors=remount-ro";

/// A namespace with all their addresses; none, with the reason printed, where there cannot be one.
pub fn network() -> Option<NetNs> {
    let network = NetNs::new()?;
    for (_, address) in HOSTS {
        network.ip(&format!("address add {address}/32 dev lo"));
    }
    Some(network)
}

/// What a host's thread works with.
pub struct Machine<'scope> {
    /// Its disk.
    pub volume: Volume,
    agent: Option<Agent>,
    start: Box<dyn FnMut() -> Agent + 'scope>,
}

impl Machine<'_> {
    /// Its agent, which has to run.
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("a running agent")
    }
}

type Order = Box<dyn FnOnce(&mut Machine<'_>) + Send>;

/// A host.
pub struct Host {
    name: &'static str,
    orders: Sender<Order>,
    slow: Arc<AtomicUsize>,
}

impl Host {
    /// Starts one, and returns when its agent answers; to be called within the namespace.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        sandbox: &'scope Sandbox,
        (name, address): (&'static str, &'static str),
        change: impl FnMut(&mut Command) + Send + 'scope,
    ) -> Self {
        let (orders, inbox) = mpsc::channel::<Order>();
        let (ready, started) = mpsc::channel();
        let slow = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&slow);
        scope.spawn(move || {
            sys::unshare_mounts().expect("unshare the mount namespace");
            let volume = Volume::new(sandbox, name, Filesystem::Ext4, OPTIONS);
            let service = Service::start(name, address, counter);
            let mut start = Box::new(starter(sandbox, name, address, change));
            let mut machine = Machine { volume, agent: Some(start()), start };
            let _nobody_waits = ready.send(());
            for order in inbox {
                order(&mut machine);
            }
            // In this order: the agent first, and then what it watches.
            drop((machine.agent, machine.volume, service));
        });
        started.recv().unwrap_or_else(|_| panic!("{name} did not start"));
        Self { name, orders, slow }
    }

    /// `node-1`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Slow requests that it has begun to answer.
    pub fn slow_requests(&self) -> usize {
        self.slow.load(Ordering::Relaxed)
    }

    /// Does something there, and waits for it.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Machine<'_>) -> T + Send + 'static,
    ) -> T {
        let (answer, done) = mpsc::channel();
        let order = move |machine: &mut Machine<'_>| {
            let _nobody_waits = answer.send(work(machine));
        };
        let _gone = self.orders.send(Box::new(order));
        done.recv().unwrap_or_else(|_| panic!("{} is gone", self.name))
    }

    /// The agent ends in its own time.
    pub fn stop_agent(&self) {
        self.run(|machine| {
            let agent = machine.agent.take().expect("a running agent");
            assert!(agent.terminate().success(), "an orderly end");
        });
    }

    /// The agent is gone at once.
    pub fn kill_agent(&self) {
        self.run(|machine| drop(machine.agent.take()));
    }

    /// It is back, and answers.
    pub fn start_agent(&self) {
        self.run(|machine| {
            assert!(machine.agent.is_none(), "the agent runs");
            machine.agent = Some((machine.start)());
        });
    }

    /// Its disk has an error, and the filesystem becomes read-only: when.
    pub fn break_disk(&self) -> u64 {
        self.run(|machine| {
            let at = monotonic_ns();
            inject::ext4_error(machine.volume.device());
            at
        })
    }

    /// Somebody repairs it.
    pub fn repair_disk(&self) {
        self.run(|machine| {
            machine.volume.unmount();
            machine.volume.repair();
            machine.volume.mount(OPTIONS);
        });
    }
}

fn starter<'scope>(
    sandbox: &'scope Sandbox,
    name: &'static str,
    address: &'static str,
    mut change: impl FnMut(&mut Command) + 'scope,
) -> impl FnMut() -> Agent + 'scope {
    move || {
        Agent::start_with(sandbox, |command| {
            command
                .env("LISTEN_ADDR", address)
                .env("LISTEN_PORT", HEALTH_PORT.to_string())
                .env("AGENT_CHECK_PORT", AGENT_CHECK_PORT.to_string())
                .env("ADMIN_ADDR", address)
                .env("STATE_FILE", sandbox.path(format!("{name}.run/state")))
                .env("CONTROL_SOCKET", sandbox.path(format!("{name}.sock")));
            change(command);
        })
    }
}

/// What a host serves: its name at `/`; the same in two halves, with that many milliseconds between them, at
/// `/slow/2000`.
struct Service {
    address: SocketAddr,
    done: Arc<AtomicBool>,
}

impl Service {
    fn start(name: &'static str, address: &str, slow: Arc<AtomicUsize>) -> Self {
        let listener = TcpListener::bind((address, SERVICE_PORT)).expect("serve");
        let address = listener.local_addr().expect("an address");
        let done = Arc::<AtomicBool>::default();
        let end = Arc::clone(&done);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let slow = Arc::clone(&slow);
                thread::spawn(move || serve(name, stream, &slow));
            }
        });
        Self { address, done }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _wakes_it = TcpStream::connect(self.address);
    }
}

/// Until the other side has enough; an error ends it.
fn serve(name: &str, stream: TcpStream, slow: &AtomicUsize) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        stream.read_line(&mut request).ok().filter(|length| *length > 0)?;
        let mut line = String::new();
        while stream.read_line(&mut line).ok()? > 2 {
            line.clear();
        }
        let pause = request.split('/').nth(2).and_then(|text| text.split(' ').next()?.parse().ok());
        let body = name.as_bytes();
        let (first, second) = body.split_at(body.len() / 2);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let to = stream.get_mut();
        if let (Some(pause), true) = (pause, request.contains("/slow/")) {
            to.write_all(head.as_bytes()).and_then(|()| to.write_all(first)).ok()?;
            slow.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(pause));
            to.write_all(second).ok()?;
            slow.fetch_sub(1, Ordering::Relaxed);
        } else {
            to.write_all(&[head.as_bytes(), body].concat()).ok()?;
        }
    }
}

/// What a customer got.
#[derive(Clone, Debug)]
pub struct Got {
    /// When the answer was there.
    pub at_ns: u64,
    /// From whom, or why not.
    pub from: Result<String, String>,
}

/// Customers who ask all the time, and remember everything.
pub struct Customers {
    got: Arc<Mutex<Vec<Got>>>,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How many there are.
const CUSTOMERS: usize = 3;
/// How long one thinks between two questions.
const THINKS: Duration = Duration::from_millis(5);

impl Customers {
    /// They come; to be called within the namespace.
    pub fn come(address: SocketAddr) -> Self {
        let (got, done) = (Arc::<Mutex<Vec<Got>>>::default(), Arc::<AtomicBool>::default());
        let threads = (0..CUSTOMERS).map(|_| {
            let (got, done) = (Arc::clone(&got), Arc::clone(&done));
            thread::spawn(move || {
                let mut connection = None;
                while !done.load(Ordering::Relaxed) {
                    let from = ask(&mut connection, address, "/");
                    let answer = Got { at_ns: monotonic_ns(), from };
                    got.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                    thread::sleep(THINKS);
                }
            })
        });
        let threads = threads.collect();
        Self { got, done, threads }
    }

    /// What they got so far.
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who answered them since then.
    pub fn served_by(&self, name: &str, since_ns: u64) -> usize {
        let got = self.got();
        let late = got.iter().rev().take_while(|got| got.at_ns >= since_ns);
        late.filter(|got| got.from.as_deref() == Ok(name)).count()
    }

    /// Waits until that host has answered one of them.
    pub fn wait_served_by(&self, name: &str, patience: Duration) {
        let (since, deadline) = (monotonic_ns(), Instant::now() + patience);
        while self.served_by(name, since) == 0 {
            assert!(Instant::now() < deadline, "{name} serves nobody");
            thread::sleep(THINKS);
        }
    }

    /// What went wrong for them.
    pub fn complaints(&self) -> Vec<String> {
        self.got().into_iter().filter_map(|got| got.from.err()).collect()
    }
}

impl Drop for Customers {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// Asks once; a connection is kept for the next time if it can be.
pub fn ask(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    path: &str,
) -> Result<String, String> {
    let kept = connection.take().map_or_else(|| Connection::open(address), Ok);
    let mut open = kept.map_err(|error| format!("connect: {error}"))?;
    let answer = open.get(path).map_err(|error| error.to_string())?;
    if answer.status != 200 {
        return Err(format!("{}: {}", answer.status, answer.body));
    }
    *connection = Some(open);
    Ok(answer.body)
}

/// Requests that take their time, one after the other started; whoever joins them learns who answered.
pub fn slow_requests(
    address: SocketAddr,
    count: usize,
    takes: Duration,
) -> Vec<JoinHandle<Result<String, String>>> {
    let path = format!("/slow/{}", takes.as_millis());
    let one = |_| {
        let path = path.clone();
        thread::spawn(move || ask(&mut None, address, &path))
    };
    (0..count).map(one).collect()
}
