//! What the command line means. Every default is here, with its unit and its reason.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use humantime::format_duration;

use crate::{
    checks::{self, Check},
    cli::{AgentArgs, LogFormat},
    kernel::ledger::Rules,
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
/// Three quarters of a second between looks at mountinfo and sysfs when nothing rings: what has no event (a
/// remount by fsconfig, say) is seen within a second, at some 50 µs each.
pub const REREAD_INTERVAL: Duration = Duration::from_millis(750);
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
/// 5 seconds for reading the mount table, which no disk can delay: later it is called blind.
pub const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Half a second at most until the first answer: probes of filesystems that remember an error, and I/O that
/// was in flight already, get this long to show how they stand. A healthy host needs some milliseconds.
pub const START_DEADLINE: Duration = Duration::from_millis(500);
/// 75 seconds until the next request header is complete: a load balancer that asks once a minute keeps its
/// connection. hyper has one time-out for an idle connection and for a slow header; what makes slow clients
/// harmless is [`CONNECTIONS`].
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// Connections served at once on each listener, at most; one more ends the oldest. 64 load balancers with 16 each.
pub const CONNECTIONS: usize = 1024;
/// Open files that are kept for other things than connections: disks, filesystems, maps and probes.
pub const OTHER_FILES: usize = 512;
/// 5 seconds for requests that are being answered when the agent is told to stop.
pub const DRAIN: Duration = Duration::from_secs(5);

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
    /// This node's name in the cluster.
    pub node_name: Option<String>,
    /// Health listener.
    pub listen: SocketAddr,
    /// Admin listener.
    pub admin: SocketAddr,
    /// Control socket.
    pub control_socket: PathBuf,
    /// What `/health` runs when it is not told.
    pub default_checks: Vec<&'static Check>,
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
    /// Faults of pods' volumes fail the node's checks too.
    pub fail_on_volumes: bool,
    /// How to write the log.
    pub log_format: LogFormat,
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
            listen_addr,
            listen_port,
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
        let node_name = node_name.map(|name| name.to_string_lossy().trim().to_owned());
        Ok(Self {
            node_name: node_name.filter(|name| !name.is_empty()),
            listen: SocketAddr::new(listen_addr, listen_port),
            admin: SocketAddr::new(admin_addr, admin_port),
            control_socket,
            default_checks: default_set(default_checks.as_deref())?,
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
            fail_on_volumes,
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

/// Without a word from the operator: the kernel's checks, which need no cluster.
fn default_set(names: Option<&str>) -> Result<Vec<&'static Check>, ConfigError> {
    let known = || checks::all().iter().map(|check| check.name).collect::<Vec<_>>().join(", ");
    let Some(names) = names else {
        return Ok(checks::all().iter().filter(|check| !check.needs_node_name).collect());
    };
    let mut set: Vec<&'static Check> = Vec::new();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let check = checks::find(name)
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
        let names =
            |text| default_set(text).map(|set| set.iter().map(|c| c.name).collect::<Vec<_>>());
        assert_eq!(names(None).unwrap(), ["filesystem_ro", "io_errors", "io_stall"]);
        assert_eq!(names(Some("node_ready")).unwrap(), ["node_ready"]);
        assert_eq!(
            names(Some(" io_stall, io_stall ,,io_errors")).unwrap(),
            ["io_stall", "io_errors"]
        );
        assert_eq!(
            names(Some("bogus")).unwrap_err().to_string(),
            "DEFAULT_CHECKS: unknown check \"bogus\"; there are: node_ready, filesystem_ro, io_errors, io_stall"
        );
        assert!(names(Some(" , ")).is_err());
    }
}
