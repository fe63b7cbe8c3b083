//! The agents of other nodes, as the agents see each other.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::Instant;

/// What this agent knows of its peers; written by the peers task alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerView {
    /// Whether peers are configured at all (`PEERS=on`).
    pub is_configured: bool,
    /// This agent, as its peers name it.
    pub own: Option<PeerIdentity>,
    /// The part that this agent has among its peers.
    pub role: PeerRole,
    /// All peers but this agent, by identifier; dead ones stay until discovery forgets them.
    pub peers: Vec<Peer>,
    /// The peers whose death this agent, the coordinator, does not tell before `SANITY_CHECK_URL` answers 2xx.
    pub withheld: BTreeSet<Arc<str>>,
    /// This agent was isolated, and asks the others which deaths they have agreed on meanwhile.
    pub is_catching_up: bool,
    /// What keeps the mesh from working as configured, one line each; shown in `degraded`.
    pub degraded: Vec<String>,
}

/// Who an agent is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerIdentity {
    /// `NODE_NAME@POD_IP` without the dots of the address, for example `my-node1@103205`: the highest in byte order
    /// coordinates.
    pub id: Arc<str>,
    /// The name of its node.
    pub node: Arc<str>,
    /// Where it listens, UDP and TCP.
    pub address: SocketAddr,
}

/// The part that an agent has among its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PeerRole {
    /// The agent has not found a majority of the membership since it started: it reports nothing.
    #[default]
    Undecided,
    /// The agent reports to the outside.
    Coordinator,
    /// Another agent reports to the outside.
    Follower {
        /// The identifier of the coordinator.
        coordinator: Arc<str>,
    },
    /// The agent lost the majority of the last agreed membership: it reports nothing and blames nobody.
    Isolated,
}

/// One peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Who it is.
    pub identity: PeerIdentity,
    /// Whether it is reached.
    pub state: PeerState,
    /// When that began.
    pub since: Instant,
    /// The host that discovery says it runs on: a node's name, or the address where discovery knows addresses alone. None
    /// where discovery does not name its address; its own word for its node is no proof.
    pub host: Option<Arc<str>>,
    /// The names of its checks that fail, as it says itself: before its storm guard.
    pub failing: BTreeSet<Arc<str>>,
    /// The names of its checks that pass, as it says itself; none where it does not say all of them.
    pub passing: Option<BTreeSet<Arc<str>>>,
    /// The latest direct probe of it from here.
    pub probe: Option<PeerProbe>,
    /// What it says of those that it probed itself: a row of the mesh, by identifier.
    pub reaches: Vec<(Arc<str>, PeerProbe)>,
}

/// Whether a peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerState {
    /// Discovery names it, and it has never answered.
    Unseen,
    /// It answers, here or to others.
    Alive,
    /// It does not answer and may still refute that.
    Suspect,
    /// It did not answer in time.
    Dead,
    /// It said that it leaves.
    Left,
}

/// What direct probes of a peer found lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerProbe {
    /// The median round-trip time of those that were answered; `None` if none was.
    pub round_trip: Option<Duration>,
    /// The share of probes without an answer, 0 to 1.
    pub loss: f32,
    /// Its clock minus ours, in seconds, to within half a round trip.
    pub clock_offset: Option<f64>,
}

/// A peer changed between reached and not reached, as agreed by a majority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerChange {
    /// The peer.
    pub peer: PeerIdentity,
    /// Whether it is reached now.
    pub alive: bool,
    /// The same on every agent for this one death or recovery: the webhooks' `Idempotency-Key` is made of it.
    pub key: Arc<str>,
    /// Nobody is to be told after all: the peer was back before `SANITY_CHECK_URL` answered 2xx.
    pub is_withdrawn: bool,
}
