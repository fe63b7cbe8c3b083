//! Settings of the peers, and their defaults, each with its unit and its reason.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZero,
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use super::url::Url;
use crate::model::PeerIdentity;

/// Port of the peers' traffic: UDP for membership, TCP for `/ping` and `/coordinator`. Beside the agent's other ports.
pub const PEERS_PORT: u16 = 25004;
/// 5 attempts to reach a webhook's server, as in the network health `DaemonSet` that Tocsin replaces.
pub const CONNECT_MAX_RETRIES: u32 = 5;
/// 2 seconds between two of them, as there.
pub const CONNECT_COOLDOWN: Duration = Duration::from_secs(2);
/// 5 attempts to send a webhook on a connection that was made, as there.
pub const SEND_MAX_RETRIES: u32 = 5;
/// 1 second between two of them, as there.
pub const SEND_COOLDOWN: Duration = Duration::from_secs(1);
/// 15 seconds between two cluster statuses, as there.
pub const ELECTION_COOLDOWN: Duration = Duration::from_secs(15);
/// 50% of its peers are what a node has to reach: below it, more of the cluster is cut off from it than not.
pub const PEERS_MIN: Share = Share(0.5);

/// 1,024 changes that a receiver may be behind: as many as a webhook's queue holds. A rack or a zone may die at once, and
/// every member tells its receivers of all these deaths in the same instant.
pub const CHANGES: usize = 1024;
/// 256 items of gossip that a receiver may be behind; it can ask for the latest of each then.
pub const GOSSIP_ITEMS: usize = 256;
/// 256 bytes of an item: several fit into one packet, beside what membership has to say.
pub const GOSSIP_BYTES: usize = 256;
/// 16 items that wait for the peers task, which has nothing that takes long.
pub const SHARED: usize = 16;
/// 64 probe packets that wait, for the peers task to send or for the prober to read. One more is dropped and counted:
/// a probe that waits measures the wait.
pub const PROBE_PACKETS: usize = 64;
/// 512 bytes of a probe packet: a time stamp or two, and a row of counters.
pub const PROBE_BYTES: usize = 512;
/// 4 lists of peers to ask directly that wait for the prober, which has nothing that takes long.
pub const PEER_QUESTIONS: usize = 4;
/// 4 questions for `SANITY_CHECK_URL` that wait: the peers task asks one at a time.
pub const SANITY_QUESTIONS: usize = 4;

/// What the operator wants of the peers.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// This agent, as its peers name it; its address is what the sockets are bound to.
    pub own: PeerIdentity,
    /// How the peers are found.
    pub join: Join,
    /// The file with the keys, one a line: the first signs, all are accepted.
    pub key_file: Option<PathBuf>,
    /// The webhooks.
    pub webhooks: WebhookSettings,
    /// A URL that has to answer 2xx before this agent blames a peer.
    pub sanity_check_url: Option<Url>,
    /// The share of its peers that a node has to reach, for the check `peers`.
    pub peers_min: Share,
    /// The share of peers with the same failing check beyond which that check passes.
    pub storm_guard: Option<Share>,
}

/// How the peers are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Join {
    /// Nobody: this agent waits for others that know it.
    Nobody,
    /// By addresses that do not change.
    Static(Vec<SocketAddr>),
    /// By a DNS name, which is resolved again from time to time.
    Dns {
        /// The name.
        host: String,
        /// The port on each of its addresses.
        port: u16,
    },
    /// By the `EndpointSlices` of a Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// Where deaths, recoveries and the state of the cluster are posted.
#[derive(Clone, Debug, PartialEq)]
pub struct WebhookSettings {
    /// Deaths, and with `recovery` recoveries, one each.
    pub peer_status_url: Option<Url>,
    /// The state of the cluster, every `cluster_status_interval`.
    pub cluster_status_url: Option<Url>,
    /// The file with the key that signs the bodies by HMAC-SHA256.
    pub key_file: Option<PathBuf>,
    /// Recoveries are posted too.
    pub recovery: bool,
    /// Attempts to connect.
    pub connect: Retries,
    /// Attempts to send.
    pub send: Retries,
    /// The time between two cluster statuses.
    pub cluster_status_interval: Duration,
}

/// How often something is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Attempts in a row.
    pub attempts: NonZero<u32>,
    /// The time between two of them.
    pub cooldown: Duration,
}

/// Stands for the name of a node that neither discovery nor its agent has said.
pub const UNKNOWN_NODE: &str = "?";

/// An agent's identifier: `NODE_NAME@POD_IP` without the dots of an IPv4 address, as in the `DaemonSet` that Tocsin
/// replaces. An IPv6 address has none, and is written as it is.
#[must_use]
pub fn identifier(node: &str, ip: IpAddr) -> Arc<str> {
    format!("{node}@{}", ip.to_string().replace('.', "")).into()
}

/// A share of a whole, 0 to 1; written as a percentage or as a fraction.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

/// A text that is no share.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no share (give a percentage above 0% and up to 100%, such as 30%)")]
pub struct BadShare(String);

impl Share {
    /// The share, above 0 and up to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

impl FromStr for Share {
    type Err = BadShare;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadShare(text.to_owned());
        let text = text.trim();
        let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |n| (n.trim_end(), 100.0));
        let share = number.parse::<f64>().map_err(|_| bad())? / whole;
        if share > 0.0 && share <= 1.0 { Ok(Self(share)) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_percentages_or_fractions() {
        for (text, share) in [("30%", 0.3), (" 100 % ", 1.0), ("0.5", 0.5), ("1", 1.0)] {
            assert!((text.parse::<Share>().unwrap().get() - share).abs() < 1e-6, "{text}");
        }
        for text in ["", "%", "0", "0%", "101%", "30", "-1%", "NaN", "inf%", "half"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
        }
        assert_eq!(PEERS_MIN.to_string(), "50%");
    }
}
