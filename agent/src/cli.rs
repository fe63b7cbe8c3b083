//! What was typed: commands, flags, and the environment names they answer to.

use std::{ffi::OsString, net::IpAddr, num::NonZero, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};
use tocsin_runtime::{command_line::Alias, log};

use crate::{checks, checks::OnApiLoss, kernel, serve, serve::weight};

/// Tells load balancers, Kubernetes and people, within milliseconds of the kernel noticing, whether this
/// host should get traffic, and why.
#[derive(Debug, Parser)]
#[command(name = "tocsin", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch this host and answer load balancers
    Agent(Box<AgentArgs>),
    /// Run checks once and print a table; exit 0 ready, 1 not ready, 2 could not tell
    Check(CheckArgs),
    /// Print what a running agent has found wrong
    Faults(FaultsArgs),
}

/// `tocsin agent`
#[derive(Clone, Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of its own on the command line"
)]
pub struct AgentArgs {
    /// This node's name in the cluster (also `MY_NODE_NAME`)
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<OsString>,
    /// Kubeconfig files of the cluster [default: in a pod, its service account; else no cluster]
    #[arg(long, env = "KUBECONFIG", value_name = "PATHS")]
    pub kubeconfig: Option<OsString>,
    /// What the checks of the Node say while the Kubernetes API cannot be heard
    #[arg(long, env = "ON_API_LOSS", value_enum, default_value_t, value_name = "POLICY")]
    pub on_api_loss: OnApiLoss,
    /// Conditions of the Node that fail `custom_conditions`: types, or type=status
    #[arg(long, env = "CUSTOM_CONDITIONS", default_value = checks::settings::CUSTOM_CONDITIONS, value_name = "LIST")]
    pub custom_conditions: String,
    /// Tell the cluster what the kernel says, as conditions of the Node and events
    #[arg(long, env = "PUBLISH_CONDITIONS", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub publish_conditions: bool,
    /// Status of /nodecheck when it says `Down`; 503 for load balancers that do not read bodies
    #[arg(long, env = "NODECHECK_DOWN_STATUS", default_value_t = 200, value_name = "STATUS")]
    pub nodecheck_down_status: u16,
    /// What the probes ask.
    #[command(flatten)]
    pub probes: ProbeArgs,
    /// Address of the health listener
    #[arg(long, env = "LISTEN_ADDR", default_value_t = serve::settings::LISTEN_ADDR, value_name = "IP")]
    pub listen_addr: IpAddr,
    /// Port of the health listener; 0 for any
    #[arg(long, env = "LISTEN_PORT", default_value_t = serve::settings::LISTEN_PORT, value_name = "PORT")]
    pub listen_port: u16,
    /// How load balancers are answered.
    #[command(flatten)]
    pub door: DoorArgs,
    /// Address of the admin listener: /faults and /metrics
    #[arg(long, env = "ADMIN_ADDR", default_value_t = serve::settings::LISTEN_ADDR, value_name = "IP")]
    pub admin_addr: IpAddr,
    /// Port of the admin listener; 0 for any
    #[arg(long, env = "ADMIN_PORT", default_value_t = serve::settings::ADMIN_PORT, value_name = "PORT")]
    pub admin_port: u16,
    /// Socket for actions such as `tocsin faults clear`, for root only
    #[arg(long, env = "CONTROL_SOCKET", default_value = serve::settings::CONTROL_SOCKET, value_name = "PATH")]
    pub control_socket: PathBuf,
    /// Checks that /health runs when it is not told which [default: `filesystem_ro,io_errors,io_stall`, and `node_ready` where there is a cluster]
    #[arg(long, env = "DEFAULT_CHECKS", value_name = "NAMES")]
    pub default_checks: Option<String>,
    /// Do without eBPF: poll the mount table and sysfs instead
    #[arg(long, env = "NO_EBPF", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub no_ebpf: bool,
    /// Let the eBPF programs log each event, for debugging
    #[arg(long, env = "BPF_LOG", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub bpf_log: bool,
    /// How changes of the mount table are noticed between re-reads
    #[arg(long, env = "MOUNT_HOOKS", value_enum, default_value_t, value_name = "HOW")]
    pub mount_hooks: kernel::settings::MountHooks,
    /// Mount points that are faulty when read-only, even when they were so from the start
    #[arg(long, env = "REQUIRE_WRITABLE", value_delimiter = ',', value_name = "PATHS")]
    pub require_writable: Vec<PathBuf>,
    /// An I/O fault closes after this long without an error, if the device then answers
    #[arg(long, env = "IO_ERROR_WINDOW", value_parser = duration, default_value = "5m", value_name = "TIME")]
    pub io_error_window: Duration,
    /// I/O in flight that has not moved for this long is a stall
    #[arg(long, env = "IO_STALL_AFTER", value_parser = duration, default_value = "5s", value_name = "TIME")]
    pub io_stall_after: Duration,
    /// How often the mount table and sysfs are read when nothing happens
    #[arg(long, env = "REREAD_INTERVAL", value_parser = duration, default_value = "900ms", value_name = "TIME")]
    pub reread_interval: Duration,
    /// The mount table to watch
    #[arg(long, env = "MOUNT_TABLE", default_value = kernel::settings::MOUNT_TABLE, value_name = "PATH")]
    pub mount_table: PathBuf,
    /// Let faults of pods' volumes fail the node's checks
    #[arg(long, env = "FAIL_ON_VOLUMES", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub fail_on_volumes: bool,
    /// How to write the log; auto is human on a terminal and JSON elsewhere
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: log::Format,
    /// What to log: a level, or `target=level` pairs with commas (also `LOG_LEVEL`)
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// What the probes of `tocsin agent` ask.
#[derive(Clone, Debug, Args)]
pub struct ProbeArgs {
    /// How often a probe is made while somebody asks for its check
    #[arg(long, env = "PROBE_INTERVAL", value_parser = duration, default_value = "1s", value_name = "TIME")]
    pub probe_interval: Duration,
    /// What `okd_router_1936` asks: any local router's health URL
    #[arg(long, env = "ROUTER_URL", default_value = checks::http::ROUTER_URL, value_name = "URL")]
    pub router_url: String,
    /// What `kubelet` asks
    #[arg(long, env = "KUBELET_URL", default_value = checks::http::KUBELET_URL, value_name = "URL")]
    pub kubelet_url: String,
    /// Checks of your own: name=url with commas; each passes while its URL answers 2xx
    #[arg(
        long,
        env = "HTTP_PROBES",
        default_value = "",
        hide_default_value = true,
        value_name = "PAIRS"
    )]
    pub http_probes: String,
    /// The container runtime's socket, as a path or a unix:// URL [default: the first that there is of containerd's, CRI-O's, cri-dockerd's, k3s' and microk8s']
    #[arg(long, env = "CRI_SOCKET", value_name = "SOCKET")]
    pub cri_socket: Option<String>,
    /// How much has to be free for `disk_pressure`: path:10%, path:20GiB, path:inodes:5% or inodes:5%, with commas [default: `/:10%`, `/var/lib/kubelet:10%`, 15% where images are, `inodes:5%`]
    #[arg(long, env = "DISK_THRESHOLDS", value_name = "LIST")]
    pub disk_thresholds: Option<String>,
    /// What `network` asks the nameservers for [default: the cluster's domain where resolv.conf has one, else the root]
    #[arg(long, env = "DNS_PROBE_NAME", value_name = "NAME")]
    pub dns_probe_name: Option<String>,
}

