//! `GET /peers` of the agent's admin listener.

use serde::{Deserialize, Serialize};

/// The body of `/peers`: which agents reach which, as one of them sees it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct PeersResponse {
    /// The agent's version.
    pub version: String,
    /// The part of this agent among its peers: `off` (peers are not configured), `undecided` (it has not found a majority
    /// yet), `coordinator` (it reports to the outside), `follower` (another one does) or `isolated` (it lost the majority,
    /// and reports nothing).
    pub role: String,
    /// The identifier of the coordinator, where there is one.
    pub coordinator: Option<String>,
    /// This agent.
    pub own: Option<Identity>,
    /// The other agents, in the order of their identifiers.
    pub peers: Vec<Peer>,
    /// The median of the peers' clocks minus this node's, in seconds; null where no clock was measured.
    pub clock_offset_seconds: Option<f64>,
    /// Webhooks about single peers that were not accepted yet. All agents of the majority have the same ones.
    pub webhooks_queued: u64,
    /// The checks that fail on so many nodes that failing one of them takes no node out (`STORM_GUARD`).
    pub storms: Vec<Storm>,
    /// What keeps the mesh or the webhooks from working as configured, one line each.
    pub degraded: Vec<String>,
}

/// A check that the storm guard holds up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Storm {
    /// The check's name.
    pub check: String,
    /// The number of nodes on which it fails.
    pub failing: usize,
    /// The number of nodes on which it runs.
    pub of: usize,
    /// Since when the guard holds it up, as RFC 3339.
    pub since: String,
}

/// Who an agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Identity {
    /// `NODE_NAME@POD_IP` without the dots of the address.
    pub id: String,
    /// The name of its node.
    pub node: String,
    /// Where it listens: `ip:port`.
    pub address: String,
}

/// Another agent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Peer {
    /// Who it is.
    #[serde(flatten)]
    pub identity: Identity,
    /// `unseen` (discovery names it, and it has never answered), `alive`, `suspect`, `dead` or `left`.
    pub state: String,
    /// For how long, in seconds.
    pub state_seconds: f64,
    /// The names of its checks that fail, as it says itself.
    pub failing: Vec<String>,
    /// What direct probes from here found; null where it is not probed now.
    pub probe: Option<Probe>,
    /// What it says of those that it probes itself.
    pub reaches: Vec<Reach>,
}

/// What direct probes of an agent found lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Probe {
    /// The median round trip, in seconds; null where no probe was answered.
    pub round_trip_seconds: Option<f64>,
    /// The share of probes without an answer, 0 to 1.
    pub loss: f64,
    /// Its clock minus that of the prober, in seconds, to within half a round trip.
    pub clock_offset_seconds: Option<f64>,
}

/// One field of the mesh's matrix.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Reach {
    /// The identifier of the agent that was probed.
    pub id: String,
    /// What the probes found.
    #[serde(flatten)]
    pub probe: Probe,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_that_of_the_wire() {
        let text = concat!(
            r#"{"version":"0.1.0","role":"follower","coordinator":"b@2","own":{"id":"a@1","node":"a","#,
            r#""address":"10.0.0.1:25004"},"peers":[{"id":"b@2","node":"b","address":"10.0.0.2:25004","#,
            r#""state":"alive","state_seconds":1.5,"failing":["io_errors"],"probe":{"round_trip_seconds":0.001,"#,
            r#""loss":0.0,"clock_offset_seconds":-0.2},"reaches":[{"id":"a@1","round_trip_seconds":null,"#,
            r#""loss":1.0,"clock_offset_seconds":null}]}],"clock_offset_seconds":0.0,"webhooks_queued":1,"#,
            r#""storms":[{"check":"a","failing":3,"of":5,"since":"t"}],"degraded":["d"]}"#,
        );
        let found: PeersResponse = serde_json::from_str(text).unwrap();
        assert_eq!(Some(found.peers[0].reaches[0].probe.loss), Some(1.0));
        assert_eq!(serde_json::to_string(&found).unwrap(), text);
        // A reader of an older version misses fields, not the answer.
        assert_eq!(serde_json::from_str::<PeersResponse>("{}").unwrap(), PeersResponse::default());
    }
}
