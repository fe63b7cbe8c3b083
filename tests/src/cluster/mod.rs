//! A real control plane for the tests: etcd and kube-apiserver, kubectl, and Node objects to play with.
//!
//! Nothing runs in this cluster: there is no kubelet, no scheduler and no controller, so that what a
//! test writes stays as it is. Tests of the healthy case share one control plane per process, each with
//! nodes of its own; a test that breaks the server has one for itself.
//!
//! Everything here looks synchronous. What is not runs on a runtime that [`keeper`] owns.

mod audit;
mod front;
mod keeper;
mod node;
mod scratch;
mod server;
mod start;
mod tunnel;

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Resource};
use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use audit::AuditEntry;
pub use front::Front;
pub use node::{TestNode, TestNodes};
pub use tunnel::Tunnel;

use crate::sandbox::{require, say};
use crate::sys;
use scratch::token_of;
use server::{Server, loopback};
use start::Setup;

/// No request takes nearly as long; a test whose server does not answer shall fail, not hang.
const PATIENCE: Duration = Duration::from_secs(30);

/// A control plane. Clones are the same one, which ends with the last of them.
#[derive(Clone)]
pub struct ControlPlane(Arc<Inner>);

struct Inner {
    shared: bool,
    // Before the files, which they use.
    servers: Mutex<Servers>,
    setup: Setup,
    client: Client,
    /// Whether a request makes sense at the moment.
    serving: AtomicBool,
    /// The tokens of service accounts, by the names that the server has for them.
    accounts: Mutex<HashMap<String, String>>,
}

struct Servers {
    // First, so that it does not complain about the other's absence.
    api: Option<Server>,
    etcd: Option<Server>,
}

/// The one of this process, as long as it runs.
static SHARED: Mutex<Option<ControlPlane>> = Mutex::new(None);

/// Statics are never dropped.
extern "C" fn end_shared() {
    drop(lock(&SHARED).take());
}

/// A service account that a test has made.
#[derive(Clone, Debug)]
pub struct Account {
    /// As RBAC and the audit log call it: `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// As it is in a pod's file.
    pub token: String,
}

impl ControlPlane {
    /// The one that this process's tests share. None, with the reason printed, where the programs are
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

    /// One for a test that breaks it.
    pub fn private() -> Option<Self> {
        Self::private_with(|_| {})
    }

    /// The same, with changes to the API server's command line and environment, also when it is
    /// started again.
    pub fn private_with(change: impl Fn(&mut Command) + Send + Sync + 'static) -> Option<Self> {
        Some(Self::start(programs()?, false, change))
    }

    fn start(
        programs: PathBuf,
        shared: bool,
        change: impl Fn(&mut Command) + Send + Sync + 'static,
    ) -> Self {
        let (setup, etcd, api, client) = Setup::start(programs, Box::new(change));
        Self(Arc::new(Inner {
            shared,
            servers: Mutex::new(Servers { api: Some(api), etcd: Some(etcd) }),
            setup,
            client,
            serving: AtomicBool::new(true),
            accounts: Mutex::default(),
        }))
    }

