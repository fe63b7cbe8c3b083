//! The arguments of `tocsin agent`.

use std::{ffi::OsString, net::IpAddr, num::NonZero, path::PathBuf, time::Duration};

use clap::{Args, builder::BoolishValueParser};
use tocsin_runtime::log;

use super::{peers::PeerArgs, time::duration};
use crate::{checks, checks::OnApiLoss, kernel, serve, serve::weight};

/// The arguments of `tocsin agent`.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Status of /nodecheck when it says `Down`; 503 for load balancers that do not read bodies
    #[arg(long, env = "NODECHECK_DOWN_STATUS", default_value_t = 200, value_name = "STATUS")]
    pub nodecheck_down_status: u16,
    /// The probes.
    #[command(flatten)]
    pub probes: ProbeArgs,
    /// The listeners for load balancers.
    #[command(flatten)]
    pub listener: ListenerArgs,
    /// Address of the admin listener: /faults and /metrics, for this host only unless set otherwise
    #[arg(long, env = "ADMIN_ADDR", default_value_t = serve::settings::ADMIN_ADDR, value_name = "IP")]
    pub admin_addr: IpAddr,
    /// Port of the admin listener; 0 for any
    #[arg(long, env = "ADMIN_PORT", default_value_t = serve::settings::ADMIN_PORT, value_name = "PORT")]
    pub admin_port: u16,
    /// Control socket for actions such as `tocsin faults clear`, for root only
    #[arg(long, env = "CONTROL_SOCKET", default_value = serve::settings::CONTROL_SOCKET, value_name = "PATH")]
    pub control_socket: PathBuf,
    /// Checks of a request for /health that names none [default: `filesystem_ro,io_errors,io_stall`, `node_ready` where there is a cluster, and `mounts` with `REQUIRE_MOUNTS`]
    #[arg(long, env = "DEFAULT_CHECKS", value_name = "NAMES")]
    pub default_checks: Option<String>,
    /// The kernel side.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// The peers.
    #[command(flatten)]
    pub peers: PeerArgs,
    /// Outcome of the kernel's checks while nothing can be seen: pass as degraded, or fail [default: degraded where the mount table cannot be read, fail where it was not looked for 30 s]
    #[arg(long, env = "ON_BLIND", value_enum, value_name = "POLICY")]
    pub on_blind: Option<checks::OnBlind>,
    /// Faults of pods' volumes fail the node's checks too
    #[arg(long, env = "FAIL_ON_VOLUMES", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub fail_on_volumes: bool,
    /// Format of the log; auto is human on a terminal and json elsewhere
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: log::Format,
    /// What to log: a level, or `target=level` pairs with commas (also `LOG_LEVEL`)
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// The cluster that `tocsin agent` belongs to.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// This node's name in the cluster (also `MY_NODE_NAME`)
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<OsString>,
    /// Kubeconfig files of the cluster [default: in a pod, its service account; else no cluster]
    #[arg(long, env = "KUBECONFIG", value_name = "PATHS")]
    pub kubeconfig: Option<OsString>,
    /// Outcome of the Node's checks while the Kubernetes API cannot be reached
    #[arg(long, env = "ON_API_LOSS", value_enum, default_value_t, value_name = "POLICY")]
    pub on_api_loss: OnApiLoss,
    /// Conditions of the Node that fail `custom_conditions`, as types or type=status
    #[arg(long, env = "CUSTOM_CONDITIONS", default_value = checks::settings::CUSTOM_CONDITIONS, value_name = "LIST")]
    pub custom_conditions: String,
    /// Publish the kernel's checks as conditions and events of the Node
    #[arg(long, env = "PUBLISH_CONDITIONS", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub publish_conditions: bool,
}

