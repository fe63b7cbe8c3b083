//! What was typed: the controller's commands, their flags, and the environment names they answer to.

use std::ffi::{OsStr, OsString};

use clap::{Args, Parser, Subcommand};
use tocsin_runtime::{command_line::Alias, log::Format};

use crate::{heartbeat, remediation};

/// Tocsin's controller: answers for deployments, and remediates nodes.
#[derive(Debug, Parser)]
#[command(name = "tocsin-controller", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer over HTTP whether a deployment is up
    Heartbeat(Box<heartbeat::args::HeartbeatArgs>),
    /// Remediate unhealthy nodes, by `NodeHealthCheck` objects
    Remediation(Box<remediation::args::RemediationArgs>),
    /// Explain what is done about a node, or why nothing is
    Explain(Box<remediation::args::ExplainArgs>),
    /// Print the `CustomResourceDefinitions`
    Crds,
}

/// What every role has.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Kubeconfig files of the cluster [default: in a pod, its service account]
    #[arg(long, env = "KUBECONFIG", value_name = "PATHS")]
    pub kubeconfig: Option<OsString>,
    /// How to write the log; auto is human on a terminal and JSON elsewhere
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: Format,
    /// What to log: a level, or `target=level` pairs with commas (also `LOG_LEVEL`)
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// Names that the replaced programs have for the same thing.
pub const ALIASES: [Alias; 2] = [
    Alias { theirs: "LOG_LEVEL", ours: "RUST_LOG", translate: translate_level },
    Alias { theirs: "DEPLOYMENT_NAMESPACE", ours: "POD_NAMESPACE", translate: |_| None },
];

/// The words of the replaced programs' loggers (logrus: `WARNING`, `FATAL`, ...); what is no level means `info` there.
fn translate_level(level: &OsStr) -> Option<&'static str> {
    let level = level.to_string_lossy().to_lowercase();
    match &*level {
        "trace" => Some("trace"),
        "debug" => Some("debug"),
        "warn" | "warning" => Some("warn"),
        "error" | "fatal" | "panic" => Some("error"),
        filter if filter.contains('=') => None,
        _ => Some("info"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn levels_of_the_replaced_loggers_are_understood() {
        for (level, expected) in [
            ("INFO", Some("info")),
            ("Warning", Some("warn")),
            ("PANIC", Some("error")),
            ("loud", Some("info")),
            ("kube=debug", None),
        ] {
            assert_eq!(translate_level(OsStr::new(level)), expected, "{level}");
        }
    }
}
