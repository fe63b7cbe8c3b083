//! What the command line means. Every default is here, with its unit and its reason.

use std::{
    env,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    time::Duration,
};

use humantime::format_duration;

use crate::{
    checks::{
        self, BadCondition, Check, Kind, Policy, container_runtime, disk_pressure, http, network,
        probes,
    },
    cli::{AgentArgs, DoorArgs, LogFormat},
    cluster::{conditions::PUBLISHED, source::Source},
    kernel::ledger::Rules,
    serve::{tls, weight},
};

/// All addresses, IPv6 and IPv4: a load balancer asks the node's address, not loopback.
pub const LISTEN_ADDR: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// The port of the readiness endpoint that this replaces.
pub const LISTEN_PORT: u16 = 25001;
/// The next one, for people and Prometheus.
pub const ADMIN_PORT: u16 = 25002;
/// Below /run: no disk is needed, and only root can reach it.
pub const CONTROL_SOCKET: &str = "/run/tocsin/control.sock";
/// The host's table, also from a container with hostPID.
pub const MOUNT_TABLE: &str = "/proc/1/mountinfo";
/// 5 minutes: a disk that fails once an hour should not come and go all day, and a node should not stay
/// out for an hour after one bad cable.
pub const IO_ERROR_WINDOW: Duration = Duration::from_mins(5);
/// 5 seconds: beyond any healthy flush, and far below the 30 seconds after which SCSI gives up a command.
pub const IO_STALL_AFTER: Duration = Duration::from_secs(5);
/// Nine tenths of a second between looks at mountinfo and sysfs when nothing rings: what has no event (a
/// remount by fsconfig, say) is seen within a second. One costs some 0.2 ms where 36 filesystems are mounted.
pub const REREAD_INTERVAL: Duration = Duration::from_millis(900);
/// 1 second between readings of the kernel's counters while events come: what did not fit into the ring
/// buffer is an event that much later. Who asks for `/faults` or `/metrics` gets a reading of that moment.
pub const COUNTERS_INTERVAL: Duration = Duration::from_secs(1);
/// 5 seconds when none come: only to see whether the looker still looks.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(5);
/// A tenth of a second for that reading, which takes a millisecond: then the last one has to do.
pub const REFRESH_DEADLINE: Duration = Duration::from_millis(100);
/// 10 seconds between attempts at hooks whose tracepoint is not there: a module that is loaded later.
pub const HOOK_RETRY: Duration = Duration::from_secs(10);
/// Records per second, (kind, device): one rings the bell, ten give people an idea; the rest is counted.
pub const RECORDS_PER_SECOND: u32 = 10;
/// 5 seconds for a probing write: a healthy journal on a busy disk needs less.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// 30 seconds that a thread for calls that may hang waits for its next one: an agent whose probes run every second keeps
/// it, and one without probes has none half a minute after its last look at a disk.
pub const IDLE_THREAD: Duration = Duration::from_secs(30);
/// 2 milliseconds that such a call waits for its turn on a thread that has another one, which takes a tenth of that
/// while all is well; then it gets another thread.
pub const TURN: Duration = Duration::from_millis(2);
/// 5 seconds for reading the mount table, which no disk can delay: later it is called blind.
pub const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// openat2(2) gives up on `..` while anything is mounted anywhere; the next attempt is microseconds later.
pub const OPEN_RETRIES: usize = 8;
/// Half a second at most until the first answer: probes of filesystems that remember an error, and I/O that
/// was in flight already, get this long to show how they stand. A healthy host needs some milliseconds.
pub const START_DEADLINE: Duration = Duration::from_millis(500);
/// 8 KiB for a request's line and headers, as nginx and Apache have it: load balancers send some hundred bytes.
pub const HEADER_BYTES: usize = 8 * 1024;
/// 2 seconds for a request to be complete from its first byte on, and for a TLS handshake: a load balancer sends it in
/// one piece.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// 1 second, the kernel's smallest step, for which it keeps a connection on which nothing was sent: then it is accepted
/// all the same.
pub const DEFER_ACCEPT: Duration = Duration::from_secs(1);
/// 30 seconds until the next request on a connection: most load balancers ask every few seconds, and who asks less
/// often opens another one.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// 2 seconds for an answer to be taken, which fits into every socket's buffer unless hundreds were asked for at once.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// 1 second in which what is still sent is read away, so that the answer is not lost by the connection's reset.
pub const LINGER: Duration = Duration::from_secs(1);
/// 256 KiB of that.
pub const LINGER_BYTES: usize = 256 * 1024;
/// 75 seconds on the admin listener and the control socket, for a header as for the next request.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(75);
/// Connections served at once on each listener, at most; one more ends the one that never asked or asked longest ago.
/// 64 load balancers with 16 each; 9 MiB if each of them has sent nearly all of a header.
pub const CONNECTIONS: NonZero<usize> = NonZero::new(1024).unwrap();
/// Connections accepted in a row, before those that were accepted have a turn: a flood must not outrun the answers.
pub const ACCEPTS: u64 = 16;
/// So many connections of a thread are a crowd, whose memory is given back when three quarters of it are gone.
pub const CROWD: usize = 256;
/// 1 second between looks whether they are.
pub const CLEAN_UP: Duration = Duration::from_secs(1);
/// Connections to the control socket: people, one by one.
pub const CONTROL_CONNECTIONS: usize = 64;
/// Threads of the health listener, where the host has as many processors: one answers more than 50,000 requests per
/// second, and a second one goes on where the first is kept waiting by the scheduler.
pub const HEALTH_THREADS: usize = 2;
/// Nice value of these threads: three times the share of anybody else's, which is the end of waiting for a turn, and
/// leaves the rest of a processor to others however many connections there are.
pub const HEALTH_NICE: i32 = -5;
/// 1 second for which a rendered answer is true although nothing changed: a stuck probe publishes nothing.
pub const ANSWER_AGE: Duration = Duration::from_secs(1);
/// Rendered answers that are kept per thread: far more than there are load balancers with different questions.
pub const CACHED_ANSWERS: usize = 64;
/// 512 bytes for a target whose answer is kept: all checks by name are some 150.
pub const CACHED_TARGET: usize = 512;
/// 256 bytes for a reason in a header or behind an agent-check's `#`: one line of a log.
pub const REASON_BYTES: usize = 256;
/// Of the name of a check, as of a DNS label (RFC 1035, 2.3.4): who asks for another one has it repeated in the answer.
pub const NAME_BYTES: usize = 63;
/// 30 seconds without a byte until TCP asks whether the other side is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// 10 seconds between these questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// 3 of them without an answer end the connection: a minute after the last byte.
pub const KEEPALIVE_PROBES: u32 = 3;
/// 32 streams at once on an HTTP/2 connection: one watch for each check, and as many questions.
pub const HTTP2_STREAMS: u32 = 32;
/// 20 seconds between PINGs on an HTTP/2 connection, whose watches say nothing for days.
pub const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// 10 seconds for the answer.
pub const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// 4 KiB for the headers of an HTTP/2 request, of which many come at once: load balancers send some hundred bytes.
pub const HTTP2_HEADER_BYTES: u32 = 4 * 1024;
/// 64 KiB of answers on an HTTP/2 connection that nobody takes: ten times what is asked for at once by the most curious.
pub const HTTP2_UNSENT: usize = 64 * 1024;
/// 200 milliseconds without an answer in the making, after which an HTTP/2 connection that was told of the agent's stop
/// ends: the other side has heard of it by then, wherever it is.
pub const HTTP2_FAREWELL: Duration = Duration::from_millis(200);
/// gRPC watches at once: as many as connections, and some kilobytes each.
pub const WATCHES: usize = 1024;
/// 4 KiB for a gRPC request, which is the name of a check set.
pub const GRPC_MESSAGE: usize = 4 * 1024;
/// The next port, for `HAProxy`'s agent-check.
pub const AGENT_CHECK_PORT: u16 = 25003;
/// Connections whose end is waited for after the line, per thread; each for a second at most.
pub const AGENT_CHECKS: usize = 256;
/// 10 seconds between looks at the files of `TLS_CERT` and `TLS_KEY`, which change every few weeks.
pub const TLS_INTERVAL: Duration = Duration::from_secs(10);
/// 5 seconds for reading them.
pub const TLS_DEADLINE: Duration = Duration::from_secs(5);
/// 1 MiB for each of them: a chain of certificates is some kilobytes.
pub const TLS_BYTES: u64 = 1024 * 1024;
/// 2 seconds for writing a state file, which belongs on a tmpfs.
pub const STATE_FILE_DEADLINE: Duration = Duration::from_secs(2);
/// 20 milliseconds between the last connection let in and the end of the idle ones, when the agent is told to stop.
pub const DRAIN_LULL: Duration = Duration::from_millis(20);
/// Open files that are kept for other things than connections: disks, filesystems, maps and probes.
pub const OTHER_FILES: usize = 512;
/// 5 seconds for requests that are being answered when the agent is told to stop.
pub const DRAIN: Duration = Duration::from_secs(5);