/// The probes of `tocsin agent`.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// Time between two samples of a probe while its check is requested
    #[arg(long, env = "PROBE_INTERVAL", value_parser = duration, default_value = "1s", value_name = "TIME")]
    pub probe_interval: Duration,
    /// Health URL of a local router, for `okd_router_1936`
    #[arg(long, env = "ROUTER_URL", default_value = checks::http::ROUTER_URL, value_name = "URL")]
    pub router_url: String,
    /// Health URL of the kubelet, for `kubelet`
    #[arg(long, env = "KUBELET_URL", default_value = checks::http::KUBELET_URL, value_name = "URL")]
    pub kubelet_url: String,
    /// Checks of your own, as name=url with commas; each passes while its URL answers 2xx
    #[arg(
        long,
        env = "HTTP_PROBES",
        default_value = "",
        hide_default_value = true,
        value_name = "PAIRS"
    )]
    pub http_probes: String,
    /// Socket of the container runtime, as a path or a unix:// URL [default: the first that exists of containerd, CRI-O, cri-dockerd, k3s and microk8s]
    #[arg(long, env = "CRI_SOCKET", value_name = "SOCKET")]
    pub cri_socket: Option<String>,
    /// Free space that `disk_pressure` requires: path:10%, path:20GiB, path:inodes:5% or inodes:5%, with commas [default: `/:10%`, `/var/lib/kubelet:10%`, 15% on image filesystems, `inodes:5%`]
    #[arg(long, env = "DISK_THRESHOLDS", value_name = "LIST")]
    pub disk_thresholds: Option<String>,
    /// Name for which `network` queries the nameservers [default: the cluster's domain where resolv.conf has one, else the root]
    #[arg(long, env = "DNS_PROBE_NAME", value_name = "NAME")]
    pub dns_probe_name: Option<String>,
}

/// The listeners of `tocsin agent` for load balancers.
#[derive(Clone, Debug, Args)]
pub struct ListenerArgs {
    /// Address of the health listener
    #[arg(long, env = "LISTEN_ADDR", default_value_t = serve::settings::LISTEN_ADDR, value_name = "IP")]
    pub listen_addr: IpAddr,
    /// Port of the health listener; 0 for any
    #[arg(long, env = "LISTEN_PORT", default_value_t = serve::settings::LISTEN_PORT, value_name = "PORT")]
    pub listen_port: u16,
    /// Address of the listener for `HAProxy`'s agent-check [default: that of the health listener]
    #[arg(long, env = "AGENT_CHECK_ADDR", value_name = "IP")]
    pub agent_check_addr: Option<IpAddr>,
    /// Port of the listener for `HAProxy`'s agent-check; 0 for any
    #[arg(long, env = "AGENT_CHECK_PORT", default_value_t = serve::settings::AGENT_CHECK_PORT, value_name = "PORT")]
    pub agent_check_port: u16,
    /// Answer `HAProxy` with `maint` instead of `drain` while the node is cordoned, which also stops its health checks
    #[arg(long, env = "AGENT_CHECK_MAINT", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub agent_check_maint: bool,
    /// What this host's weight for `HAProxy` follows: free disk space, load, or nothing (always 100%)
    #[arg(long, env = "AGENT_WEIGHT", value_enum, default_value_t, value_name = "BY")]
    pub agent_weight: weight::WeightSource,
    /// File that contains 0 while this host is ready and 1 while it is not, for keepalived's `track_file`
    #[arg(long, env = "STATE_FILE", value_name = "PATH")]
    pub state_file: Option<PathBuf>,
    /// Certificate chain (PEM) for TLS on the health listener, beside plain HTTP; reloaded when it changes
    #[arg(long, env = "TLS_CERT", value_name = "PATH")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, env = "TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,
    /// Threads of the health listener [default: 2, or 1 on a single processor]
    #[arg(long, env = "HEALTH_THREADS", value_name = "COUNT")]
    pub health_threads: Option<NonZero<usize>>,
    /// Connections to the health listener at the same time; one more ends an idle one
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = serve::settings::CONNECTIONS, value_name = "COUNT")]
    pub max_connections: NonZero<usize>,
}

