//! The agent, started for one test.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tocsin_api::faults::{Fault, FaultsResponse};

use crate::Sandbox;
use crate::health::Health;
use crate::http::{Connection, Response};
use crate::process::{self, PAUSE, Process};
pub use crate::process::{Exited, TIMEOUT};
use crate::sandbox::say;

/// `IO_ERROR_WINDOW` of the tests' agents: short, so that a test can wait for a recovery.
pub const IO_ERROR_WINDOW: Duration = Duration::from_secs(2);

/// `IO_STALL_AFTER` of the tests' agents. They watch the machine's own root disk too, which can be busy for seconds:
/// only a test about stalls sets less, by [`quick_stalls`].
const IO_STALL_AFTER: Duration = Duration::from_mins(1);

/// `IO_STALL_AFTER` of [`quick_stalls`]: as much as a busy machine's healthy disks need, and short enough to wait for.
pub const QUICK_STALL_AFTER: Duration = Duration::from_secs(1);

/// A running agent; killed on drop.
pub struct Agent {
    name: String,
    process: Process,
    health: SocketAddr,
    admin: SocketAddr,
    haproxy: SocketAddr,
    control: PathBuf,
    connections: RefCell<Connections>,
}

/// Connections that stay open from one request to the next.
#[derive(Default)]
struct Connections {
    health: Option<Connection>,
    admin: Option<Connection>,
}

/// The binary under test.
pub fn binary() -> PathBuf {
    process::binary("tocsin", "TOCSIN_BIN")
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
        .env("IO_ERROR_WINDOW", milliseconds(IO_ERROR_WINDOW))
        .env("IO_STALL_AFTER", milliseconds(IO_STALL_AFTER));
    command
}

/// For `start_with`: stalls are faults after [`QUICK_STALL_AFTER`].
pub fn quick_stalls(command: &mut Command) {
    command.env("IO_STALL_AFTER", milliseconds(QUICK_STALL_AFTER));
}

fn environment(command: &mut Command, sandbox: &Sandbox) {
    process::clear_environment(command);
    command
        .env("CONTROL_SOCKET", sandbox.path("control.sock"))
        // A test about restarts asks for them: every other agent begins afresh.
        .env("CHECKPOINT_FILE", "none")
        .env("BPF_PIN_DIR", "none")
        // The agent watches the mount namespace of the test, not that of process 1.
        .env("MOUNT_TABLE", "/proc/self/mountinfo");
}

fn milliseconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// Runs another command of the binary to its end.
pub fn run_cli<A: AsRef<OsStr>>(sandbox: &Sandbox, arguments: &[A]) -> Output {
    let mut command = Command::new(binary());
    environment(&mut command, sandbox);
    command.args(arguments).stdin(Stdio::null()).output().expect("run tocsin")
}