/// Conditions that node-problem-detector sets for good when the node is of no use any more (its kernel, readonly,
/// docker and systemd monitors and its health checker), and the cloud's `NetworkUnavailable`. Its `NTPProblem` is
/// not among them: a node without the right time still serves.
pub const CUSTOM_CONDITIONS: &str = "KernelDeadlock=True,ReadonlyFilesystem=True,XfsShutdown=True,\
    CperHardwareErrorFatal=True,CorruptDockerOverlay2=True,FrequentKubeletRestart=True,FrequentDockerRestart=True,\
    FrequentContainerdRestart=True,FrequentUnregisterNetDevice=True,KubeletUnhealthy=True,\
    ContainerRuntimeUnhealthy=True,NetworkUnavailable=True";
/// 450 ms between HTTP/2 PINGs on the connection of the watch: with [`API_PING_TIMEOUT`] and what is left of
/// [`API_GRACE`] after it, a server that stops answering is called lost between 1.0 and 1.45 seconds later.
pub const API_PING_INTERVAL: Duration = Duration::from_millis(450);
/// Half a second for the answer to a PING, which a healthy API server gives within a round trip.
pub const API_PING_TIMEOUT: Duration = Duration::from_millis(500);
/// 4 seconds between questions to a server without HTTP/2: nine times [`API_PING_INTERVAL`], as each is a request.
pub const API_ASK_INTERVAL: Duration = Duration::from_secs(4);
/// 1 second from the loss of the API server to the verdict that goes by it: a restart of one of several servers
/// behind one address is over by then.
pub const API_GRACE: Duration = Duration::from_secs(1);
/// 1 second for a connection to the API server, TLS included.
pub const API_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// 10 seconds for a kubeconfig's login plugin, which may have to ask a cloud.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// 1 second for an answer on it.
pub const API_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// 270 to 290 seconds per watch: kube refuses more than 294, and bookmarks make a renewal cheap. The spread keeps
/// agents that started together from renewing together.
pub const API_WATCH: Duration = Duration::from_secs(270);
/// See [`API_WATCH`].
pub const API_WATCH_SPREAD: Duration = Duration::from_secs(20);
/// Up to a quarter of a second at random before every reconnection, so that 5,000 agents do not come back as one.
pub const API_JITTER: Duration = Duration::from_millis(250);
/// Three quarters of a second between attempts at most, besides [`API_JITTER`]: an API server that is back is
/// heard within 2 seconds.
pub const API_RETRY_MAX: Duration = Duration::from_millis(750);
/// 5 seconds between signs of life of the thread that talks to the API server; two missed ones are a loss.
pub const API_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// 1 second between writes to the API, conditions and events together.
pub const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// 30 seconds between failing writes at most.
pub const PUBLISH_RETRY_MAX: Duration = Duration::from_secs(30);
/// 10 seconds between writes that change nothing but a condition's message.
pub const PUBLISH_MESSAGE_INTERVAL: Duration = Duration::from_secs(10);
/// 5 minutes between heartbeats of conditions that do not change: node-problem-detector's.
pub const PUBLISH_HEARTBEAT: Duration = Duration::from_mins(5);
/// 6 minutes during which a repeated event is counted up instead of written again: client-go's events recorder's.
pub const EVENT_SERIES: Duration = Duration::from_mins(6);

