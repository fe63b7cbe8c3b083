//! A pool of hosts behind a load balancer, each with a disk, an agent and a service; and clients in front of it.
//!
//! All of it is in a network namespace, at the addresses and ports of the examples in `deploy/lb`, so that the tests use
//! those files as they are. Each host is a thread with a mount namespace of its own: every agent gets the kernel's
//! events of every fault, and has to know which disks belong to its host.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Scope};
use std::time::{Duration, Instant};

use crate::http::Connection;
use crate::sync::lock;
use crate::sys::monotonic_ns;
use crate::{Agent, Filesystem, NetNs, Sandbox, Volume, inject, sys};

/// The hosts of the examples, with their addresses.
pub const HOSTS: [(&str, &str); 3] =
    [("node-1", "192.0.2.11"), ("node-2", "192.0.2.12"), ("node-3", "192.0.2.13")];

/// The port of an agent's health listener.
pub const HEALTH_PORT: u16 = 25001;
/// The port of an agent's agent-check.
pub const AGENT_CHECK_PORT: u16 = 25003;
/// The port of a host's service.
const SERVICE_PORT: u16 = 8080;

/// Mount options of a host's ext4.
const OPTIONS: &str = "errors=remount-ro";

/// A namespace with the addresses of all hosts. None, with the reason printed, where the machine lacks `ip`.
pub fn network() -> Option<NetNs> {
    let network = NetNs::new()?;
    for (_, address) in HOSTS {
        network.ip(&format!("address add {address}/32 dev lo"));
    }
    Some(network)
}

/// What a host's thread has in hand.
pub struct HostState<'scope> {
    /// The host's disk.
    pub volume: Volume,
    agent: Option<Agent>,
    start: Box<dyn FnMut() -> Agent + 'scope>,
}

impl HostState<'_> {
    /// The host's agent; fails where it does not run.
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("a running agent")
    }
}

