//! The control plane as a whole: how it starts, breaks and comes back.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use kube::Client;
use rustix::process::Signal;

use super::runtime;
use super::scratch::Scratch;
use super::server::{self, Server, loopback};
use super::start::Setup;
use crate::sandbox::{require, say};
use crate::sync::lock;
use crate::sys;

/// How long a request may take: a test whose server does not answer fails instead of hanging.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the API server has to answer quickly before a test may stop it, and what "quickly" is.
const QUICK_FOR: Duration = Duration::from_secs(1);
const QUICK: Duration = Duration::from_millis(100);

/// A control plane. Clones are the same one, which ends with the last of them.
#[derive(Clone)]
pub struct ControlPlane(Arc<Inner>);

struct Inner {
    is_shared: bool,
    // Dropped before the setup, whose files they use.
    servers: Mutex<Servers>,
    setup: Setup,
    client: Client,
    /// Whether the API server is meant to answer now.
    is_serving: AtomicBool,
    /// Tokens of service accounts, by their user names.
    tokens: Mutex<HashMap<String, String>>,
}

struct Servers {
    // Dropped first: the API server would complain about etcd's absence.
    api: Option<Server>,
    etcd: Option<Server>,
}

/// The control plane that the tests of this process share, as long as the process runs.
static SHARED: Mutex<Option<ControlPlane>> = Mutex::new(None);

/// Ends the shared control plane: statics are never dropped.
extern "C" fn end_shared() {
    drop(lock(&SHARED).take());
}

impl ControlPlane {
    /// The control plane that this process's tests share. None, with the reason printed, where the programs are
    /// missing.
    pub fn shared() -> Option<Self> {
        let programs = programs()?;
        let mut shared = lock(&SHARED);
        if shared.is_none() {
            *shared = Some(Self::start(programs, true, |_| {}));
            sys::at_exit(end_shared);
        }
        shared.clone()
    }

    /// A control plane for a test that breaks it.
    pub fn private() -> Option<Self> {
        Self::private_with(|_| {})
    }

    /// A control plane whose API server is started with changes to its command line and environment, also when it is
    /// started again.
    pub fn private_with(change: impl Fn(&mut Command) + Send + Sync + 'static) -> Option<Self> {
        Some(Self::start(programs()?, false, change))
    }

    fn start(
        programs: PathBuf,
        is_shared: bool,
        change: impl Fn(&mut Command) + Send + Sync + 'static,
    ) -> Self {
        let (setup, etcd, api, client) = Setup::start(programs, Box::new(change));
        Self(Arc::new(Inner {
            is_shared,
            servers: Mutex::new(Servers { api: Some(api), etcd: Some(etcd) }),
            setup,
            client,
            is_serving: AtomicBool::new(true),
            tokens: Mutex::default(),
        }))
    }