/// 1 second between samples of a probe that is in demand, and up to a tenth more at random.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A minute after the last request for it, a probe that is not in the default set stops: load balancers ask more
/// often, and one that does not waits for the first sample each time.
pub const PROBE_IDLE: Duration = Duration::from_mins(1);
/// The router that the readiness endpoint asked which this replaces: `OpenShift`'s, on its metrics port.
pub const ROUTER_URL: &str = "http://127.0.0.1:1936/healthz/ready";
/// 5 seconds: what the readiness endpoint gave it.
pub const ROUTER_TIMEOUT: Duration = Duration::from_secs(5);
/// kubelet's own default, `--healthz-bind-address` and `--healthz-port`.
pub const KUBELET_URL: &str = "http://127.0.0.1:10248/healthz";
/// 1 second for a kubelet that has only to say `ok`.
pub const KUBELET_TIMEOUT: Duration = Duration::from_secs(1);

/// Where container runtimes have their sockets by default: containerd, CRI-O (under both of its names), cri-dockerd,
/// k3s and RKE2, microk8s.
pub const CRI_SOCKETS: [&str; 6] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/crio/crio.sock",
    "/run/cri-dockerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
];
/// 1 second for a runtime that tells from memory what state it is in: some milliseconds when it is busy.
pub const CRI_TIMEOUT: Duration = Duration::from_secs(1);
/// Half a second to find its socket: a stat or two in memory, but `/var` may be on a disk that hangs.
pub const CRI_LOOK_DEADLINE: Duration = Duration::from_millis(500);
/// 64 KiB for an answer: containerd's takes half a kilobyte and 100 bytes per runtime class.
pub const CRI_MESSAGE: usize = 64 * 1024;
/// Of a runtime's words, this many characters are told: Go wraps an error's causes into one long line.
pub const CRI_WORDS: usize = 300;

