//! How etcd and the API server are started, and when they are ready.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use hyper::Request;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::runtime;
use super::scratch::{Credentials, Scratch, token_of};
use super::server::{Server, command, free_port, listens, loopback, port_was_taken};
use crate::http::Connection;

/// How long a server may take to start: 4 s on an idle machine.
const START: Duration = Duration::from_mins(1);

/// Between two looks of a loop that waits.
const PAUSE: Duration = Duration::from_millis(20);

/// How often other ports are tried when one was taken meanwhile.
const ATTEMPTS: usize = 5;

pub(super) type Change = Box<dyn Fn(&mut Command) + Send + Sync>;

pub(super) struct Ports {
    pub(super) api: u16,
    etcd: u16,
    etcd_peers: u16,
}

/// Everything that stays the same when a server is started again.
pub(super) struct Setup {
    pub(super) programs: PathBuf,
    pub(super) scratch: Scratch,
    pub(super) credentials: Credentials,
    pub(super) ports: Ports,
    change: Change,
}

/// Why a server did not start.
enum Refusal {
    PortTaken,
    Other(String),
}

impl Setup {
    /// Starts both, and waits until the API server is ready.
    pub(super) fn start(programs: PathBuf, change: Change) -> (Self, Server, Server, Client) {
        let scratch = Scratch::new();
        let credentials = Credentials::write(&scratch);
        let ports = Ports { api: 0, etcd: 0, etcd_peers: 0 };
        let mut setup = Self { programs, scratch, credentials, ports, change };
        for _ in 0..ATTEMPTS {
            setup.ports = Ports { api: free_port(), etcd: free_port(), etcd_peers: free_port() };
            let started = setup.try_etcd().and_then(|etcd| {
                let (api, client) = setup.try_api(None)?;
                Ok((etcd, api, client))
            });
            match started {
                Ok((etcd, api, client)) => return (setup, etcd, api, client),
                Err(Refusal::PortTaken) => {}
                Err(Refusal::Other(why)) => panic!("{why}"),
            }
        }
        panic!("the ports were taken {ATTEMPTS} times");
    }

    /// Starts etcd again.
    pub(super) fn start_etcd(&self) -> Server {
        self.try_etcd().unwrap_or_else(|why| why.fail())
    }

    /// Starts the API server again, and waits until it is ready.
    pub(super) fn start_api(&self, client: &Client) -> Server {
        let (api, _) = self.try_api(Some(client)).unwrap_or_else(|why| why.fail());
        api
    }

    /// Removes the data of etcd, which must not run.
    pub(super) fn wipe(&self) {
        let data = self.scratch.path("etcd");
        fs::remove_dir_all(&data)
            .unwrap_or_else(|error| panic!("remove {}: {error}", data.display()));
    }

    pub(super) fn url(&self) -> String {
        format!("https://{}", loopback(self.ports.api))
    }

    pub(super) fn audit_log(&self) -> PathBuf {
        self.scratch.path("audit.log")
    }

