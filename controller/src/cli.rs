//! What was typed: the controller's commands, their flags, and the environment names they answer to.

use std::ffi::OsStr;

use clap::{Parser, Subcommand};
use tocsin_runtime::command_line::Alias;

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