/// 10 percent of the bytes of `/` and the kubelet's directory: where the kubelet begins to evict pods
/// (`nodefs.available<10%`, its default for `evictionHard`).
pub const DISK_NODE_PERCENT: u32 = 10;
/// 15 percent of the bytes where images are: `imagefs.available<15%`.
pub const DISK_IMAGE_PERCENT: u32 = 15;
/// 5 percent of the inodes of all of them: `nodefs.inodesFree<5%` and `imagefs.inodesFree<5%`.
pub const DISK_INODES_PERCENT: u32 = 5;
/// A fifth of a threshold has to be free on top of it until a filesystem that was below it passes again: 12, 18 and
/// 6 percent. Logs and layers that come and go are less than that; and the kubelet, which deletes images until 20
/// percent are free (`imageGCLowThresholdPercent`), gets there.
pub const DISK_MARGIN: u32 = 5;
/// 1 second for statfs(2), which reads memory on a healthy local filesystem and asks the server of a remote one.
pub const DISK_DEADLINE: Duration = Duration::from_secs(1);
/// Half a second for the runtime to say where its images are: then what it said last has to do.
pub const DISK_IMAGES_TIMEOUT: Duration = Duration::from_millis(500);
/// 1 minute between questions where the images are: that only changes with a restart of the runtime.
pub const DISK_IMAGES_INTERVAL: Duration = Duration::from_mins(1);
/// 10 seconds until a runtime that gave no answer is asked again.
pub const DISK_IMAGES_RETRY: Duration = Duration::from_secs(10);
/// 3 seconds for a sample: half a second more than the question for the images, and two looks of which each has
/// [`DISK_DEADLINE`]: where a path hangs, the others get a second one.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(3);
/// Paths of `DISK_THRESHOLDS`: a stuck thread for each that hangs.
pub const DISK_PATHS: usize = 32;
/// Image filesystems: runtimes have one, or two where containers' layers are apart.
pub const DISK_IMAGES: usize = 4;