/// How `tocsin agent` answers load balancers.
#[derive(Clone, Debug, Args)]
pub struct DoorArgs {
    /// Address of the listener for `HAProxy`'s agent-check [default: that of the health listener]
    #[arg(long, env = "AGENT_CHECK_ADDR", value_name = "IP")]
    pub agent_check_addr: Option<IpAddr>,
    /// Port of the listener for `HAProxy`'s agent-check; 0 for any
    #[arg(long, env = "AGENT_CHECK_PORT", default_value_t = serve::settings::AGENT_CHECK_PORT, value_name = "PORT")]
    pub agent_check_port: u16,
    /// Tell `HAProxy` `maint` instead of `drain` while the node is cordoned, which also stops its health checks
    #[arg(long, env = "AGENT_CHECK_MAINT", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub agent_check_maint: bool,
    /// What `HAProxy` is told as this host's weight: by free disk space, by load, or always 100%
    #[arg(long, env = "AGENT_WEIGHT", value_enum, default_value_t, value_name = "BY")]
    pub agent_weight: weight::WeightSource,
    /// A file that says 0 while this host is ready and 1 while it is not, for keepalived's `track_file`
    #[arg(long, env = "STATE_FILE", value_name = "PATH")]
    pub state_file: Option<PathBuf>,
    /// Certificate chain (PEM) for TLS on the health listener, beside plain HTTP; read again when it changes
    #[arg(long, env = "TLS_CERT", value_name = "PATH")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,
    /// Threads of the health listener [default: 2, or 1 on a single processor]
    #[arg(long, env = "HEALTH_THREADS", value_name = "COUNT")]
    pub health_threads: Option<NonZero<usize>>,
    /// Connections to the health listener at once; one more ends one that is idle
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = serve::settings::CONNECTIONS, value_name = "COUNT")]
    pub max_connections: NonZero<usize>,
}

