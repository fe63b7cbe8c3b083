//! Agents that watch each other: each in a network namespace of its own, at a port of a [`Switch`], and a server outside
//! that gets their webhooks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use crate::switch::Switch;
use crate::sync::lock;
use crate::{Agent, Sandbox, sys};

/// The port of the peers.
pub const PEERS_PORT: u16 = 25004;
/// The port of an agent's health listener, on its `eth0`.
pub const HEALTH_PORT: u16 = 25001;
/// The port of the server outside.
const OUTSIDE_PORT: u16 = 8080;

/// As a status: requests are read, and never answered.
pub const SILENT: u16 = 0;

/// The key of the agents' packets.
pub const KEY: &str = "dGhlIGtleSBvZiBhIHRlc3QsIG5vdCBvZiBhIGNsdXN0ZXI=\n";

/// Work for a node's thread.
type Job = Box<dyn FnOnce(&mut NodeState<'_>) + Send>;

/// What a node's thread has in hand.
pub struct NodeState<'scope> {
    agent: Option<Agent>,
    start: Box<dyn FnMut() -> Agent + 'scope>,
}

impl NodeState<'_> {
    /// The node's agent; fails where it does not run.
    pub fn agent(&self) -> &Agent {
        self.agent.as_ref().expect("a running agent")
    }

    /// Stops the agent in order; gives its exit status.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        self.agent.take().expect("a running agent").terminate()
    }
}

/// A node with an agent. What is asked of the agent is asked from within its namespace, whatever became of its cable.
pub struct Node {
    number: usize,
    jobs: Sender<Job>,
}

impl Node {
    /// Starts an agent at each of the first `count` ports, and returns when all of them answer. `change` adds to a
    /// node's command line; it runs on the node's thread, in a mount namespace of its own.
    pub fn start_all<'scope>(
        scope: &'scope Scope<'scope, '_>,
        sandbox: &'scope Sandbox,
        switch: &'scope Switch,
        count: usize,
        change: impl Fn(usize, &mut Command) + Clone + Send + 'scope,
    ) -> Vec<Self> {
        let starts: Vec<_> = (0..count)
            .map(|number| {
                let change = change.clone();
                Self::spawn(scope, sandbox, switch, number, count, move |command| {
                    change(number, command);
                })
            })
            .collect();
        let wait = |(node, ready): (Self, mpsc::Receiver<()>)| {
            ready.recv().unwrap_or_else(|_| panic!("{} did not start", node.name()));
            node
        };
        starts.into_iter().map(wait).collect()
    }

    fn spawn<'scope>(
        scope: &'scope Scope<'scope, '_>,
        sandbox: &'scope Sandbox,
        switch: &'scope Switch,
        number: usize,
        count: usize,
        mut change: impl FnMut(&mut Command) + Send + 'scope,
    ) -> (Self, mpsc::Receiver<()>) {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        scope.spawn(move || {
            sys::unshare_mounts().expect("unshare the mount namespace");
            switch.port(number).enter();
            let start = Box::new(move || {
                Agent::start_with(sandbox, |command| {
                    environment(command, sandbox, number, count);
                    change(command);
                })
            });
            let mut state = NodeState { agent: None, start };
            state.agent = Some((state.start)());
            let _sent = ready.send(());
            for job in inbox {
                job(&mut state);
            }
        });
        (Self { number, jobs }, started)
    }

    /// Its name: `node-1`.
    pub fn name(&self) -> String {
        name(self.number)
    }

    /// Its identifier among the peers.
    pub fn id(&self) -> String {
        let address = Switch::address(self.number).to_string().replace('.', "");
        format!("{}@{address}", self.name())
    }

    /// The address of its health listener.
    pub fn health_address(&self) -> SocketAddr {
        (Switch::address(self.number), HEALTH_PORT).into()
    }

    /// Runs `work` on the node's thread, and waits for it.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NodeState<'_>) -> T + Send + 'static,
    ) -> T {
        let (answer, done) = mpsc::channel();
        let job = move |state: &mut NodeState<'_>| {
            let _sent = answer.send(work(state));
        };
        let _sent = self.jobs.send(Box::new(job));
        done.recv().unwrap_or_else(|_| panic!("{} is gone", self.name()))
    }

    /// Runs `look` with the agent, and waits for it.
    pub fn ask<T: Send + 'static>(&self, look: impl FnOnce(&Agent) -> T + Send + 'static) -> T {
        self.run(|state| look(state.agent()))
    }

    /// Kills the agent; gives when.
    pub fn kill(&self) -> Instant {
        self.run(|state| {
            let at = Instant::now();
            drop(state.agent.take());
            at
        })
    }

    /// Starts the agent again; returns when it answers.
    pub fn start(&self) {
        self.run(|state| {
            assert!(state.agent.is_none(), "the agent runs");
            state.agent = Some((state.start)());
        });
    }

    /// Stops the agent's process, or lets it go on; gives when.
    pub fn freeze(&self, is_frozen: bool) -> Instant {
        use rustix::process::Signal;
        self.ask(move |agent| {
            agent.signal(if is_frozen { Signal::STOP } else { Signal::CONT });
            Instant::now()
        })
    }
}

