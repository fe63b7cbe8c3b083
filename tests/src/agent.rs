//! The agent's binary, started for one test.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::health::Health;
use crate::http::{Answer, Connection};
use crate::sandbox::say;
use crate::{Sandbox, sys};

/// A noisy machine may need that long for what takes milliseconds; the measured time is printed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Between two questions of a loop that waits.
const PAUSE: Duration = Duration::from_millis(1);

/// Short, so that a recovery can be waited for.
pub const IO_ERROR_WINDOW: Duration = Duration::from_secs(2);

/// Long enough for a busy machine's healthy disks, short enough to wait for.
pub const IO_STALL_AFTER: Duration = Duration::from_secs(1);

type Log = Arc<Mutex<Vec<String>>>;

/// A running agent; killed on drop.
pub struct Agent {
    name: String,
    child: Child,
    log: Log,
    health: SocketAddr,
    admin: SocketAddr,
    haproxy: SocketAddr,
    control: PathBuf,
    connections: RefCell<Connections>,
}

/// An agent that ended instead of listening.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// With which words.
    pub log: Vec<String>,
}

#[derive(Default)]
struct Connections {
    health: Option<Connection>,
    admin: Option<Connection>,
}

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TOCSIN_BIN") {
        return path.into();
    }
    // This program is <target>/<profile>/[deps/]<name>.
    let own = std::env::current_exe().expect("the path of this program");
    let candidates = own.ancestors().skip(2).take(2);
    candidates
        .flat_map(|target| [target.join("release/tocsin"), target.join("debug/tocsin")])
        .find(|path| path.is_file())
        .expect("no tocsin binary: build it, or set TOCSIN_BIN")
}

/// The command line of an agent in this sandbox, with nothing of the caller's environment.
pub fn command(sandbox: &Sandbox) -> Command {
    let mut command = Command::new(binary());
    command.arg("agent");
    environment(&mut command, sandbox);
    command
        .env("NODE_NAME", "node-1")
        .env("LISTEN_ADDR", "127.0.0.1")
        .env("LISTEN_PORT", "0")
        .env("AGENT_CHECK_PORT", "0")
        .env("ADMIN_ADDR", "127.0.0.1")
        .env("ADMIN_PORT", "0")
        .env("LOG_FORMAT", "json")
        .env("IO_ERROR_WINDOW", duration(IO_ERROR_WINDOW))
        .env("IO_STALL_AFTER", duration(IO_STALL_AFTER))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    sys::die_with_parent(&mut command);
    command
}

