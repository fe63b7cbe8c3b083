//! What the command line means: pure functions that turn arguments into the settings of each wing.

mod error;
mod listener;
mod peers;
mod policy;

use std::{env, net::SocketAddr, path::PathBuf, time::Duration};

use glob::Pattern;
use tocsin_runtime::{kube::ClusterSource, log};

use self::error::within;
pub use self::{error::ConfigError, listener::ListenerSettings};
use crate::{
    checks::{self, Policy, http, probes},
    cli::{AgentArgs, ClusterArgs, KernelArgs, ProbeArgs},
    kernel::{self, ledger::Rules, sampling::mount_rules::MountRules, settings::Keep},
};

/// The settings of `tocsin agent`.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the operator wants of the checks.
    pub policy: Policy,
    /// Where the credentials of the cluster come from; `None` without a cluster.
    pub cluster: Option<ClusterSource>,
    /// The kernel's checks are published as conditions and events of the Node.
    pub publish_conditions: bool,
    /// The probes.
    pub probes: probes::Settings,
    /// HTTP status of `/nodecheck` when it says `Down`.
    pub nodecheck_down_status: u16,
    /// The listeners for load balancers.
    pub listener: ListenerSettings,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// Path of the control socket.
    pub control_socket: PathBuf,
    /// The peers; `None` without `PEERS=on`.
    pub peers: Option<crate::peers::Settings>,
    /// The kernel side.
    pub kernel: kernel::settings::Settings,
    /// Path of the mount table that is watched.
    pub mount_table: PathBuf,
    /// Format of the log.
    pub log_format: log::Format,
}

impl Config {
    /// Resolves the arguments. A kubeconfig or a pod's service account is looked for by the environment.
    pub fn new(args: AgentArgs) -> Result<Self, ConfigError> {
        let AgentArgs {
            cluster: cluster_args,
            nodecheck_down_status,
            probes,
            listener,
            admin_addr,
            admin_port,
            control_socket,
            default_checks,
            kernel,
            peers,
            fail_on_volumes,
            on_blind,
            log_format,
            log: _,
        } = args;
        let mount_table = kernel.mount_table.clone();
        let kernel = kernel_settings(kernel)?;
        let probes = probe_settings(probes)?;
        let cluster =
            ClusterSource::find(cluster_args.kubeconfig.as_deref(), |name| env::var_os(name));
        let has_cluster = cluster.is_some();
        let default_checks = default_checks.as_deref();
        let policy = policy::policy(
            &cluster_args,
            default_checks,
            &probes,
            has_cluster,
            !kernel.mounts.required.is_empty(),
        )?;
        let mut policy = Policy { fail_on_volumes, on_blind, ..policy };
        policy.peers_min = peers.peers_min.get();
        policy.require_writable.clone_from(&kernel.rules.require_writable);
        let peers = peers::settings(peers, policy.node_name.as_deref())?;
        let publish_conditions = publish_conditions(&cluster_args, &policy, has_cluster)?;
        if nodecheck_down_status != 200 && !(400..600).contains(&nodecheck_down_status) {
            return Err(ConfigError::BadStatus(nodecheck_down_status));
        }
        Ok(Self {
            policy,
            cluster,
            publish_conditions,
            probes,
            nodecheck_down_status,
            listener: ListenerSettings::new(listener)?,
            admin: SocketAddr::new(admin_addr, admin_port),
            control_socket,
            peers,
            kernel,
            mount_table,
            log_format,
        })
    }
}

/// Whether conditions are published, which takes a cluster and the name of the Node.
fn publish_conditions(
    args: &ClusterArgs,
    policy: &Policy,
    has_cluster: bool,
) -> Result<bool, ConfigError> {
    if args.publish_conditions && !has_cluster {
        return Err(ConfigError::NothingToPublishOn("a cluster: in a pod, or KUBECONFIG"));
    }
    if args.publish_conditions && policy.node_name.is_none() {
        return Err(ConfigError::NothingToPublishOn("NODE_NAME"));
    }
    Ok(args.publish_conditions)
}

fn kernel_settings(args: KernelArgs) -> Result<kernel::settings::Settings, ConfigError> {
    let KernelArgs {
        no_ebpf,
        bpf_log,
        mount_hooks,
        require_writable,
        require_mounts,
        ignore_mounts,
        ignore_devices,
        kubelet_root,
        io_error_window,
        io_stall_after,
        reread_interval,
        checkpoint_file,
        bpf_pin_dir,
        unpin: _,
        mount_table: _,
    } = args;
    let (second, day) = (Duration::from_secs(1), Duration::from_hours(24));
    within("IO_ERROR_WINDOW", io_error_window, Duration::from_millis(100), day)?;
    within("IO_STALL_AFTER", io_stall_after, second, day)?;
    within("REREAD_INTERVAL", reread_interval, Duration::from_millis(50), second)?;
    let require_writable = require_writable.into_iter();
    let require_writable = require_writable.filter(|path| !path.as_os_str().is_empty()).collect();
    let rules = Rules { io_error_window, io_stall_after, require_writable };
    // An empty variable counts as an unset one, so there is a word for nothing.
    let place = |path: PathBuf| if path.as_os_str() == "none" { PathBuf::new() } else { path };
    let keep = Keep { checkpoint: place(checkpoint_file), pin_dir: place(bpf_pin_dir) };
    let mounts = MountRules {
        required: named(&require_mounts).map(str::parse).collect::<Result<_, _>>()?,
        ignored_mounts: globs("IGNORE_MOUNTS", &ignore_mounts)?,
        ignored_devices: globs("IGNORE_DEVICES", &ignore_devices)?,
        kubelet_root: kubelet_root.filter(|root| root.is_absolute()),
    };
    let settings = kernel::settings::Settings {
        no_ebpf,
        bpf_log,
        mount_hooks,
        mounts,
        rules,
        reread_interval,
        keep,
    };
    Ok(settings)
}

/// The entries of a list that are not empty.
fn named(list: &[String]) -> impl Iterator<Item = &str> {
    list.iter().map(|entry| entry.trim()).filter(|entry| !entry.is_empty())
}

fn globs(name: &'static str, list: &[String]) -> Result<Vec<Pattern>, ConfigError> {
    let glob = |text| Pattern::new(text).map_err(|e| ConfigError::BadGlob(name, e));
    named(list).map(glob).collect()
}

fn probe_settings(args: ProbeArgs) -> Result<probes::Settings, ConfigError> {
    let ProbeArgs {
        probe_interval,
        router_url,
        kubelet_url,
        http_probes,
        cri_socket,
        disk_thresholds,
        dns_probe_name,
    } = args;
    let (least, most) = (Duration::from_millis(100), Duration::from_mins(1));
    within("PROBE_INTERVAL", probe_interval, least, most)?;
    let url = |name, text: &str| {
        text.parse::<http::Url>().map_err(|error| ConfigError::Http(name, error))
    };
    let is_taken = |name: &str| checks::find(name).is_some();
    let own = http::own(&http_probes, is_taken);
    Ok(probes::Settings {
        interval: probe_interval,
        router_url: url("ROUTER_URL", &router_url)?,
        kubelet_url: url("KUBELET_URL", &kubelet_url)?,
        network: dns_probe_name.unwrap_or_default().parse()?,
        own: own.map_err(|error| ConfigError::Http("HTTP_PROBES", error))?,
        cri_socket: cri_socket.unwrap_or_default().parse().map_err(ConfigError::CriSocket)?,
        disk_thresholds: disk_thresholds.unwrap_or_default().parse()?,
    })
}