impl Agent {
    /// Starts an agent with the tests' settings.
    pub fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, |_| {})
    }

    /// Starts an agent with other settings, and waits until it listens.
    pub fn start_with(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Self {
        Self::try_start_with(sandbox, change).unwrap_or_else(|exited| {
            panic!("the agent ended ({}); its log:\n{}", exited.status, exited.log.join("\n"))
        })
    }

    /// Starts an agent that has to refuse, and gives how it ended; fails if it listens.
    pub fn refuses_to_start(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Exited {
        match Self::try_start_with(sandbox, change) {
            Ok(agent) => agent.fail("the agent starts, which it should refuse"),
            Err(exited) => exited,
        }
    }

    /// Starts an agent that may refuse to start.
    pub fn try_start_with(
        sandbox: &Sandbox,
        change: impl FnOnce(&mut Command),
    ) -> Result<Self, Exited> {
        let mut command = command(sandbox);
        change(&mut command);
        let mut process = Process::start(command);
        let listening = process.wait_listening()?;
        let address = |key: &str| {
            let address = listening[key].as_str().and_then(|text| text.parse().ok());
            address.unwrap_or_else(|| panic!("no address {key} in {listening}"))
        };
        Ok(Self {
            name: sandbox.name().to_owned(),
            process,
            health: address("health"),
            admin: address("admin"),
            haproxy: address("agent_check"),
            control: sandbox.path("control.sock"),
            connections: RefCell::default(),
        })
    }

    /// The address of the health listener.
    pub fn health_address(&self) -> SocketAddr {
        self.health
    }

    /// The address of the admin listener.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// The address of `HAProxy`'s agent-check.
    pub fn agent_check_address(&self) -> SocketAddr {
        self.haproxy
    }

    /// The control socket.
    pub fn control_socket(&self) -> &Path {
        &self.control
    }

    /// `GET` of a path of the health listener.
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path)
    }

    /// A request to the health listener.
    pub fn request(&self, method: &str, path: &str) -> Response {
        let connection = &mut self.connections.borrow_mut().health;
        self.send(connection, self.health, method, path)
    }

    /// `GET` of a path of the admin listener.
    pub fn admin(&self, path: &str) -> Response {
        let connection = &mut self.connections.borrow_mut().admin;
        self.send(connection, self.admin, "GET", path)
    }

    fn send(
        &self,
        connection: &mut Option<Connection>,
        address: SocketAddr,
        method: &str,
        path: &str,
    ) -> Response {
        // The agent may have closed a kept connection that was idle: then, and only then, there is a second try.
        for kept in [connection.take(), None] {
            let fresh = kept.is_none();
            let response =
                kept.map_or_else(|| Connection::open(address), Ok).and_then(|mut open| {
                    let response = open.request(method, path)?;
                    *connection = Some(open);
                    Ok(response)
                });
            match response {
                Ok(response) => return response,
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
    pub fn faults_page(&self) -> FaultsResponse {
        let response = self.admin("/faults");
        assert_eq!(response.status, 200, "{}", response.body);
        response.read()
    }

    /// The open faults.
    pub fn faults(&self) -> Vec<Fault> {
        self.faults_page().faults
    }

    /// The kernel's count for a kind and a device (`major:minor`), over all errnos.
    pub fn kernel_count(&self, kind: &str, device: &str) -> u64 {
        let counters = self.faults_page().counters.into_iter();
        let these = counters.filter(|counter| counter.kind == kind && counter.device == device);
        these.map(|counter| counter.count).sum()
    }

    /// A metric's value, by its name with labels as in the exposition: `tocsin_api_up`, `tocsin_x{y="z"}`.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.admin("/metrics").body;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok())
    }

    /// A counter's value; fails where there is no such metric.
    pub fn counter(&self, name: &str) -> u64 {
        let value = self.metric(name).unwrap_or_else(|| self.fail(&format!("no metric {name}")));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = value as u64;
        count
    }

    /// Events for which the kernel ran no program, by its own account.
    pub fn missed_events(&self) -> u64 {
        self.counter("tocsin_events_missed_total")
    }

    /// Waits until `look` sees something; fails with all there is to know after `timeout`.
    pub fn wait_for<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            if Instant::now() > deadline {
                self.fail(&format!("not within {timeout:?}: {what}"));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Waits until `/health` is 503 and `check` fails for a reason with all these words; prints how long after the
    /// injection that was.
    pub fn wait_failure(&self, since: Instant, check: &str, words: &[&str]) -> String {
        let what = format!("503 with {check} failing for a reason with {words:?}");
        let reason = self.wait_for(&what, TIMEOUT, |agent| {
            let reason = agent.health("").failure(check)?.to_owned();
            words.iter().all(|word| reason.contains(word)).then_some(reason)
        });
        let took = since.elapsed().as_secs_f64() * 1e3;
        say(&format!("MEASURED {}: {check} 503 after {took:.1} ms: {reason}", self.name));
        reason
    }

    /// Waits until `/health` is 200 and no fault is open.
    pub fn wait_recovery(&self, since: Instant, timeout: Duration) {
        self.wait_for("200 and no open fault", timeout, |agent| {
            (agent.health("").status == 200 && agent.faults().is_empty()).then_some(())
        });
        let took = since.elapsed().as_secs_f64() * 1e3;
        say(&format!("MEASURED {}: 200 again after {took:.1} ms", self.name));
    }

    /// Sends SIGTERM and waits; gives the exit status.
    pub fn terminate(self) -> ExitStatus {
        self.process.terminate()
    }

    /// Ends the test with everything there is to know. It asks on connections of its own, which may fail.
    pub fn fail(&self, why: &str) -> ! {
        let look = |address, path: &str| {
            Connection::open(address)
                .and_then(|mut open| open.get(path))
                .map_or_else(|error| error.to_string(), |response| response.body)
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

impl Deref for Agent {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}
