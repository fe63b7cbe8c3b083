//! The agent's wiring: sockets, channels and named tasks. A task that ends unexpectedly ends the process.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, anyhow, bail};
use tocsin_runtime::{
    http::{BACKLOG, Listener, bind},
    kube::ClusterSource,
    log::DroppedLines,
    metrics::Metrics,
    tasks::Tasks,
    tls::Acceptor,
};
use tokio::{
    net::TcpSocket,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tracing::{error, info, warn};

use crate::{
    checks::{Policy, disk_pressure::FullestFilesystem},
    cluster::{self, Beside, ClusterTask, FaultFeed, event_recorder::Notice, stats::ApiStats},
    config::Config,
    health::{
        Board,
        storm_guard::{GuardView, task::StormGuard},
    },
    host::{Paths, is_pid_namespaced, raise_open_files},
    kernel::{self, Channels, Command, HookState, KernelThread, Published},
    model::{BlindSpot, NodeView},
    peers::{self, Peers, webhooks::WebhookStats},
    serve,
    serve::{
        admin::Admin,
        agent_check::{self, AgentCheck},
        control::{Control, Socket, SocketFile},
        health::{self, BoundSockets, ResponseCounts, Router},
        metrics::{MetricSources, ServeCounts},
        state_file, watchdog, weight,
    },
};

/// 1 second at the end for the kernel task to write its last checkpoint, to a file on a tmpfs.
const LAST_CHECKPOINT: Duration = Duration::from_secs(1);

/// Runs the agent until a signal or a dead task ends it.
pub async fn run(config: Config, log_dropped: DroppedLines) -> anyhow::Result<()> {
    // Signals and ports first: a port in use is an error before anything else has started.
    let mut tasks = Tasks::new().context("listen for SIGTERM and SIGINT")?;
    let ports = Ports::bind(&config)?;
    let stats = Arc::<ServeCounts>::default();
    let tls = start_tls(&config, &stats, &mut tasks)?;
    let paths = host_paths(&config)?;
    let connections = connection_limit(config.listener.connections);

    let inputs = Inputs::start(&config, &paths, &mut tasks).await?;
    let answered = Arc::<ResponseCounts>::default();
    let metrics = Arc::new(Metrics::new(MetricSources {
        faults: inputs.published.faults.clone(),
        stats: inputs.published.stats.clone(),
        node: inputs.node.clone(),
        api: inputs.api.clone(),
        board: inputs.board.clone(),
        answered: answered.clone(),
        serve: stats.clone(),
        peers: inputs.peers.clone(),
        webhooks: inputs.webhooks.clone(),
        log_dropped,
    }));

    let load_balancers = LoadBalancers { answered, stats, connections, tls, paths };
    let [health, agent_check] = load_balancers
        .open(&config, &inputs, ports.health, &mut tasks)
        .context("health listener")?;
    let admin = open_admin(&inputs, ports.admin, metrics, connections, &mut tasks)
        .context("admin listener")?;
    let socket_file = open_control(&config, &inputs.commands, &mut tasks);
    welcome(&config, &inputs.published, [health, agent_check, admin]);
    if let Some(limit) = watchdog::limit() {
        tasks.spawn_graceful("watchdog", watchdog::run(health, limit, tasks.stop()));
    }
    watchdog::ready();
    let result = tasks.run().await;
    let Inputs { kernel_finished, commands, .. } = inputs;
    drop((commands, socket_file));
    let _late = timeout(LAST_CHECKPOINT, kernel_finished).await;
    result
}

/// The agent's ports, bound and not listening yet.
struct Ports {
    health: BoundSockets,
    admin: TcpSocket,
}

impl Ports {
    fn bind(config: &Config) -> anyhow::Result<Self> {
        let health = BoundSockets::bind(config.listener.health, config.listener.agent_check)
            .map_err(|(name, addr, error)| anyhow!(error).context(format!("{name} on {addr}")))?;
        let admin =
            bind(config.admin).with_context(|| format!("admin listener on {}", config.admin))?;
        Ok(Self { health, admin })
    }
}

/// How many connections a listener may have at once: fewer than configured where the process may open few files.
fn connection_limit(asked: usize) -> usize {
    let files = raise_open_files();
    let connections = (files.saturating_sub(serve::settings::OTHER_FILES) / 2).max(64);
    if connections < asked {
        warn!(asked, connections, files, "MAX_CONNECTIONS: this process may not open enough files");
    }
    connections
}

/// The sources of every answer, and the board that makes verdicts of them.
struct Inputs {
    published: Published,
    node: watch::Receiver<Arc<NodeView>>,
    api: Arc<ApiStats>,
    board: Board,
    fullest: FullestFilesystem,
    commands: mpsc::Sender<Command>,
    peers: peers::Published,
    webhooks: Arc<WebhookStats>,
    /// Completes when the kernel task has written its last checkpoint; it ends with the last sender of commands.
    kernel_finished: oneshot::Receiver<()>,
}

impl Inputs {
    /// Starts the kernel side, the cluster side and the probes; waits for the first state of the kernel side and of the
    /// Node, or for the loss of the API server.
    async fn start(config: &Config, paths: &Paths, tasks: &mut Tasks) -> anyhow::Result<Self> {
        let Channels { task, published, commands } = kernel::channels();
        let policy = Arc::new(config.policy.clone());
        let api = Arc::<ApiStats>::default();
        let (notices, notices_read) = mpsc::channel(cluster::settings::NOTICES);
        let Peers { published: peers, webhooks, beside } = match &config.peers {
            Some(settings) => Peers::start(settings, tasks).context("start the peers")?,
            None => Peers::not_configured(),
        };
        let others = Others { notices: notices_read, beside };
        let (cluster, node) = start_cluster(config, &policy, &published, others, &api)?;
        let KernelThread { ended, finished } = KernelThread::start(&config.kernel, paths, task)
            .await
            .context("read the mount table")?;
        tasks.spawn_background("kernel", KernelThread::run(ended));
        // A listener that opened earlier would answer without the Node's state.
        if let Some(mut cluster) = cluster {
            cluster.first_answer().await;
            tasks.spawn_background("cluster", cluster.run());
        }
        let fullest = config.probes.fullest(paths);
        let (runner, probes) = config.probes.start(&policy, paths).context("start the probes")?;
        tasks.spawn_background("probes", runner.run());
        let kernel = published.faults.clone();
        let threshold = config.peers.as_ref().and_then(|peers| peers.storm_guard);
        let (guard, guard_seen) = watch::channel(Arc::new(GuardView::new(threshold)));
        let sources = crate::health::Sources {
            kernel,
            pulse: published.pulse.clone(),
            node: node.clone(),
            peers: peers.view.clone(),
            guard: guard_seen,
            probes,
        };
        let board = Board::new(sources, policy);
        if config.peers.is_some() {
            let task = StormGuard {
                board: board.clone(),
                peers: peers.view.clone(),
                gossip: peers.gossip.clone(),
                questions: peers.questions.clone(),
                view: guard,
                notices,
            };
            tasks.spawn_background("storm guard", task.run());
        }
        Ok(Self {
            published,
            node,
            api,
            board,
            fullest,
            commands,
            peers,
            webhooks,
            kernel_finished: finished,
        })
    }
}

/// The places of the host that the agent reads, with a warning where they are not the host's.
fn host_paths(config: &Config) -> anyhow::Result<Paths> {
    let (paths, other_table) = Paths::new(&config.mount_table).context("read the mount table")?;
    if let Some(why) = other_table {
        warn!(why, "not the host's mount table");
    }
    if is_pid_namespaced(&paths.proc) {
        warn!(
            "in a container's PID namespace: without hostPID, the container's mount table is watched"
        );
    }
    Ok(paths)
}

/// What others have the cluster side do.
struct Others {
    /// To publish as events.
    notices: mpsc::Receiver<Notice>,
    /// To run on its thread.
    beside: Option<Beside>,
}

/// Starts the cluster side, where a cluster and the node's name are configured.
fn start_cluster(
    config: &Config,
    policy: &Arc<Policy>,
    published: &Published,
    others: Others,
    stats: &Arc<ApiStats>,
) -> anyhow::Result<(Option<ClusterTask>, watch::Receiver<Arc<NodeView>>)> {
    let Others { notices, beside } = others;
    let Some(source) = config.cluster.clone() else {
        if beside.is_some() {
            bail!("SERVICE_NAME needs the Kubernetes API: set KUBECONFIG, or run in a pod");
        }
        return Ok((None, cluster::not_configured()));
    };
    let Some(node_name) = policy.node_name.clone() else {
        error!("NODE_NAME is not set: requests whose checks need it are answered with 500");
        return Ok((None, cluster::not_configured()));
    };
    let (view, changes) = (published.faults.clone(), published.changes());
    let faults = FaultFeed { view, changes, notices };
    let (cluster, node) = cluster::start(cluster::Options {
        source,
        node_name,
        policy: policy.clone(),
        publish: config.publish_conditions.then_some(faults),
        stats: stats.clone(),
        beside,
    })
    .context("start the cluster side")?;
    Ok((Some(cluster), node))
}

/// What the ways to load balancers need besides [`Inputs`].
struct LoadBalancers {
    answered: Arc<ResponseCounts>,
    stats: Arc<ServeCounts>,
    connections: usize,
    tls: Option<Acceptor>,
    paths: Paths,
}

impl LoadBalancers {
    /// Opens the health listener and the agent-check, and starts the weight and the state file; returns the addresses of
    /// the first two.
    fn open(
        self,
        config: &Config,
        inputs: &Inputs,
        sockets: BoundSockets,
        tasks: &mut Tasks,
    ) -> io::Result<[SocketAddr; 2]> {
        let Self { answered, stats, connections, tls, paths } = self;
        let board = &inputs.board;
        let (weigher, weight) = watch::channel(100);
        let agent_check = agent_check::Settings { maint: config.listener.maint, weight };
        let settings = health::Settings {
            router: Router::new(board.clone(), config.nodecheck_down_status),
            threads: config.listener.threads,
            connections: config.listener.connections.min(connections),
            tls,
            counts: stats.connections.clone(),
            responses: answered,
            agent_check: Arc::new(AgentCheck::new(
                board.clone(),
                agent_check,
                stats.agent_checks.clone(),
            )),
        };
        let stop = tasks.stop();
        let threads = health::Threads::start(sockets, &settings, &stop)?;
        let addresses = [threads.health, threads.agent_check];
        tasks.spawn_graceful("health", threads.run(stop.clone()));
        if config.listener.weight != weight::WeightSource::Off {
            let (source, fullest) = (config.listener.weight, inputs.fullest.clone());
            tasks.spawn_graceful(
                "weight",
                weight::run(source, fullest, paths, weigher, stop.clone()),
            );
        }
        if let Some(path) = config.listener.state_file.clone() {
            let failures = stats.state_file.clone();
            tasks
                .spawn_graceful("state file", state_file::run(path, board.clone(), failures, stop));
        }
        Ok(addresses)
    }
}

/// Opens the admin listener; returns its address.
fn open_admin(
    inputs: &Inputs,
    socket: TcpSocket,
    metrics: Arc<Metrics>,
    connections: usize,
    tasks: &mut Tasks,
) -> io::Result<SocketAddr> {
    let listener = socket.listen(BACKLOG)?;
    let addr = listener.local_addr()?;
    let Published { faults, stats, .. } = inputs.published.clone();
    let peers = (inputs.peers.view.clone(), inputs.webhooks.clone());
    let commands = inputs.commands.clone();
    let admin = Admin::new(inputs.board.clone(), faults, stats, metrics, commands, peers);
    let server = admin.server(connections.min(serve::settings::CONNECTIONS.get()));
    tasks.spawn_graceful("admin", server.run(Listener::Tcp(listener), tasks.stop()));
    Ok(addr)
}

/// Opens the control socket. The agent runs without it, since answers matter more than actions.
fn open_control(
    config: &Config,
    commands: &mpsc::Sender<Command>,
    tasks: &mut Tasks,
) -> Option<SocketFile> {
    match Socket::bind(&config.control_socket) {
        Ok(Socket { listener, file }) => {
            let server = Control::new(commands.clone()).server();
            tasks.spawn_graceful("control", server.run(listener, tasks.stop()));
            Some(file)
        }
        Err(error) => {
            let path = config.control_socket.display();
            warn!(%path, %error, "no control socket: faults cannot be cleared by hand");
            None
        }
    }
}

/// Sets up TLS on the health listener, where it is configured.
fn start_tls(
    config: &Config,
    stats: &ServeCounts,
    tasks: &mut Tasks,
) -> anyhow::Result<Option<Acceptor>> {
    let Some(files) = config.listener.tls.clone() else { return Ok(None) };
    let (certificate, reload) = files.load(stats.tls.clone()).context("TLS_CERT and TLS_KEY")?;
    let acceptor = certificate.acceptor(&serve::settings::TLS_PROTOCOLS).context("TLS")?;
    tasks.spawn_background("certificate", reload.run());
    Ok(Some(acceptor))
}

/// Logs what works, what is missing, and what to try.
fn welcome(config: &Config, published: &Published, listening: [SocketAddr; 3]) {
    let [health, agent_check, admin] = listening;
    let (view, stats) = (published.faults.borrow().clone(), published.stats.borrow().clone());
    let checks: Vec<_> = config.policy.default_checks.iter().map(|check| check.name).collect();
    let of = |state: HookState| stats.hooks.iter().filter(move |hook| hook.state == state);
    let missing: Vec<_> = of(HookState::Missing)
        .chain(of(HookState::Failed))
        .map(|hook| hook.name.as_str())
        .collect();
    info!(
        node = config.policy.node_name.as_deref().unwrap_or("(NODE_NAME is not set)"),
        checks = checks.join(","),
        hooks_attached = of(HookState::Attached).count(),
        hooks_missing = (!missing.is_empty()).then(|| missing.join(",")),
        cluster = match &config.cluster {
            Some(ClusterSource::InCluster) => "in-cluster",
            Some(ClusterSource::Kubeconfig(_)) => "KUBECONFIG",
            None => "none",
        },
        open_faults = view.faults.len(),
        degraded = view.blind_spots.get(BlindSpot::NoEvents),
        "checks"
    );
    let reach = |addr: SocketAddr| {
        let any = addr.ip().is_unspecified();
        if any { format!("127.0.0.1:{}", addr.port()) } else { addr.to_string() }
    };
    info!("try: curl -i 'http://{}/health?verbose'", reach(health));
    info!("and: curl -s http://{}/faults, or: tocsin faults", reach(admin));
    info!(health = %health, agent_check = %agent_check, admin = %admin, "listening");
}