fn name(number: usize) -> String {
    format!("node-{}", number + 1)
}

fn environment(command: &mut Command, sandbox: &Sandbox, number: usize, count: usize) {
    let name = name(number);
    let peers = (0..count).map(|peer| format!("{}:{PEERS_PORT}", Switch::address(peer)));
    command
        .env("NODE_NAME", &name)
        .env("LISTEN_ADDR", Switch::address(number).to_string())
        .env("LISTEN_PORT", HEALTH_PORT.to_string())
        .env("CONTROL_SOCKET", sandbox.path(format!("{name}.sock")))
        .env("PEERS", "on")
        .env("POD_IP", Switch::address(number).to_string())
        .env("PEERS_JOIN", peers.collect::<Vec<_>>().join(","))
        .env("PEERS_KEY_FILE", key_file(sandbox));
}

/// The file with the key; it is made once.
fn key_file(sandbox: &Sandbox) -> std::path::PathBuf {
    let path = sandbox.path("peers.key");
    // Another node may be making it: the text is the same.
    std::fs::write(&path, KEY).expect("write a key");
    path
}

/// A request that the server outside got.
#[derive(Clone, Debug)]
pub struct Post {
    /// When its body was there.
    pub at: Instant,
    /// Its path.
    pub path: String,
    /// Its `Idempotency-Key`.
    pub key: Option<String>,
    /// Its body.
    pub body: String,
    /// The status that it was answered with.
    pub status: u16,
}

impl Post {
    /// The peer's identifier, whether it is alive, and who says so.
    pub fn change(&self) -> (String, bool, String) {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("JSON");
        let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
        let peer = &body["peer"];
        (text(&peer["id"]), peer["alive"].as_bool().expect("a bool"), text(&body["coordinator"]))
    }
}

/// A server outside of the nodes, at the last port: it takes webhooks, and answers the sanity check.
pub struct Outside {
    address: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
    status: Arc<AtomicU16>,
    done: Arc<AtomicBool>,
}

impl Outside {
    /// Starts it at a port of the switch.
    pub fn start(switch: &Switch, port: usize) -> Self {
        let address = SocketAddr::from((Switch::address(port), OUTSIDE_PORT));
        let listener =
            switch.port(port).run(|| TcpListener::bind(address)).expect("listen outside");
        let posts = Arc::<Mutex<Vec<Post>>>::default();
        let (status, done) = (Arc::new(AtomicU16::new(200)), Arc::<AtomicBool>::default());
        let (kept, answer, end) = (Arc::clone(&posts), Arc::clone(&status), Arc::clone(&done));
        listener.set_nonblocking(true).expect("do not block");
        thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                        thread::spawn(move || serve(stream, &kept, &answer));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        Self { address, posts, status, done }
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sets the status that it answers with from now on.
    pub fn set_status(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// The posts of a path so far.
    pub fn posts(&self, path: &str) -> Vec<Post> {
        lock(&self.posts).iter().filter(|post| post.path == path).cloned().collect()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

fn serve(stream: TcpStream, posts: &Mutex<Vec<Post>>, status: &AtomicU16) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        stream.read_line(&mut request).ok().filter(|length| *length > 0)?;
        let (mut length, mut key) = (0, None);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            match &*name.to_ascii_lowercase() {
                "content-length" => length = value.trim().parse().ok()?,
                "idempotency-key" => key = Some(value.trim().to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let path = request.split(' ').nth(1)?.to_owned();
        let code = status.load(Ordering::Relaxed);
        let is_silent = code == SILENT;
        if request.starts_with("POST") {
            let body = String::from_utf8_lossy(&body).into_owned();
            let post = Post { at: Instant::now(), path, key, body, status: code };
            lock(posts).push(post);
        }
        if is_silent {
            // Until the client gives up, or is gone.
            let _gone = stream.read(&mut [0]);
            return None;
        }
        let answer = format!("HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n");
        stream.get_mut().write_all(answer.as_bytes()).ok()?;
    }
}
