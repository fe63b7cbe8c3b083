//! The command line: commands, flags, and the environment variables for them.

mod agent;
mod peers;
mod time;

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tocsin_runtime::command_line::Alias;

pub use self::{
    agent::{AgentArgs, ClusterArgs, KernelArgs, ListenerArgs, ProbeArgs},
    peers::{PeerArgs, Switch},
};
use crate::{kernel, serve};

/// Tells load balancers, Kubernetes and people, within milliseconds of the kernel noticing, whether this
/// host should get traffic, and why.
#[derive(Debug, Parser)]
#[command(name = "tocsin", version)]
pub struct Cli {
    /// The command.
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
    /// Print which nodes reach which, as a running agent knows it
    Peers(PeersArgs),
}

/// The arguments of `tocsin check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Checks to run [default: those of the agent's /health]
    #[arg(value_delimiter = ',')]
    pub names: Vec<String>,
    /// Health address of an agent; without it, the agent on this host's `LISTEN_PORT` if one runs, since it
    /// knows what happened before, else the host is checked once
    #[arg(long, env = "HEALTH_URL", value_name = "URL")]
    pub health_url: Option<String>,
    /// Address of this host's agent
    #[arg(long, env = "LISTEN_ADDR", default_value_t = serve::settings::LISTEN_ADDR, value_name = "IP")]
    pub listen_addr: IpAddr,
    /// Port of this host's agent
    #[arg(long, env = "LISTEN_PORT", default_value_t = serve::settings::LISTEN_PORT, value_name = "PORT")]
    pub listen_port: u16,
    /// Check the host once, without asking an agent
    #[arg(long)]
    pub local: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Mount table to read
    #[arg(long, env = "MOUNT_TABLE", default_value = kernel::settings::MOUNT_TABLE, value_name = "PATH")]
    pub mount_table: PathBuf,
}

/// The arguments of `tocsin faults`.
#[derive(Clone, Debug, Args)]
pub struct FaultsArgs {
    /// Action, instead of printing
    #[command(subcommand)]
    pub action: Option<FaultsAction>,
    /// Admin address of the agent
    #[arg(long, env = "ADMIN_URL", default_value = "http://127.0.0.1:25002", value_name = "URL")]
    pub admin_url: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// The arguments of `tocsin peers`.
#[derive(Clone, Debug, Args)]
pub struct PeersArgs {
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
    /// Close a fault by hand; it opens again with the next evidence of it
    Clear {
        /// Id of the fault, from `tocsin faults`
        id: String,
        /// Control socket of the agent
        #[arg(long, env = "CONTROL_SOCKET", default_value = serve::settings::CONTROL_SOCKET, value_name = "PATH")]
        control_socket: PathBuf,
    },
}

/// Output formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// Environment names that the replaced systems have for the same thing.
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
}