/// Work for a host's thread.
type Job = Box<dyn FnOnce(&mut HostState<'_>) + Send>;

/// A host of the pool.
pub struct Host {
    name: &'static str,
    jobs: Sender<Job>,
    slow: Arc<AtomicUsize>,
}

impl Host {
    /// Starts one, and returns when its agent answers. The caller is in the pool's network namespace.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        sandbox: &'scope Sandbox,
        (name, address): (&'static str, &'static str),
        change: impl FnMut(&mut Command) + Send + 'scope,
    ) -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let slow = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&slow);
        scope.spawn(move || {
            sys::unshare_mounts().expect("unshare the mount namespace");
            let volume = Volume::new(sandbox, name, Filesystem::Ext4, OPTIONS);
            let service = Service::start(name, address, counter);
            let mut start = Box::new(starter(sandbox, name, address, change));
            let mut state = HostState { volume, agent: Some(start()), start };
            let _sent = ready.send(());
            for job in inbox {
                job(&mut state);
            }
            // In this order: the agent first, and then what it watches.
            drop((state.agent, state.volume, service));
        });
        started.recv().unwrap_or_else(|_| panic!("{name} did not start"));
        Self { name, jobs, slow }
    }

    /// Its name: `node-1`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The number of slow requests that its service has begun to answer.
    pub fn slow_requests(&self) -> usize {
        self.slow.load(Ordering::Relaxed)
    }

    /// Runs `work` on the host's thread, and waits for it.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut HostState<'_>) -> T + Send + 'static,
    ) -> T {
        let (answer, done) = mpsc::channel();
        let job = move |state: &mut HostState<'_>| {
            let _sent = answer.send(work(state));
        };
        let _sent = self.jobs.send(Box::new(job));
        done.recv().unwrap_or_else(|_| panic!("{} is gone", self.name))
    }

    /// Stops the agent in order.
    pub fn stop_agent(&self) {
        self.run(|state| {
            let agent = state.agent.take().expect("a running agent");
            assert!(agent.terminate().success(), "the agent ends in order");
        });
    }

    /// Kills the agent.
    pub fn kill_agent(&self) {
        self.run(|state| drop(state.agent.take()));
    }

    /// Starts the agent again; returns when it answers.
    pub fn start_agent(&self) {
        self.run(|state| {
            assert!(state.agent.is_none(), "the agent runs");
            state.agent = Some((state.start)());
        });
    }

    /// Lets the host's filesystem have an error and become read-only; gives when, in nanoseconds of `CLOCK_MONOTONIC`.
    pub fn break_disk(&self) -> u64 {
        self.run(|state| {
            let at = monotonic_ns();
            inject::ext4_error(state.volume.device());
            at
        })
    }

    /// Repairs the host's filesystem.
    pub fn repair_disk(&self) {
        self.run(|state| {
            state.volume.unmount();
            state.volume.repair();
            state.volume.mount(OPTIONS);
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

/// A host's service: its name at `/`; the same in two halves, with that many milliseconds between them, at
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
        // Wakes the thread, which is in accept(2).
        let _connected = TcpStream::connect(self.address);
    }
}

/// Serves one connection until an error or its end.
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

/// What a client got for one request.
#[derive(Clone, Debug)]
pub struct Served {
    /// When the response was there, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// The name of the host that answered, or the error.
    pub by: Result<String, String>,
}

/// Clients that send requests all the time, and keep every result.
pub struct Clients {
    served: Arc<Mutex<Vec<Served>>>,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The number of clients.
const CLIENTS: usize = 3;
/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(5);

impl Clients {
    /// Starts them. The caller is in the pool's network namespace.
    pub fn start(address: SocketAddr) -> Self {
        let (served, done) = (Arc::<Mutex<Vec<Served>>>::default(), Arc::<AtomicBool>::default());
        let threads = (0..CLIENTS).map(|_| {
            let (served, done) = (Arc::clone(&served), Arc::clone(&done));
            thread::spawn(move || {
                let mut connection = None;
                while !done.load(Ordering::Relaxed) {
                    let by = get(&mut connection, address, "/");
                    let result = Served { at_ns: monotonic_ns(), by };
                    lock(&served).push(result);
                    thread::sleep(PAUSE);
                }
            })
        });
        let threads = threads.collect();
        Self { served, done, threads }
    }

    /// Every result so far.
    pub fn served(&self) -> Vec<Served> {
        lock(&self.served).clone()
    }

    /// The number of requests that this host answered since a time.
    pub fn served_by(&self, name: &str, since_ns: u64) -> usize {
        let served = self.served();
        let late = served.iter().rev().take_while(|served| served.at_ns >= since_ns);
        late.filter(|served| served.by.as_deref() == Ok(name)).count()
    }

    /// Waits until this host has answered a request.
    pub fn wait_served_by(&self, name: &str, timeout: Duration) {
        let (since, deadline) = (monotonic_ns(), Instant::now() + timeout);
        while self.served_by(name, since) == 0 {
            assert!(Instant::now() < deadline, "{name} answers no request");
            thread::sleep(PAUSE);
        }
    }

    /// The errors so far.
    pub fn errors(&self) -> Vec<String> {
        self.served().into_iter().filter_map(|served| served.by.err()).collect()
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// Sends one request; the connection is kept for the next one if it can be.
fn get(
    connection: &mut Option<Connection>,
    address: SocketAddr,
    path: &str,
) -> Result<String, String> {
    let kept = connection.take().map_or_else(|| Connection::open(address), Ok);
    let mut open = kept.map_err(|error| format!("connect: {error}"))?;
    let response = open.get(path).map_err(|error| error.to_string())?;
    if response.status != 200 {
        return Err(format!("{}: {}", response.status, response.body));
    }
    *connection = Some(open);
    Ok(response.body)
}

/// Starts requests that take a while, each on a thread; their results are the names of the hosts that answered.
pub fn slow_requests(
    address: SocketAddr,
    count: usize,
    takes: Duration,
) -> Vec<JoinHandle<Result<String, String>>> {
    let path = format!("/slow/{}", takes.as_millis());
    let one = |_| {
        let path = path.clone();
        thread::spawn(move || get(&mut None, address, &path))
    };
    (0..count).map(one).collect()
}
