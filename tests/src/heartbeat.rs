//! `tocsin-controller heartbeat`, started for one test.

use std::{
    net::SocketAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{
    http::{Connection, Response},
    process::{self, Exited, PAUSE, Process, TIMEOUT},
};

/// The token of the tests' heartbeats.
pub const TOKEN: &str = "dGVzdDp0ZXN0";

/// A running heartbeat; killed on drop.
pub struct Heartbeat {
    process: Process,
    api: SocketAddr,
    admin: SocketAddr,
}

/// The command line of a heartbeat, with nothing of the caller's environment.
pub fn command(kubeconfig: &Path) -> Command {
    let mut command = Command::new(process::binary("tocsin-controller", "TOCSIN_CONTROLLER_BIN"));
    command.arg("heartbeat");
    process::clear_environment(&mut command);
    command
        .env("KUBECONFIG", kubeconfig)
        .env("AUTH_TOKEN_BASIC", TOKEN)
        .env("RATE_LIMIT", "1000000")
        .env("LISTEN_ADDR", "127.0.0.1")
        .env("PORT", "0")
        .env("ADMIN_ADDR", "127.0.0.1")
        .env("ADMIN_PORT", "0")
        .env("LOG_FORMAT", "json");
    command
}

impl Heartbeat {
    /// Starts one, and waits until it follows the API server.
    pub fn start(kubeconfig: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let heartbeat = Self::start_unready(kubeconfig, change);
        heartbeat.wait_ready(200);
        heartbeat
    }

    /// Starts one, and waits until it listens.
    pub fn start_unready(kubeconfig: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = command(kubeconfig);
        change(&mut command);
        Self::try_start(command).unwrap_or_else(|exited| {
            panic!("the heartbeat ended ({}); its log:\n{}", exited.status, exited.log.join("\n"))
        })
    }

    /// Starts one that may refuse.
    pub fn try_start(command: Command) -> Result<Self, Exited> {
        let mut process = Process::start(command);
        let listening = process.wait_listening()?;
        let address = |key: &str| {
            let address = listening[key].as_str().and_then(|text| text.parse().ok());
            address.unwrap_or_else(|| panic!("no address {key} in {listening}"))
        };
        Ok(Self { process, api: address("api"), admin: address("admin") })
    }

    /// Waits until `/readyz` says so.
    pub fn wait_ready(&self, status: u16) -> Response {
        self.wait("readyz", || {
            Some(self.admin("/readyz")).filter(|response| response.status == status)
        })
    }

    /// Waits until a request with the token has this status; gives how long it took.
    pub fn wait_status(&self, path: &str, status: u16) -> Duration {
        let began = Instant::now();
        self.wait(&format!("{status} for {path}"), || {
            Some(self.get(path)).filter(|response| response.status == status)
        });
        began.elapsed()
    }

    /// Waits until something is there.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                Instant::now() < deadline,
                "not in time: {what}\n{}",
                self.process.log().join("\n")
            );
            thread::sleep(PAUSE);
        }
    }

    /// Where the API is.
    pub fn api_address(&self) -> SocketAddr {
        self.api
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Sends SIGTERM, and gives the exit status.
    pub fn terminate(self) -> std::process::ExitStatus {
        self.process.terminate()
    }

    /// A connection to the API.
    pub fn connect(&self) -> Connection {
        Connection::open(self.api).expect("connect to the API")
    }

    /// A request with the token.
    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[("Authorization", &format!("Basic {TOKEN}"))])
    }

    /// A request with these headers.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        self.connect().request_with(method, path, headers).expect("an answer")
    }

    /// A request to the admin listener.
    pub fn admin(&self, path: &str) -> Response {
        Connection::open(self.admin)
            .and_then(|mut admin| admin.get(path))
            .expect("an answer of the admin listener")
    }

    /// The value of a metric with its labels as they are written.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no metric {name} in\n{text}"))
    }
}
