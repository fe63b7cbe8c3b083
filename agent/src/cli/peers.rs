//! The arguments of `tocsin agent` about its peers.

use std::{net::IpAddr, num::NonZero, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::BoolishValueParser};

use super::time::duration;
use crate::peers::settings::{self, Share};

/// The peers of `tocsin agent`.
#[derive(Clone, Debug, Args)]
pub struct PeerArgs {
    /// Watch the agents of other nodes, and be watched
    #[arg(
        long,
        env = "PEERS",
        value_enum,
        default_value_t,
        value_name = "OFF|ON",
        hide_possible_values = true
    )]
    pub peers: Switch,
    /// This agent's address among its peers, which it listens on
    #[arg(long, env = "POD_IP", value_name = "IP")]
    pub pod_ip: Option<IpAddr>,
    /// Port of the peers: UDP for membership, TCP for /ping and /coordinator
    #[arg(long, env = "PEERS_PORT", default_value_t = settings::PEERS_PORT, value_name = "PORT")]
    pub peers_port: u16,
    /// Peers to join: `ip:port` with commas, or a DNS name that has the addresses of all, with `:port` if it is not `PEERS_PORT`
    #[arg(long, env = "PEERS_JOIN", value_name = "LIST|NAME")]
    pub peers_join: Option<String>,
    /// Service whose `EndpointSlices` have the addresses of all agents
    #[arg(long, env = "SERVICE_NAME", value_name = "NAME")]
    pub service_name: Option<String>,
    /// Namespace of that Service
    #[arg(long, env = "NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// File with the keys of the peers' packets, one a line: the first signs, all are accepted; read again on change
    #[arg(long, env = "PEERS_KEY_FILE", value_name = "PATH")]
    pub peers_key_file: Option<PathBuf>,
    /// URL that gets a POST for each peer that died
    #[arg(long, env = "PEER_STATUS_URL", value_name = "URL")]
    pub peer_status_url: Option<String>,
    /// URL that gets a POST with all peers every `ELECTION_COOLDOWN_PERIOD`
    #[arg(long, env = "CLUSTER_STATUS_URL", value_name = "URL")]
    pub cluster_status_url: Option<String>,
    /// URL that has to answer 2xx before this agent reports a peer as dead
    #[arg(long, env = "SANITY_CHECK_URL", value_name = "URL")]
    pub sanity_check_url: Option<String>,
    /// POST recoveries to `PEER_STATUS_URL` too
    #[arg(long, env = "PEER_RECOVERY", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false", value_name = "BOOL", hide_possible_values = true)]
    pub peer_recovery: bool,
    /// File with the key that signs webhooks by HMAC-SHA256
    #[arg(long, env = "WEBHOOK_KEY_FILE", value_name = "PATH")]
    pub webhook_key_file: Option<PathBuf>,
    /// Attempts to connect to a webhook's server before a longer pause
    #[arg(long, env = "CONNECT_MAX_RETRIES", default_value_t = nonzero(settings::CONNECT_MAX_RETRIES), value_name = "COUNT")]
    pub connect_max_retries: NonZero<u32>,
    /// Time between two of them; a number without unit is in seconds
    #[arg(long, env = "CONNECT_COOLDOWN_PERIOD", value_parser = seconds, default_value = "2s", value_name = "TIME")]
    pub connect_cooldown_period: Duration,
    /// Attempts to send a webhook before a longer pause
    #[arg(long, env = "SEND_MAX_RETRIES", default_value_t = nonzero(settings::SEND_MAX_RETRIES), value_name = "COUNT")]
    pub send_max_retries: NonZero<u32>,
    /// Time between two of them; a number without unit is in seconds
    #[arg(long, env = "SEND_COOLDOWN_PERIOD", value_parser = seconds, default_value = "1s", value_name = "TIME")]
    pub send_cooldown_period: Duration,
    /// Time between two cluster statuses; a number without unit is in seconds
    #[arg(long, env = "ELECTION_COOLDOWN_PERIOD", value_parser = seconds, default_value = "15s", value_name = "TIME")]
    pub election_cooldown_period: Duration,
    /// Share of its peers that this node has to reach, for the check `peers`
    #[arg(long, env = "PEERS_MIN", default_value_t = settings::PEERS_MIN, value_name = "SHARE")]
    pub peers_min: Share,
    /// Share of the agents with the same failing check beyond which that check passes, for example 30% [default: off]
    #[arg(long, env = "STORM_GUARD", value_name = "SHARE")]
    pub storm_guard: Option<String>,
}

/// Off or on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Off.
    #[default]
    Off,
    /// On.
    On,
}

/// The defaults are not zero.
fn nonzero(number: u32) -> NonZero<u32> {
    NonZero::new(number).unwrap_or(NonZero::<u32>::MIN)
}

/// A time; without a unit it is in seconds, as in the `DaemonSet` that Tocsin replaces.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.trim().parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => duration(text),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Agent {
        #[command(flatten)]
        args: PeerArgs,
    }

    #[test]
    fn times_without_a_unit_are_seconds_and_defaults_are_those_of_the_wing() {
        let args = Agent::parse_from(["tocsin"]).args;
        assert_eq!(args.connect_cooldown_period, settings::CONNECT_COOLDOWN);
        assert_eq!(args.send_cooldown_period, settings::SEND_COOLDOWN);
        assert_eq!(args.election_cooldown_period, settings::ELECTION_COOLDOWN);
        assert_eq!(args.connect_max_retries.get(), settings::CONNECT_MAX_RETRIES);
        assert_eq!(seconds("7"), Ok(Duration::from_secs(7)));
        assert_eq!(seconds("250ms"), Ok(Duration::from_millis(250)));
        assert!(seconds("-1").is_err() && seconds("").is_err());
    }
}