/// This process's own: with `dnsPolicy: Default` in a pod, a copy of the node's.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Half a second for a file of a few lines, which may be on a disk that hangs: then what it said last has to do.
pub const RESOLV_CONF_DEADLINE: Duration = Duration::from_millis(500);
/// The C libraries ask the first three nameservers (`MAXNS`) and know no others; one more that answers helps nobody.
pub const NAMESERVERS: usize = 3;
/// The domain of nearly every cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// 1 second for an answer of a nameserver, TCP included. A resolver on the host or the same network needs some
/// milliseconds for what it knows.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(1);
/// 0.4 seconds until a question is sent again: twice in [`DNS_TIMEOUT`], so that one lost packet is no failure.
pub const DNS_AGAIN: Duration = Duration::from_millis(400);
/// A tenth of a second until the next nameserver is asked too: a healthy first one leaves the others alone.
pub const DNS_STAGGER: Duration = Duration::from_millis(100);
/// 1 second for netlink, which needs less than a millisecond unless the kernel's network configuration is locked.
pub const NETLINK_DEADLINE: Duration = Duration::from_secs(1);
/// Where they change all the time, default routes are read again after this many times the time that it took: at every
/// sample on most hosts, at 2.5 percent of a core with a million routes.
pub const ROUTES_REST: u32 = 40;
/// 5 seconds after which they are read again although the kernel told of no change: it tells of nearly all.
pub const ROUTES_KEPT: Duration = Duration::from_secs(5);
/// 4 KiB for what it tells of changes, of which it only matters that there are some.
pub const ROUTES_NEWS: usize = 4 * 1024;
/// Attempts at reading routes that change meanwhile.
pub const DUMP_ATTEMPTS: usize = 3;
/// Ways out that are looked at, each leg of a multipath route for itself: twice what a router with two times eight
/// uplinks has.
pub const GATEWAYS: usize = 32;
/// 1 second for a gateway's answer to an echo, which includes its answer to ARP or neighbour discovery.
pub const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
/// 0.4 seconds until an echo is sent again, as with [`DNS_AGAIN`].
pub const ECHO_AGAIN: Duration = Duration::from_millis(400);
/// 4 seconds for a sample: every part ends before, and says why. One takes 1 s where something does not answer, 3 s
/// where netlink does not either.
pub const NETWORK_TIMEOUT: Duration = Duration::from_secs(4);

/// How changes of the mount table ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum MountHooks {
    /// `poll(2)` on mountinfo, which costs nothing; a remount by fsconfig(2) is seen at the next re-read.
    #[default]
    Poll,
    /// Also the exits of mount, umount2, fsconfig, `mount_setattr` and `move_mount`: at once, but any syscall
    /// tracepoint makes every system call of every process slower (measured: 28 ns each on 6.18).
    Syscalls,
}

/// What the agent does.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the checks go by.
    pub policy: Policy,
    /// Where the cluster is.
    pub cluster: Option<Source>,
    /// Tell the cluster what the kernel says.
    pub publish_conditions: bool,
    /// What the probes ask.
    pub probes: probes::Settings,
    /// Status of `/nodecheck` when it says `Down`.
    pub nodecheck_down_status: u16,
    /// Health listener.
    pub listen: SocketAddr,
    /// How load balancers are answered.
    pub door: Door,
    /// Admin listener.
    pub admin: SocketAddr,
    /// Control socket.
    pub control_socket: PathBuf,
    /// Do not load eBPF.
    pub no_ebpf: bool,
    /// Let the programs log.
    pub bpf_log: bool,
    /// How changes of the mount table ring.
    pub mount_hooks: MountHooks,
    /// See [`Rules`].
    pub require_writable: Vec<PathBuf>,
    /// See [`Rules`].
    pub io_error_window: Duration,
    /// See [`Rules`].
    pub io_stall_after: Duration,
    /// Between looks when nothing rings.
    pub reread_interval: Duration,
    /// The mount table that is watched.
    pub mount_table: PathBuf,
    /// How to write the log.
    pub log_format: LogFormat,
}

/// How load balancers are answered.
#[derive(Clone, Debug)]
pub struct Door {
    /// Threads of the health listener.
    pub threads: usize,
    /// Connections of the health listener, at most.
    pub connections: usize,
    /// Where `HAProxy`'s agent-check is.
    pub agent_check: SocketAddr,
    /// `maint` instead of `drain`.
    pub maint: bool,
    /// Whence the weight comes.
    pub weight: weight::Source,
    /// TLS on the health listener.
    pub tls: Option<tls::Files>,
    /// The verdict as a file.
    pub state_file: Option<PathBuf>,
}