    /// Where the API server is: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.0.setup.url()
    }

    /// What signed its certificate.
    pub fn ca_pem(&self) -> String {
        fs::read_to_string(self.ca_file()).expect("read the certificate")
    }

    /// The file with it.
    pub fn ca_file(&self) -> PathBuf {
        self.0.setup.credentials.ca()
    }

    /// The token of `admin`, of `nobody` (who may do nothing), or of a service account by its full
    /// name.
    pub fn token(&self, user: &str) -> String {
        let account = || lock(&self.0.accounts).get(user).cloned();
        let token = token_of(user).map(str::to_owned).or_else(account);
        token.unwrap_or_else(|| panic!("nobody is called {user}"))
    }

    /// A file for the environment's `KUBECONFIG`, of any user of [`Self::token`].
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.kubeconfig_at(user, &self.url())
    }

    /// The same with something in front of the server.
    pub fn kubeconfig_at(&self, user: &str, server: &str) -> PathBuf {
        let token = self.token(user);
        self.0.setup.scratch.kubeconfig(user, server, Some(&self.ca_file()), Some(&token))
    }

    /// Makes a service account, and the namespace if there is none; it may do nothing yet.
    pub fn service_account(&self, namespace: &str, name: &str) -> Account {
        let meta = |name: &str| ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
        let home = Namespace { metadata: meta(namespace), ..Default::default() };
        self.create_if_absent(&Api::all(self.client()), &home);
        let account = ServiceAccount { metadata: meta(name), ..Default::default() };
        let accounts = Api::namespaced(self.client(), namespace);
        self.create_if_absent(&accounts, &account);
        let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..Default::default() };
        let request = TokenRequest { spec: Some(spec), ..Default::default() };
        let parameters = PostParams::default();
        let request = accounts.create_token_request(name, &parameters, &request);
        let answer = self.ask("request a token", request);
        let token = answer.status.and_then(|status| status.token).expect("a token");
        let user = format!("system:serviceaccount:{namespace}:{name}");
        lock(&self.0.accounts).insert(user.clone(), token.clone());
        Account { user, token }
    }

    fn create_if_absent<K>(&self, api: &Api<K>, object: &K)
    where
        K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
    {
        match self.attempt(api.create(&PostParams::default(), object)) {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => panic!("create {:?}: {error}", object.meta().name),
        }
    }

    /// Runs kubectl as `admin`, to its end.
    pub fn kubectl<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Output {
        let setup = &self.0.setup;
        server::command(&setup.programs.join("kubectl"))
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig("admin"))
            .env("HOME", setup.scratch.path("home"))
            .env("KUBECACHEDIR", setup.scratch.path("home/cache"))
            .stdin(Stdio::null())
            .output()
            .expect("run kubectl")
    }

    /// A client that is `admin`.
    pub fn client(&self) -> Client {
        self.0.client.clone()
    }

    /// Waits for a future, on the fixtures' runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        keeper::handle().block_on(future)
    }

    /// Waits for a request, but not forever.
    fn attempt<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        let bounded = async { tokio::time::timeout(PATIENCE, request).await };
        self.block_on(bounded).unwrap_or_else(|_| panic!("no answer within {PATIENCE:?}"))
    }

    /// The same for a request that has to succeed.
    fn ask<T>(&self, what: &str, request: impl Future<Output = kube::Result<T>>) -> T {
        self.attempt(request).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Every request so far, by the server's own account, but its own.
    pub fn audit(&self) -> Vec<AuditEntry> {
        audit::read(&self.0.setup.audit_log())
    }

    /// The requests of one user.
    pub fn audit_of(&self, user: &str) -> Vec<AuditEntry> {
        let mut entries = self.audit();
        entries.retain(|entry| entry.user == user);
        entries
    }

    /// The API server stops in the middle of whatever it does: connections stay open, nobody answers.
    ///
    /// It was quick until then: one that has only just started on a busy machine can be silent for half a second by
    /// itself, and whoever counts from the stop would count wrong.
    pub fn stop_api(&self) {
        self.wait_until_quick();
        self.0.serving.store(false, Ordering::Relaxed);
        self.signal(Signal::STOP);
    }

    /// It goes on as if nothing had been.
    pub fn resume_api(&self) {
        self.signal(Signal::CONT);
        self.0.serving.store(true, Ordering::Relaxed);
    }

    /// For a second, every answer within a tenth of one; or as good as it gets.
    fn wait_until_quick(&self) {
        let (mut since, deadline) = (Instant::now(), Instant::now() + PATIENCE);
        while since.elapsed() < Duration::from_secs(1) && Instant::now() < deadline {
            let asked = Instant::now();
            self.ask("ask for the version", self.0.client.apiserver_version());
            if asked.elapsed() > Duration::from_millis(100) {
                since = Instant::now();
            }
            thread::sleep(Duration::from_millis(20));
        }
        if since.elapsed() < Duration::from_secs(1) {
            say("the API server is slow before anybody stops it");
        }
    }

    fn signal(&self, signal: Signal) {
        self.breakable().api.as_ref().expect("a running API server").signal(signal);
    }

    /// The API server is gone: connections are reset, new ones refused.
    pub fn kill_api(&self) {
        self.0.serving.store(false, Ordering::Relaxed);
        self.breakable().api = None;
    }

    /// It is back with the same data, port and credentials; returns when it is ready.
    pub fn start_api(&self) {
        let mut servers = self.breakable();
        assert!(servers.api.is_none(), "the API server runs");
        servers.api = Some(self.0.setup.start_api(&self.0.client));
        self.0.serving.store(true, Ordering::Relaxed);
    }

    /// It is back, or restarted, and everything it knew is lost: another cluster with the same name,
    /// whose resource versions begin anew. Service accounts are lost too.
    pub fn start_api_wiped(&self) {
        self.0.serving.store(false, Ordering::Relaxed);
        let mut servers = self.breakable();
        servers.api = None;
        servers.etcd = None;
        self.0.setup.wipe();
        servers.etcd = Some(self.0.setup.start_etcd());
        servers.api = Some(self.0.setup.start_api(&self.0.client));
        self.0.serving.store(true, Ordering::Relaxed);
    }

    /// etcd forgets all versions but the current ones. The API server still has the last ones in
    /// memory, until it is started again: then older ones are `410 Gone`.
    pub fn compact(&self) {
        let servers = self.breakable();
        self.0.setup.compact();
        drop(servers);
    }

    /// The servers, for somebody who is about to break them.
    fn breakable(&self) -> MutexGuard<'_, Servers> {
        assert!(!self.0.shared, "others use this control plane: take a private one");
        lock(&self.0.servers)
    }

    /// Resident memory of the API server and of etcd, in KiB.
    pub fn resident_kib(&self) -> (u64, u64) {
        let servers = lock(&self.0.servers);
        let of = |server: &Option<Server>| server.as_ref().map_or(0, Server::resident_kib);
        (of(&servers.api), of(&servers.etcd))
    }

    /// The process of the API server.
    pub fn api_pid(&self) -> u32 {
        lock(&self.0.servers).api.as_ref().expect("a running API server").pid()
    }

    /// A Node that is ready; gone on drop.
    pub fn node(&self, name: &str) -> TestNode {
        TestNode::create(self, name)
    }

    /// Many at once, `PREFIX-0` and so on; gone on drop.
    pub fn nodes(&self, count: usize, prefix: &str) -> TestNodes {
        TestNodes::create(self, count, prefix)
    }

    /// A way to the API server that can be cut.
    pub fn tunnel(&self) -> Tunnel {
        Tunnel::open(self)
    }

    /// Whether a request makes sense at the moment.
    fn serves(&self) -> bool {
        self.0.serving.load(Ordering::Relaxed)
    }

    fn api_address(&self) -> std::net::SocketAddr {
        loopback(self.0.setup.ports.api)
    }
}

/// The programs' directory; none, with the reason printed, where they are missing.
fn programs() -> Option<PathBuf> {
    let programs = server::programs();
    let why = "etcd, kube-apiserver and kubectl are missing (cargo xtask setup --cluster)";
    require(programs.is_some(), why).then_some(programs).flatten()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remove_directory(path: &Path) {
    fs::remove_dir_all(path).unwrap_or_else(|error| panic!("remove {}: {error}", path.display()));
}
