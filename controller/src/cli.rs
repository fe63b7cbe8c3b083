//! What was typed: the controller's commands, their flags, and the environment names they answer to.

use std::ffi::OsString;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tocsin_runtime::log::Format;

use crate::heartbeat;

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

/// What is wrong with a command line, and perhaps what was meant, in one line.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let line: Vec<_> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    line.join(" ").trim_start_matches("error: ").to_owned()
}

/// Names of every environment variable of the command line: an empty one counts as unset.
#[must_use]
pub fn environment() -> Vec<String> {
    let command = <Cli as CommandFactory>::command();
    let of = |command: &clap::Command| {
        let names = command.get_arguments().filter_map(clap::Arg::get_env);
        names.map(|name| name.to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    command.get_subcommands().flat_map(of).collect()
}

/// `LOG_LEVEL`, the name that the replaced programs have for `RUST_LOG`, with the words of their loggers (logrus:
/// `WARNING`, `FATAL`, ...); what is no level means `info` there.
#[must_use]
pub fn aliases(get: impl Fn(&str) -> Option<OsString>) -> Option<(&'static str, OsString)> {
    if get("RUST_LOG").is_some_and(|value| !value.is_empty()) {
        return None;
    }
    let level = get("LOG_LEVEL").filter(|value| !value.is_empty())?;
    let level = level.to_string_lossy().to_lowercase();
    let level = match &*level {
        "trace" | "debug" | "info" | "warn" | "error" => &*level,
        "warning" => "warn",
        "fatal" | "panic" => "error",
        filter if filter.contains('=') => filter,
        _ => "info",
    };
    Some(("RUST_LOG", level.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn levels_of_the_replaced_loggers_are_understood() {
        for (rust_log, log_level, expected) in [
            (None, None, None),
            (None, Some("INFO"), Some("info")),
            (None, Some("Warning"), Some("warn")),
            (None, Some("PANIC"), Some("error")),
            (None, Some("loud"), Some("info")),
            (None, Some("kube=debug"), Some("kube=debug")),
            (Some("debug"), Some("error"), None),
        ] {
            let get = |name: &str| {
                if name == "RUST_LOG" { rust_log } else { log_level }.map(OsString::from)
            };
            assert_eq!(
                aliases(get),
                expected.map(|level| ("RUST_LOG", OsString::from(level))),
                "{log_level:?}"
            );
        }
    }
}