    fn try_etcd(&self) -> Result<Server, Refusal> {
        let url = |port| format!("http://{}", loopback(port));
        let (clients, peers) = (url(self.ports.etcd), url(self.ports.etcd_peers));
        let mut etcd = command(&self.programs.join("etcd"));
        etcd.args(["--name", "default", "--unsafe-no-fsync", "--log-level", "warn"])
            .arg("--data-dir")
            .arg(self.scratch.path("etcd"))
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}")]);
        let mut etcd = Server::start(etcd, self.scratch.path("etcd.log"));
        wait(&mut etcd, "etcd", || listens(self.ports.etcd).then_some(()))?;
        self.leave_first_revision();
        Ok(etcd)
    }

    /// Writes until revision 1 is in the past. On a server that has seen nothing else a watch may begin there, and the
    /// tests count on `410 Gone`.
    fn leave_first_revision(&self) {
        for _ in 0..3 {
            self.post_to_etcd("/v3/kv/put", r#"{"key":"dG9jc2lu"}"#);
        }
    }

    fn try_api(&self, known: Option<&Client>) -> Result<(Server, Client), Refusal> {
        let mut api = Server::start(self.api_command(), self.scratch.path("api.log"));
        let mut client = known.cloned();
        wait(&mut api, "kube-apiserver", || {
            if !listens(self.ports.api) {
                return None;
            }
            // The server makes its certificate before it listens for the first time.
            let client = client.get_or_insert_with(|| self.client());
            is_ready(client).then(|| client.clone())
        })
        .map(|client| (api, client))
    }

    fn api_command(&self) -> Command {
        let Ports { api, etcd, .. } = self.ports;
        let Credentials { tokens, audit_policy, certificates } = &self.credentials;
        let key = self.credentials.key();
        let file = |flag: &str, path: &PathBuf| format!("--{flag}={}", path.display());
        let mut command = command(&self.programs.join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers=http://{}", loopback(etcd)))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={api}"))
            .arg(file("cert-dir", certificates))
            .arg(file("token-auth-file", tokens))
            .arg("--authorization-mode=RBAC")
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(file("service-account-key-file", &key))
            .arg(file("service-account-signing-key-file", &key))
            .arg("--service-cluster-ip-range=10.96.0.0/16")
            // A loopback address cannot be an endpoint of the service `kubernetes`.
            .arg("--endpoint-reconciler-type=none")
            // Both rely on controllers, which do not run here: one on a service account in each namespace, the other
            // on the removal of the taint that each new Node gets.
            .arg("--disable-admission-plugins=ServiceAccount,TaintNodesByCondition")
            // For the thousands of Nodes at the end of a bench.
            .arg("--delete-collection-workers=8")
            .arg("--allow-privileged=true")
            .arg(file("audit-policy-file", audit_policy))
            .arg(file("audit-log-path", &self.audit_log()))
            // A request is logged before it is answered.
            .arg("--audit-log-mode=blocking")
            // In megabytes: the tests read one file.
            .arg("--audit-log-maxsize=4096");
        (self.change)(&mut command);
        command
    }

    fn client(&self) -> Client {
        let ca = self.credentials.ca();
        let path = self.scratch.kubeconfig("admin", &self.url(), Some(&ca), token_of("admin"));
        let kubeconfig = Kubeconfig::read_from(path).expect("read a kubeconfig");
        let options = KubeConfigOptions::default();
        let client = async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            Client::try_from(config.expect("use a kubeconfig"))
        };
        runtime::handle().block_on(client).expect("make a client")
    }

    /// Lets etcd forget all versions but the current ones, through its HTTP gateway.
    pub(super) fn compact(&self) {
        let revision = self.post_to_etcd("/v3/maintenance/status", "{}");
        let revision = revision["header"]["revision"].as_str().expect("a revision").to_owned();
        let request = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        self.post_to_etcd("/v3/kv/compaction", &request);
    }

    fn post_to_etcd(&self, path: &str, body: &str) -> Value {
        let address = loopback(self.ports.etcd);
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = Connection::open(address).and_then(|mut open| open.send(request.as_bytes()));
        let answer = answer.unwrap_or_else(|error| panic!("etcd {path}: {error}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        answer.json()
    }
}

impl Refusal {
    fn fail(self) -> ! {
        match self {
            Self::PortTaken => panic!("another program took the port"),
            Self::Other(why) => panic!("{why}"),
        }
    }
}

/// Waits until `look` sees something, or the server has ended.
fn wait<T>(
    server: &mut Server,
    name: &str,
    mut look: impl FnMut() -> Option<T>,
) -> Result<T, Refusal> {
    let deadline = Instant::now() + START;
    loop {
        if let Some(status) = server.ended() {
            let log = server.log_tail();
            if port_was_taken(&log) {
                return Err(Refusal::PortTaken);
            }
            return Err(Refusal::Other(format!("{name} ended ({status}):\n{log}")));
        }
        if let Some(seen) = look() {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            let log = server.log_tail();
            return Err(Refusal::Other(format!("{name} is not ready after {START:?}:\n{log}")));
        }
        thread::sleep(PAUSE);
    }
}

/// Whether the API server says that it is ready, and has the objects that every cluster has from the start.
fn is_ready(client: &Client) -> bool {
    let ready = async {
        let request = Request::get("/readyz").body(Vec::new()).ok()?;
        client.request_text(request).await.ok()?;
        Api::<ClusterRole>::all(client.clone()).get("system:node").await.ok()?;
        Api::<Namespace>::all(client.clone()).get("default").await.ok()
    };
    let bounded = async { tokio::time::timeout(START, ready).await };
    matches!(runtime::handle().block_on(bounded), Ok(Some(_)))
}
