//! Wiring only: sockets, channels, named tasks. A task that ends unexpectedly ends the process.

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use anyhow::{Context, anyhow};
use tokio::{
    net::TcpSocket,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};

use crate::{
    checks::{Policy, disk_pressure::Fullest},
    cluster::{self, Cluster, source::Source, stats::ApiStats},
    config::Config,
    health::Board,
    host::{Paths, is_pid_namespaced, raise_open_files},
    kernel::{Command, Published, loader::HookState, task::Kernel},
    model::{FaultView, NodeView},
    serve,
    serve::{
        BACKLOG,
        admin::Admin,
        agent_check::{self, AgentCheck},
        bind,
        control::{Control, Socket, SocketFile},
        health::{self, Answered, Listeners, Router},
        metrics::{DoorStats, LogDropped, Metrics, Sources},
        serve, state_file,
        tls::Tls,
        weight,
    },
};

/// Actions that wait for the kernel task; people type them one by one.
const COMMANDS: usize = 16;

/// What a task ended with: its name, and why it should not have.
type Ended = (&'static str, anyhow::Error);

/// Runs the agent until a signal or a dead task ends it.
pub async fn run(config: Config, log_dropped: LogDropped) -> anyhow::Result<()> {
    // Signals and ports first: both can fail for reasons of the operator's.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let door = Listeners::bind(config.door.threads, config.listen, config.door.agent_check);
    let door =
        door.map_err(|(name, addr, error)| anyhow!(error).context(format!("{name} on {addr}")))?;
    let admin =
        bind(config.admin).with_context(|| format!("admin listener on {}", config.admin))?;

    let stats_of_door = Arc::<DoorStats>::default();
    let (tls, certificate) = start_tls(&config, &stats_of_door)?;
    let paths = host_paths(&config)?;
    let files = raise_open_files();
    let connections = (files.saturating_sub(serve::settings::OTHER_FILES) / 2).max(64);
    if connections < config.door.connections {
        let asked = config.door.connections;
        warn!(asked, connections, files, "MAX_CONNECTIONS: this process may not open enough files");
    }
    let (commands, commanded) = mpsc::channel(COMMANDS);
    let policy = Arc::new(config.policy.clone());
    let api = Arc::<ApiStats>::default();
    let (faults_to_tell, to_tell) = oneshot::channel();
    let (mut cluster, node) = start_cluster(&config, &policy, to_tell, &api)?;
    let (kernel, published) =
        Kernel::start(&config.kernel, &paths, commanded).await.context("read the mount table")?;
    // Nobody is answered before the answer is right, or is known not to come.
    if let Some(cluster) = &mut cluster {
        cluster.first_word().await;
    }
    let Published { faults, stats } = published.clone();
    let _nobody_to_tell = faults_to_tell.send(faults.clone());
    let fullest = config.probes.fullest(&paths);
    let (runner, probes) = config.probes.start(&policy, &paths).context("start the probes")?;
    let board = Board::new(faults.clone(), node.clone(), probes, policy);
    let answered = Arc::<Answered>::default();
    let metrics = Arc::new(Metrics::new(Sources {
        faults: faults.clone(),
        stats: stats.clone(),
        node,
        api,
        board: board.clone(),
        answered: answered.clone(),
        door: stats_of_door.clone(),
        log_dropped,
    }));

    let (stop, stopped) = watch::channel(false);
    let mut listeners: JoinSet<Ended> = JoinSet::new();
    let (admin, admin_addr) = listen(admin).context("admin listener")?;
    let outside = Outside {
        board: board.clone(),
        answered,
        stats: stats_of_door,
        connections,
        tls,
        fullest,
        paths,
    };
    let [health_addr, agent_check_addr] =
        outside.open(&config, door, &mut listeners, &stopped).context("health listener")?;
    let handler = Admin::new(board, faults, stats, metrics, commands.clone());
    let handle = move |request| {
        let handler = handler.clone();
        async move { handler.handle(request).await }
    };
    let limit = connections.min(serve::settings::CONNECTIONS.get());
    spawn(&mut listeners, "admin", serve("admin", limit, admin, handle, stopped.clone()));
    let socket_file = open_control(&config, &commands, &mut listeners, &stopped);
    let mut sources: JoinSet<Ended> = JoinSet::new();
    sources.spawn(async move { ("kernel", kernel.run().await) });
    sources.spawn(async move { ("probes", runner.run().await) });
    if let Some(cluster) = cluster {
        sources.spawn(async move { ("cluster", cluster.run().await) });
    }
    if let Some(certificate) = certificate {
        spawn(&mut sources, "certificate", certificate.follow());
    }
    welcome(&config, &published, [health_addr, agent_check_addr, admin_addr]);

    let end = tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        ended = listeners.join_next() => Err(unexpected(ended)),
        ended = sources.join_next() => Err(unexpected(ended)),
    };
    let signal = end?;
    info!(signal, "stopping: open requests are answered first");
    // What the answers are made of goes on meanwhile, so that the last ones are true.
    stop.send_replace(true);
    let drained = async { while listeners.join_next().await.is_some() {} };
    let died = tokio::select! {
        () = drained => Ok(()),
        _ = terminate.recv() => Err(anyhow!("a second signal: not waiting any longer")),
        _ = interrupt.recv() => Err(anyhow!("a second signal: not waiting any longer")),
        ended = sources.join_next() => Err(unexpected(ended)),
    };
    drop((commands, socket_file));
    died
}

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

