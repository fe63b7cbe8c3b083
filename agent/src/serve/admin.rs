//! The admin listener, for operators and Prometheus. It is read-only.
//!
//! * `GET /` — what is here
//! * `GET /faults` — open faults, the kernel's counters and the state of the hooks, as JSON
//! * `GET /peers` — which agents reach which, as JSON
//! * `GET /metrics` — `OpenMetrics`, or Prometheus text
//! * `GET /readyz` — 200 since the first verdict (before it, nothing listens)

use std::sync::Arc;

use humantime::format_rfc3339_millis;
use hyper::{Method, Request, StatusCode};
use tocsin_api::{
    faults::{Counter, Fault, FaultsResponse, Hook},
    peers::PeersResponse,
};
use tocsin_runtime::{
    http::{Reply, Server, Settings, TEXT, error, json, not_allowed, reply},
    metrics::Metrics,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

use super::peers;
use crate::{
    health::Board,
    kernel::{Command, HookStatus, KernelStats, NamedCount},
    model::{self, FaultView, PeerView},
    peers::webhooks::WebhookStats,
    serve::settings,
};

const INDEX: &str = "tocsin\n\n/faults   what is wrong, what was counted, which hooks work (JSON)\n\
/peers    which agents reach which (JSON)\n\
/metrics  OpenMetrics\n/readyz   200 when the agent has looked at this host\n\nHealth for load balancers is on the other port: /health\n";

/// The handler of the admin listener.
#[derive(Clone, Debug)]
pub struct Admin {
    board: Board,
    faults: watch::Receiver<Arc<FaultView>>,
    stats: watch::Receiver<Arc<KernelStats>>,
    metrics: Arc<Metrics>,
    commands: mpsc::Sender<Command>,
    peers: watch::Receiver<Arc<PeerView>>,
    webhooks: Arc<WebhookStats>,
}

impl Admin {
    /// A handler that reads these sources, and has the kernel task renew its counters through `commands`.
    #[must_use]
    pub fn new(
        board: Board,
        faults: watch::Receiver<Arc<FaultView>>,
        stats: watch::Receiver<Arc<KernelStats>>,
        metrics: Arc<Metrics>,
        commands: mpsc::Sender<Command>,
        (peers, webhooks): (watch::Receiver<Arc<PeerView>>, Arc<WebhookStats>),
    ) -> Self {
        Self { board, faults, stats, metrics, commands, peers, webhooks }
    }

    /// A server with this handler, for at most `connections` at once.
    #[must_use]
    pub fn server(self, connections: usize) -> Server {
        let settings = Settings { connections, ..Settings::new("admin") };
        Server::new(settings, move |request, _| {
            let admin = self.clone();
            async move { admin.handle(request).await }
        })
    }

    /// Answers one request; its body is not read.
    async fn handle<B>(&self, request: Request<B>) -> Reply {
        let path = request.uri().path();
        if !matches!(path, "/" | "/faults" | "/metrics" | "/peers" | "/readyz") {
            return error(StatusCode::NOT_FOUND, "not found");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD");
        }
        if matches!(path, "/faults" | "/metrics") {
            self.refresh().await;
        }
        match path {
            "/faults" => self.faults(),
            "/metrics" => self.metrics.reply(request.headers()),
            "/peers" => json(StatusCode::OK, &self.peers()),
            "/readyz" => reply(StatusCode::OK, TEXT, "ok"),
            _ => reply(StatusCode::OK, TEXT, INDEX),
        }
    }

    /// Has the kernel task read its counters now. The last reading is shown where the task is busy.
    async fn refresh(&self) {
        let (done, refreshed) = oneshot::channel();
        if self.commands.try_send(Command::Refresh(done)).is_ok() {
            let _late_or_gone = timeout(settings::REFRESH_DEADLINE, refreshed).await;
        }
    }

    fn peers(&self) -> PeersResponse {
        peers::response(&self.peers.borrow(), &self.board.guard(), &self.webhooks)
    }

    fn faults(&self) -> Reply {
        let (view, stats) = (self.faults.borrow().clone(), self.stats.borrow().clone());
        let response = FaultsResponse {
            node: self.board.node_name().map(str::to_owned),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            faults: view.faults.iter().map(fault).collect(),
            counters: stats.counts.iter().map(counter).collect(),
            hooks: stats.hooks.iter().map(hook).collect(),
            degraded: view.blind_spots.iter().map(|(_, why)| why.to_owned()).collect(),
        };
        json(StatusCode::OK, &response)
    }
}

fn fault(fault: &model::Fault) -> Fault {
    Fault {
        id: fault.id.clone(),
        kind: fault.kind.name().to_owned(),
        check: fault.check.to_owned(),
        device: fault.device.to_string(),
        device_name: fault.device_name.clone(),
        filesystem: fault.filesystem.clone(),
        mount_points: fault.mount_points.clone(),
        scope: fault.scope.name().to_owned(),
        opened: format_rfc3339_millis(fault.opened).to_string(),
        last: format_rfc3339_millis(fault.last).to_string(),
        count: fault.count,
        errno: fault.errno.clone(),
        kernel_ns: fault.kernel_ns,
        reason: fault.reason.clone(),
        evidence: fault.evidence.clone(),
    }
}

fn counter(counter: &NamedCount) -> Counter {
    Counter {
        kind: counter.kind.to_owned(),
        device: counter.device.to_string(),
        device_name: counter.device_name.clone(),
        errno: counter.errno.clone(),
        count: counter.count,
        suppressed: counter.suppressed,
        dropped: counter.dropped,
    }
}

fn hook(hook: &HookStatus) -> Hook {
    Hook {
        name: hook.name.clone(),
        state: hook.state.name().to_owned(),
        detail: hook.detail.clone(),
    }
}