/// The kernel side of `tocsin agent`.
#[derive(Clone, Debug, Args)]
pub struct KernelArgs {
    /// Run without eBPF: poll the mount table and sysfs instead
    #[arg(long, env = "NO_EBPF", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub no_ebpf: bool,
    /// Log each event of the eBPF programs, for debugging
    #[arg(long, env = "BPF_LOG", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub bpf_log: bool,
    /// How changes of the mount table are noticed between two reads
    #[arg(long, env = "MOUNT_HOOKS", value_enum, default_value_t, value_name = "HOW")]
    pub mount_hooks: kernel::settings::MountHooks,
    /// Mount points that are faulty while they are read-only, even if they were from the start
    #[arg(long, env = "REQUIRE_WRITABLE", value_delimiter = ',', value_name = "PATHS")]
    pub require_writable: Vec<PathBuf>,
    /// Mounts that have to be there, for the check `mounts`: path, path=/dev/device or path=UUID, with commas
    #[arg(long, env = "REQUIRE_MOUNTS", value_delimiter = ',', value_name = "LIST")]
    pub require_mounts: Vec<String>,
    /// Mount points whose filesystems fail nothing, as globs with commas; their faults are shown with the scope `ignored`
    #[arg(long, env = "IGNORE_MOUNTS", value_delimiter = ',', value_name = "GLOBS")]
    pub ignore_mounts: Vec<String>,
    /// Devices that fail nothing, as globs of their names in the kernel (`sdb`, `nvme1n*`) with commas
    #[arg(long, env = "IGNORE_DEVICES", value_delimiter = ',', value_name = "GLOBS")]
    pub ignore_devices: Vec<String>,
    /// The kubelet's --root-dir, whose pods and plugins are volumes [default: any directory called `kubelet`, and what the mounts of pods show]
    #[arg(long, env = "KUBELET_ROOT", value_name = "PATH")]
    pub kubelet_root: Option<PathBuf>,
    /// Time without an error after which an I/O fault closes, if the device answers
    #[arg(long, env = "IO_ERROR_WINDOW", value_parser = duration, default_value = "5m", value_name = "TIME")]
    pub io_error_window: Duration,
    /// Time without progress after which I/O in flight is a stall
    #[arg(long, env = "IO_STALL_AFTER", value_parser = duration, default_value = "5s", value_name = "TIME")]
    pub io_stall_after: Duration,
    /// Time between two reads of the mount table and sysfs while nothing happens
    #[arg(long, env = "REREAD_INTERVAL", value_parser = duration, default_value = "900ms", value_name = "TIME")]
    pub reread_interval: Duration,
    /// File on a tmpfs in which open faults outlive a restart of the agent; `none` for no file
    #[arg(long, env = "CHECKPOINT_FILE", default_value = kernel::settings::CHECKPOINT_FILE, value_name = "PATH")]
    pub checkpoint_file: PathBuf,
    /// Directory in bpffs in which counters and hooks outlive the agent, so that events are counted while none runs; `none` for no directory
    #[arg(long, env = "BPF_PIN_DIR", default_value = kernel::settings::PIN_DIR, value_name = "PATH")]
    pub bpf_pin_dir: PathBuf,
    /// Remove what stopped agents have left in `BPF_PIN_DIR`, and end
    #[arg(long)]
    pub unpin: bool,
    /// Mount table to watch
    #[arg(long, env = "MOUNT_TABLE", default_value = kernel::settings::MOUNT_TABLE, value_name = "PATH")]
    pub mount_table: PathBuf,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Agent {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn parse(arguments: &[&str]) -> AgentArgs {
        Agent::parse_from(["tocsin"].iter().chain(arguments)).args
    }

    #[test]
    fn defaults_are_those_of_the_wings() {
        let args = parse(&[]);
        assert_eq!(args.kernel.io_error_window, kernel::settings::IO_ERROR_WINDOW);
        assert_eq!(args.kernel.io_stall_after, kernel::settings::IO_STALL_AFTER);
        assert_eq!(args.kernel.reread_interval, kernel::settings::REREAD_INTERVAL);
        assert_eq!(args.probes.probe_interval, checks::settings::PROBE_INTERVAL);
        assert!(!args.kernel.no_ebpf);
    }

    #[test]
    fn flags_take_an_optional_value() {
        for (flag, expected) in
            [("--no-ebpf", true), ("--no-ebpf=yes", true), ("--no-ebpf=false", false)]
        {
            assert_eq!(parse(&[flag]).kernel.no_ebpf, expected, "{flag}");
        }
    }
}