fn start_cluster(
    config: &Config,
    policy: &Arc<Policy>,
    faults: oneshot::Receiver<watch::Receiver<Arc<FaultView>>>,
    stats: &Arc<ApiStats>,
) -> anyhow::Result<(Option<Cluster>, watch::Receiver<Arc<NodeView>>)> {
    let Some(source) = config.cluster.clone() else { return Ok((None, cluster::none())) };
    let Some(node_name) = policy.node_name.clone() else {
        error!("NODE_NAME is not set: requests whose checks need it are answered with 500");
        return Ok((None, cluster::none()));
    };
    let (cluster, node) = Cluster::start(cluster::Start {
        source,
        node_name,
        policy: policy.clone(),
        publish: config.publish_conditions.then_some(faults),
        stats: stats.clone(),
    })
    .context("start the cluster side")?;
    Ok((Some(cluster), node))
}

/// What load balancers are answered from.
struct Outside {
    board: Board,
    answered: Arc<Answered>,
    stats: Arc<DoorStats>,
    connections: usize,
    tls: Option<TlsAcceptor>,
    fullest: Fullest,
    paths: Paths,
}

impl Outside {
    /// Begins to answer; gives where the health listener and the agent-check are.
    fn open(
        self,
        config: &Config,
        sockets: Listeners,
        listeners: &mut JoinSet<Ended>,
        stopped: &watch::Receiver<bool>,
    ) -> io::Result<[SocketAddr; 2]> {
        let Self { board, answered, stats, connections, tls, fullest, paths } = self;
        let (weigher, weight) = watch::channel(100);
        let agent_check = agent_check::Settings { maint: config.door.maint, weight };
        let settings = health::Settings {
            router: Router::new(board.clone(), config.nodecheck_down_status),
            connections: config.door.connections.min(connections),
            tls,
            counts: stats.connections.clone(),
            answered,
            agent_check: Arc::new(AgentCheck::new(
                board.clone(),
                agent_check,
                stats.agent_checks.clone(),
            )),
        };
        let threads = health::open(sockets, &settings, stopped)?;
        let addresses = [threads.health, threads.agent_check];
        spawn(listeners, "health", threads.run(stopped.clone()));
        if config.door.weight != weight::WeightSource::Off {
            let source = config.door.weight;
            let task = weight::run(source, fullest, paths, weigher, stopped.clone());
            spawn(listeners, "weight", task);
        }
        if let Some(path) = config.door.state_file.clone() {
            let failures = stats.state_file.clone();
            let task = state_file::run(path, board, failures, stopped.clone());
            spawn(listeners, "state file", task);
        }
        Ok(addresses)
    }
}

/// Actions are worth less than answers: without the socket the agent still runs.
fn open_control(
    config: &Config,
    commands: &mpsc::Sender<Command>,
    listeners: &mut JoinSet<Ended>,
    stopped: &watch::Receiver<bool>,
) -> Option<SocketFile> {
    match Socket::bind(&config.control_socket) {
        Ok(Socket { listener, file }) => {
            let handler = Control::new(commands.clone());
            let handle = move |request| {
                let handler = handler.clone();
                async move { handler.handle(request).await }
            };
            let limit = serve::settings::CONTROL_CONNECTIONS;
            let task = serve("control", limit, listener, handle, stopped.clone());
            spawn(listeners, "control", task);
            Some(file)
        }
        Err(error) => {
            let path = config.control_socket.display();
            warn!(%path, %error, "no control socket: faults cannot be cleared by hand");
            None
        }
    }
}

/// What speaks TLS on the health listener, and what keeps its certificate current.
fn start_tls(
    config: &Config,
    stats: &DoorStats,
) -> anyhow::Result<(Option<TlsAcceptor>, Option<Tls>)> {
    let Some(files) = config.door.tls.clone() else { return Ok((None, None)) };
    let tls = Tls::new(files, stats.tls.clone()).context("TLS_CERT and TLS_KEY")?;
    let acceptor = tls.acceptor().context("TLS")?;
    Ok((Some(acceptor), Some(tls)))
}

fn listen(socket: TcpSocket) -> io::Result<(tokio::net::TcpListener, SocketAddr)> {
    let listener = socket.listen(BACKLOG)?;
    let addr = listener.local_addr()?;
    Ok((listener, addr))
}

fn spawn(
    tasks: &mut JoinSet<Ended>,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        task.await;
        (name, anyhow!("it returned"))
    });
}

fn unexpected(ended: Option<Result<Ended, tokio::task::JoinError>>) -> anyhow::Error {
    match ended {
        Some(Ok((name, error))) => error.context(format!("the {name} task ended")),
        Some(Err(error)) => anyhow!(error).context("a task panicked"),
        None => anyhow!("no task is left"),
    }
}

/// What works, what is missing, and what to try.
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
            Some(Source::InCluster) => "in-cluster",
            Some(Source::Kubeconfig(_)) => "KUBECONFIG",
            None => "none",
        },
        open_faults = view.faults.len(),
        degraded = view.no_events,
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