    /// The API server's URL: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.0.setup.url()
    }

    /// The authority that signed the API server's certificate, as PEM.
    pub fn ca_pem(&self) -> String {
        fs::read_to_string(self.ca_file()).expect("read the certificate")
    }

    /// The file with [`Self::ca_pem`].
    pub fn ca_file(&self) -> PathBuf {
        self.0.setup.credentials.ca()
    }

    /// A client that may do everything, as the user `admin`.
    pub fn client(&self) -> Client {
        self.0.client.clone()
    }

    /// Waits for a future, on the fixtures' runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        runtime::handle().block_on(future)
    }

    /// Waits for a request, but not for ever.
    pub fn try_request<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> kube::Result<T> {
        let bounded = async { tokio::time::timeout(REQUEST_TIMEOUT, request).await };
        self.block_on(bounded).unwrap_or_else(|_| panic!("no answer within {REQUEST_TIMEOUT:?}"))
    }

    /// Waits for a request that has to succeed; `what` is for the message if it does not.
    pub fn request<T>(&self, what: &str, request: impl Future<Output = kube::Result<T>>) -> T {
        self.try_request(request).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Stops the API server's process: connections stay open, and nothing is answered.
    ///
    /// The server answered quickly until then. One that has just started on a busy machine can be silent for half a
    /// second by itself, and a test that measures from the stop on would measure that too.
    pub fn stop_api(&self) {
        self.wait_until_quick();
        self.0.is_serving.store(false, Ordering::Relaxed);
        self.signal(Signal::STOP);
    }

    /// Lets a stopped API server go on.
    pub fn resume_api(&self) {
        self.signal(Signal::CONT);
        self.0.is_serving.store(true, Ordering::Relaxed);
    }

    fn wait_until_quick(&self) {
        let (mut since, deadline) = (Instant::now(), Instant::now() + REQUEST_TIMEOUT);
        while since.elapsed() < QUICK_FOR && Instant::now() < deadline {
            let began = Instant::now();
            self.request("get the version", self.0.client.apiserver_version());
            if began.elapsed() > QUICK {
                since = Instant::now();
            }
            thread::sleep(Duration::from_millis(20));
        }
        if since.elapsed() < QUICK_FOR {
            say("the API server is slow already before it is stopped");
        }
    }

    fn signal(&self, signal: Signal) {
        self.breakable().api.as_ref().expect("a running API server").signal(signal);
    }

    /// Kills the API server: connections are reset, and new ones refused.
    pub fn kill_api(&self) {
        self.0.is_serving.store(false, Ordering::Relaxed);
        self.breakable().api = None;
    }

    /// Starts a killed API server again, with the same data, port and credentials; returns when it is ready.
    pub fn start_api(&self) {
        let mut servers = self.breakable();
        assert!(servers.api.is_none(), "the API server runs");
        servers.api = Some(self.0.setup.start_api(&self.0.client));
        self.0.is_serving.store(true, Ordering::Relaxed);
    }

    /// Starts the API server without any of its data: another cluster with the same name, whose resource versions begin
    /// anew. Service accounts are lost too.
    pub fn start_api_wiped(&self) {
        self.0.is_serving.store(false, Ordering::Relaxed);
        let mut servers = self.breakable();
        servers.api = None;
        servers.etcd = None;
        self.0.setup.wipe();
        servers.etcd = Some(self.0.setup.start_etcd());
        servers.api = Some(self.0.setup.start_api(&self.0.client));
        self.0.is_serving.store(true, Ordering::Relaxed);
    }

    /// Lets etcd forget all versions of objects but the current ones. The API server still has the last ones in memory
    /// until it is started again: then a watch of an older version is answered `410 Gone`.
    pub fn compact(&self) {
        let servers = self.breakable();
        self.0.setup.compact();
        drop(servers);
    }

    /// The servers, for a test that is about to break them.
    fn breakable(&self) -> MutexGuard<'_, Servers> {
        assert!(!self.0.is_shared, "other tests use this control plane: take a private one");
        lock(&self.0.servers)
    }

    /// Resident memory of the API server and of etcd, in KiB.
    pub fn resident_kib(&self) -> (u64, u64) {
        let servers = lock(&self.0.servers);
        let of = |server: &Option<Server>| server.as_ref().map_or(0, Server::resident_kib);
        (of(&servers.api), of(&servers.etcd))
    }

    /// The process id of the API server.
    pub fn api_pid(&self) -> u32 {
        lock(&self.0.servers).api.as_ref().expect("a running API server").pid()
    }

    /// Whether the API server is meant to answer now.
    pub(super) fn is_serving(&self) -> bool {
        self.0.is_serving.load(Ordering::Relaxed)
    }

    pub(super) fn api_address(&self) -> SocketAddr {
        loopback(self.0.setup.ports.api)
    }

    /// Tokens of service accounts, by their user names.
    pub(super) fn tokens(&self) -> &Mutex<HashMap<String, String>> {
        &self.0.tokens
    }

    pub(super) fn scratch(&self) -> &Scratch {
        &self.0.setup.scratch
    }

    pub(super) fn audit_log(&self) -> PathBuf {
        self.0.setup.audit_log()
    }

    /// The path of one of the control plane's programs.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.0.setup.programs.join(name)
    }
}

/// The programs' directory; none, with the reason printed, where they are missing.
fn programs() -> Option<PathBuf> {
    let programs = server::programs();
    let why = "etcd, kube-apiserver and kubectl are missing (cargo xtask setup --cluster)";
    require(programs.is_some(), why).then_some(programs).flatten()
}