impl Door {
    fn new(args: DoorArgs, health: IpAddr) -> Result<Self, ConfigError> {
        let DoorArgs {
            agent_check_addr,
            agent_check_port,
            agent_check_maint,
            agent_weight,
            state_file,
            tls_cert,
            tls_key,
            health_threads,
            max_connections,
        } = args;
        let some = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let tls = match (some(tls_cert), some(tls_key)) {
            (Some(cert), Some(key)) => Some(tls::Files { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::HalfOfTls("TLS_CERT", "TLS_KEY")),
            (None, Some(_)) => return Err(ConfigError::HalfOfTls("TLS_KEY", "TLS_CERT")),
        };
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            threads: health_threads.map_or(HEALTH_THREADS.min(processors), NonZero::get),
            connections: max_connections.get(),
            agent_check: SocketAddr::new(agent_check_addr.unwrap_or(health), agent_check_port),
            maint: agent_check_maint,
            weight: agent_weight,
            tls,
            state_file: some(state_file),
        })
    }
}

/// A value that cannot be used; one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name that is no check.
    #[error("DEFAULT_CHECKS: unknown check {0:?}; there are: {1}")]
    UnknownCheck(String, String),
    /// No check at all.
    #[error("DEFAULT_CHECKS names no check; there are: {0}")]
    NoCheck(String),
    /// Not a name.
    #[error("DNS_PROBE_NAME: {0}")]
    Dns(#[from] network::BadName),
    /// Not a URL, or not a list of them.
    #[error("{0}: {1}")]
    Http(&'static str, #[source] http::HttpProbeError),
    /// Not where a socket is.
    #[error("CRI_SOCKET: {0}")]
    CriSocket(container_runtime::BadSocket),
    /// Not a list of thresholds.
    #[error("DISK_THRESHOLDS: {0}")]
    Disk(#[from] disk_pressure::BadThreshold),
    /// Not a list of conditions.
    #[error("CUSTOM_CONDITIONS: {0}")]
    BadCondition(#[from] checks::BadConditionError),
    /// Neither 200 nor an error.
    #[error("NODECHECK_DOWN_STATUS: {0} is not 200 or between 400 and 599")]
    BadStatus(u16),
    /// What cannot be told to nobody.
    #[error("PUBLISH_CONDITIONS needs {0}")]
    NobodyToTell(&'static str),
    /// One of two that belong together.
    #[error("{0} needs {1}")]
    HalfOfTls(&'static str, &'static str),
    /// Zero or far too long.
    #[error("{0}: {t} is not between {least} and {most}",
        t = format_duration(*.1), least = format_duration(*.2), most = format_duration(*.3))]
    OutOfRange(&'static str, Duration, Duration, Duration),
}

impl Config {
    /// Reads what was typed.
    pub fn new(args: AgentArgs) -> Result<Self, ConfigError> {
        let AgentArgs {
            node_name,
            kubeconfig,
            on_api_loss,
            custom_conditions,
            publish_conditions,
            nodecheck_down_status,
            probes,
            listen_addr,
            listen_port,
            door,
            admin_addr,
            admin_port,
            control_socket,
            default_checks,
            no_ebpf,
            bpf_log,
            mount_hooks,
            require_writable,
            io_error_window,
            io_stall_after,
            reread_interval,
            mount_table,
            fail_on_volumes,
            log_format,
            log: _,
        } = args;
        let day = Duration::from_hours(24);
        within("IO_ERROR_WINDOW", io_error_window, Duration::from_millis(100), day)?;
        within("IO_STALL_AFTER", io_stall_after, Duration::from_secs(1), day)?;
        within(
            "REREAD_INTERVAL",
            reread_interval,
            Duration::from_millis(50),
            Duration::from_secs(1),
        )?;
        let probes = probes::Settings::new(probes)?;
        let node_name = node_name
            .map(|name| name.to_string_lossy().trim().to_owned())
            .filter(|name| !name.is_empty());
        let cluster = Source::find(kubeconfig.as_deref(), |name| env::var_os(name));
        if publish_conditions && cluster.is_none() {
            return Err(ConfigError::NobodyToTell("a cluster: in a pod, or KUBECONFIG"));
        }
        if publish_conditions && node_name.is_none() {
            return Err(ConfigError::NobodyToTell("NODE_NAME"));
        }
        if nodecheck_down_status != 200 && !(400..600).contains(&nodecheck_down_status) {
            return Err(ConfigError::BadStatus(nodecheck_down_status));
        }
        let mut custom_conditions: Vec<BadCondition> = custom_conditions
            .split(',')
            .filter(|part| !part.trim().is_empty())
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        if publish_conditions {
            // The kernel's checks say the same, sooner, and without the way over the API and back.
            custom_conditions.retain(|bad| PUBLISHED.iter().all(|own| own.kind != bad.kind));
        }
        Ok(Self {
            policy: Policy {
                node_name,
                default_checks: default_set(
                    default_checks.as_deref(),
                    cluster.is_some(),
                    &probes.own(),
                )?,
                fail_on_volumes,
                on_api_loss,
                custom_conditions,
                own: probes.own(),
                probe_interval: probes.interval(),
            },
            probes,
            cluster,
            publish_conditions,
            nodecheck_down_status,
            listen: SocketAddr::new(listen_addr, listen_port),
            door: Door::new(door, listen_addr)?,
            admin: SocketAddr::new(admin_addr, admin_port),
            control_socket,
            no_ebpf,
            bpf_log,
            mount_hooks,
            require_writable: require_writable
                .into_iter()
                .filter(|path| !path.as_os_str().is_empty())
                .collect(),
            io_error_window,
            io_stall_after,
            reread_interval,
            mount_table,
            log_format,
        })
    }

    /// What the ledger goes by.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            io_error_window: self.io_error_window,
            io_stall_after: self.io_stall_after,
            require_writable: self.require_writable.clone(),
        }
    }
}

pub(crate) fn within(
    name: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if value < least || value > most {
        return Err(ConfigError::OutOfRange(name, value, least, most));
    }
    Ok(())
}

/// Without a word from the operator: the kernel's checks, and the Node's readiness where there is a cluster.
fn default_set(
    names: Option<&str>,
    in_cluster: bool,
    own: &[&'static Check],
) -> Result<Vec<&'static Check>, ConfigError> {
    let all = || checks::all().iter().chain(own.iter().copied());
    let known = || all().map(|check| check.name).collect::<Vec<_>>().join(", ");
    let Some(names) = names else {
        let by_default = |check: &&Check| match check.kind {
            Kind::Signal(_) if check.needs_node_name => in_cluster && check.name == "node_ready",
            Kind::Signal(_) => true,
            Kind::Probe => false,
        };
        return Ok(checks::all().iter().filter(by_default).collect());
    };
    let mut set: Vec<&'static Check> = Vec::new();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let check = all()
            .find(|check| check.name == name)
            .ok_or_else(|| ConfigError::UnknownCheck(name.to_owned(), known()))?;
        if set.iter().all(|other| other.name != check.name) {
            set.push(check);
        }
    }
    if set.is_empty() { Err(ConfigError::NoCheck(known())) } else { Ok(set) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_checks_are_names_of_checks() {
        let names = |text| {
            default_set(text, false, &[]).map(|set| set.iter().map(|c| c.name).collect::<Vec<_>>())
        };
        assert_eq!(names(None).unwrap(), ["filesystem_ro", "io_errors", "io_stall"]);
        let in_cluster: Vec<_> =
            default_set(None, true, &[]).unwrap().iter().map(|c| c.name).collect();
        assert_eq!(in_cluster, ["node_ready", "filesystem_ro", "io_errors", "io_stall"]);
        assert_eq!(names(Some("node_ready")).unwrap(), ["node_ready"]);
        assert_eq!(
            names(Some(" io_stall, io_stall ,,io_errors")).unwrap(),
            ["io_stall", "io_errors"]
        );
        assert_eq!(
            names(Some("bogus")).unwrap_err().to_string(),
            "DEFAULT_CHECKS: unknown check \"bogus\"; there are: node_ready, schedulable, custom_conditions, \
             filesystem_ro, io_errors, io_stall, okd_router_1936, kubelet, container_runtime, \
             disk_pressure, network"
        );
        assert!(names(Some(" , ")).is_err());
    }
}