/// `tocsin check`
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Checks to run [default: what the agent's /health runs]
    #[arg(value_delimiter = ',')]
    pub names: Vec<String>,
    /// Health address of the agent to ask; without it, the one on this host's `LISTEN_PORT` if it runs,
    /// which knows what happened before, and else a single look
    #[arg(long, env = "HEALTH_URL", value_name = "URL")]
    pub health_url: Option<String>,
    /// Address of this host's agent
    #[arg(long, env = "LISTEN_ADDR", default_value_t = serve::settings::LISTEN_ADDR, value_name = "IP")]
    pub listen_addr: IpAddr,
    /// Port of this host's agent
    #[arg(long, env = "LISTEN_PORT", default_value_t = serve::settings::LISTEN_PORT, value_name = "PORT")]
    pub listen_port: u16,
    /// Look once, without asking an agent
    #[arg(long)]
    pub local: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// The mount table to look at
    #[arg(long, env = "MOUNT_TABLE", default_value = kernel::settings::MOUNT_TABLE, value_name = "PATH")]
    pub mount_table: PathBuf,
}

/// `tocsin faults`
#[derive(Clone, Debug, Args)]
pub struct FaultsArgs {
    /// An action, instead of printing
    #[command(subcommand)]
    pub action: Option<FaultsAction>,
    /// Admin address of the agent
    #[arg(long, env = "ADMIN_URL", default_value = "http://127.0.0.1:25002", value_name = "URL")]
    pub admin_url: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Actions on faults.
#[derive(Clone, Debug, Subcommand)]
pub enum FaultsAction {
    /// Close a fault by hand; what is still wrong opens again when it is seen again
    Clear {
        /// The fault's id, from `tocsin faults`
        id: String,
        /// The agent's control socket
        #[arg(long, env = "CONTROL_SOCKET", default_value = serve::settings::CONTROL_SOCKET, value_name = "PATH")]
        control_socket: PathBuf,
    },
}

/// Output formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error} (give a unit, such as 500ms, 5s or 5m)"))
}

/// Names that the replaced systems have for the same thing.
pub const ALIASES: [Alias; 2] =
    [Alias::new("MY_NODE_NAME", "NODE_NAME"), Alias::new("LOG_LEVEL", "RUST_LOG")];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_wings() {
        let Command::Agent(args) = Cli::parse_from(["tocsin", "agent"]).command else { panic!() };
        assert_eq!(args.io_error_window, kernel::settings::IO_ERROR_WINDOW);
        assert_eq!(args.io_stall_after, kernel::settings::IO_STALL_AFTER);
        assert_eq!(args.reread_interval, kernel::settings::REREAD_INTERVAL);
        assert_eq!(args.probes.probe_interval, checks::settings::PROBE_INTERVAL);
        assert!(!args.no_ebpf);
    }

    #[test]
    fn flags_take_an_optional_value() {
        let parse = |flag| match Cli::parse_from(["tocsin", "agent", flag]).command {
            Command::Agent(args) => args.no_ebpf,
            _ => panic!(),
        };
        assert!(parse("--no-ebpf"));
        assert!(parse("--no-ebpf=yes"));
        assert!(!parse("--no-ebpf=false"));
    }
}
