//! What the command line means: a pure resolver above all wings, each of which gets settings of its own.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    time::Duration,
};

use humantime::format_duration;
use tocsin_runtime::{kube::ClusterSource, log, tls::CertificateFiles};

use crate::{
    checks::{
        self, BadCondition, Check, CheckSource, Policy, container_runtime, disk_pressure, http,
        network, probes,
    },
    cli::{AgentArgs, DoorArgs, ProbeArgs},
    cluster::conditions::PUBLISHED,
    kernel::{self, ledger::Rules},
    serve::{self, weight},
};

/// What the agent does.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the checks go by.
    pub policy: Policy,
    /// Where the cluster is.
    pub cluster: Option<ClusterSource>,
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
    /// The kernel side.
    pub kernel: kernel::settings::Settings,
    /// The mount table that is watched.
    pub mount_table: PathBuf,
    /// How to write the log.
    pub log_format: log::Format,
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
    pub weight: weight::WeightSource,
    /// TLS on the health listener.
    pub tls: Option<CertificateFiles>,
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
            (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(ConfigError::HalfOfTls("TLS_CERT", "TLS_KEY")),
            (None, Some(_)) => return Err(ConfigError::HalfOfTls("TLS_KEY", "TLS_CERT")),
        };
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self {
            threads: health_threads
                .map_or(serve::health::settings::HEALTH_THREADS.min(processors), NonZero::get),
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
        let probes = probe_settings(probes)?;
        let node_name = node_name
            .map(|name| name.to_string_lossy().trim().to_owned())
            .filter(|name| !name.is_empty());
        let cluster = ClusterSource::find(kubeconfig.as_deref(), |name| env::var_os(name));
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
                probe_interval: probes.interval,
            },
            probes,
            cluster,
            publish_conditions,
            nodecheck_down_status,
            listen: SocketAddr::new(listen_addr, listen_port),
            door: Door::new(door, listen_addr)?,
            admin: SocketAddr::new(admin_addr, admin_port),
            control_socket,
            kernel: kernel::settings::Settings {
                no_ebpf,
                bpf_log,
                mount_hooks,
                rules: Rules {
                    io_error_window,
                    io_stall_after,
                    require_writable: require_writable
                        .into_iter()
                        .filter(|path| !path.as_os_str().is_empty())
                        .collect(),
                },
                reread_interval,
            },
            mount_table,
            log_format,
        })
    }
}

/// Reads what was typed for the probes.
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
    Ok(probes::Settings {
        interval: probe_interval,
        router_url: url("ROUTER_URL", &router_url)?,
        kubelet_url: url("KUBELET_URL", &kubelet_url)?,
        network: dns_probe_name.unwrap_or_default().parse()?,
        own: http::own(&http_probes, |name| checks::find(name).is_some())
            .map_err(|error| ConfigError::Http("HTTP_PROBES", error))?,
        cri_socket: cri_socket.unwrap_or_default().parse().map_err(ConfigError::CriSocket)?,
        disk_thresholds: disk_thresholds.unwrap_or_default().parse()?,
    })
}

fn within(
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
        let by_default = |check: &&Check| match check.source {
            CheckSource::Kernel(_) => true,
            CheckSource::Node(_) => in_cluster && check.name == "node_ready",
            CheckSource::Probe => false,
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