fn environment(command: &mut Command, sandbox: &Sandbox) {
    command.env_clear();
    for name in ["PATH", "RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
        .env("CONTROL_SOCKET", sandbox.path("control.sock"))
        // The agent sees the mount namespace of the test, not that of process 1.
        .env("MOUNT_TABLE", "/proc/self/mountinfo");
}

fn duration(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// Runs another command of the binary to its end.
pub fn run_cli<A: AsRef<OsStr>>(sandbox: &Sandbox, arguments: &[A]) -> Output {
    let mut command = Command::new(binary());
    environment(&mut command, sandbox);
    command.args(arguments).stdin(Stdio::null()).output().expect("run tocsin")
}

impl Agent {
    /// Starts it as the tests have it.
    pub fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, |_| {})
    }

    /// Starts it with changes, and waits until it listens.
    pub fn start_with(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Self {
        Self::try_start_with(sandbox, change).unwrap_or_else(|ended| {
            panic!("the agent ended ({}); its log:\n{}", ended.status, ended.log.join("\n"))
        })
    }

    /// The same, where it may refuse to start.
    pub fn try_start_with(
        sandbox: &Sandbox,
        change: impl FnOnce(&mut Command),
    ) -> Result<Self, Ended> {
        let mut command = command(sandbox);
        change(&mut command);
        let mut child = command.spawn().expect("start the agent");
        let stderr = child.stderr.take().expect("a pipe");
        let log = Log::default();
        let lines = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        let unset = SocketAddr::from(([0; 4], 0));
        let mut agent = Self {
            name: sandbox.name().to_owned(),
            child,
            log,
            health: unset,
            admin: unset,
            haproxy: unset,
            control: sandbox.path("control.sock"),
            connections: RefCell::default(),
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(addresses) = agent.log().iter().find_map(|line| listening(line)) {
                [agent.health, agent.admin, agent.haproxy] = addresses;
                return Ok(agent);
            }
            if let Some(status) = agent.child.try_wait().expect("wait for the agent") {
                reader.join().expect("read its log to the end");
                return Err(Ended { status, log: agent.log() });
            }
            let log = agent.log();
            assert!(Instant::now() < deadline, "the agent does not listen:\n{}", log.join("\n"));
            thread::sleep(PAUSE);
        }
    }

    /// Where `/health` is.
    pub fn health_address(&self) -> SocketAddr {
        self.health
    }

    /// Where `/faults` is.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Where `HAProxy`'s agent-check is.
    pub fn agent_check_address(&self) -> SocketAddr {
        self.haproxy
    }

    /// The control socket.
    pub fn control_socket(&self) -> &Path {
        &self.control
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A path of the health listener.
    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path)
    }

    /// The same with a method.
    pub fn request(&self, method: &str, path: &str) -> Answer {
        let connection = &mut self.connections.borrow_mut().health;
        self.ask(connection, self.health, method, path)
    }

    /// A path of the admin listener.
    pub fn admin(&self, path: &str) -> Answer {
        let connection = &mut self.connections.borrow_mut().admin;
        self.ask(connection, self.admin, "GET", path)
    }

    fn ask(
        &self,
        connection: &mut Option<Connection>,
        address: SocketAddr,
        method: &str,
        path: &str,
    ) -> Answer {
        // A kept connection may have been closed for being idle: then, and only then, a second try.
        for kept in [connection.take(), None] {
            let fresh = kept.is_none();
            let answer = kept.map_or_else(|| Connection::open(address), Ok).and_then(|mut open| {
                let answer = open.request(method, path)?;
                *connection = Some(open);
                Ok(answer)
            });
            match answer {
                Ok(answer) => return answer,
                Err(error) if fresh => self.fail(&format!("{method} {path}: {error}")),
                Err(_) => {}
            }
        }
        unreachable!("the second try answers or fails")
    }

    /// `/health` with a query, such as `?check=io_errors`.
    pub fn health(&self, query: &str) -> Health {
        Health::read(&self.get(&format!("/health{query}")))
    }

    /// The whole of `/faults`.
    pub fn faults_page(&self) -> Value {
        let answer = self.admin("/faults");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// The open faults.
    pub fn faults(&self) -> Vec<Value> {
        self.faults_page()["faults"].as_array().cloned().expect("faults")
    }

    /// The kernel's count for a kind and a device, over all errnos.
    pub fn count(&self, kind: &str, device: &str) -> u64 {
        let page = self.faults_page();
        let counters = page["counters"].as_array().expect("counters");
        counters
            .iter()
            .filter(|counter| counter["kind"] == kind && counter["device"] == device)
            .map(|counter| counter["count"].as_u64().expect("a count"))
            .sum()
    }

    /// Events that the kernel ran no program for, by its own account.
    pub fn missed(&self) -> u64 {
        let metrics = self.admin("/metrics").body;
        let line =
            metrics.lines().find_map(|line| line.strip_prefix("tocsin_events_missed_total "));
        line.and_then(|count| count.parse().ok()).expect("tocsin_events_missed_total")
    }

    /// What it logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks until there is something to see; fails, with all there is to know, after `patience`.
    pub fn wait_for<T>(
        &self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            if Instant::now() > deadline {
                self.fail(&format!("not within {patience:?}: {what}"));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits for a line of the log with all these words, and returns how many there are. What the log tells is read a
    /// moment after the answers change.
    pub fn wait_told(&self, words: &[&str]) -> usize {
        let all = |line: &&String| words.iter().all(|word| line.contains(word));
        self.wait_for(&format!("{words:?} in the log"), PATIENCE, |agent| {
            Some(agent.log().iter().filter(all).count()).filter(|told| *told > 0)
        })
    }

    /// Waits until `/health` is 503 and `check` fails for a reason with all these words; prints how
    /// long after the injection that was.
    pub fn wait_failure(&self, since: Instant, check: &str, words: &[&str]) -> String {
        let what = format!("503 with {check} failing for a reason with {words:?}");
        let reason = self.wait_for(&what, PATIENCE, |agent| {
            let reason = agent.health("").failure(check)?.to_owned();
            words.iter().all(|word| reason.contains(word)).then_some(reason)
        });
        let took = since.elapsed().as_secs_f64() * 1e3;
        say(&format!("MEASURED {}: {check} 503 after {took:.1} ms: {reason}", self.name));
        reason
    }

    /// Waits until `/health` is 200 and no fault is open.
    pub fn wait_recovery(&self, since: Instant, patience: Duration) {
        self.wait_for("200 and no open fault", patience, |agent| {
            (agent.health("").status == 200 && agent.faults().is_empty()).then_some(())
        });
        let took = since.elapsed().as_secs_f64() * 1e3;
        say(&format!("MEASURED {}: 200 again after {took:.1} ms", self.name));
    }

    /// SIGTERM, and the exit status.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit()
    }

    /// Sends a signal to this agent alone.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("signal the agent");
    }

    /// Waits until it has ended.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the agent") {
                return status;
            }
            if Instant::now() > deadline {
                self.fail("it does not end");
            }
            thread::sleep(PAUSE);
        }
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = File::open(path).map(BufReader::new).expect("read the agent's status");
        let line = status.lines().map_while(Result::ok).find(|line| line.starts_with("VmRSS:"));
        let field = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        field.expect("VmRSS")
    }

    /// Ends the test with everything there is to know. Asks on connections of its own, which may fail.
    pub fn fail(&self, why: &str) -> ! {
        let look = |address, path: &str| {
            Connection::open(address)
                .and_then(|mut open| open.get(path))
                .map_or_else(|error| error.to_string(), |answer| answer.body)
        };
        panic!(
            "{why}\n/health: {}\n/faults: {}\n/metrics:\n{}\nlog:\n{}",
            look(self.health, "/health"),
            look(self.admin, "/faults"),
            look(self.admin, "/metrics"),
            self.log().join("\n"),
        )
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _status = self.child.wait();
    }
}

/// The addresses in the line that says so.
fn listening(line: &str) -> Option<[SocketAddr; 3]> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = |key: &str| line[key].as_str().and_then(|text| text.parse().ok());
    (line["message"] == "listening").then_some(())?;
    Some([address("health")?, address("admin")?, address("agent_check")?])
}
