//! The agents of all nodes watch each other: membership, coordinator, and what they tell each other.
//!
//! [`task`] owns the UDP socket and is the one writer of the [`PeerView`](crate::model::PeerView). What it decides is in
//! pure state machines that take packets, timers and the time: [`channels`] has the ends for the other tasks.

mod channels;
pub mod deaths;
pub mod discovery;
pub mod gossip;
pub mod http_client;
pub mod items;
pub mod key_file;
pub mod keys;
pub mod links;
mod listener;
pub mod member;
pub mod membership;
pub mod mesh;
pub mod packet;
pub mod probes;
pub mod quorum;
pub mod settings;
#[cfg(test)]
mod simulator;
mod start;
mod stats;
pub mod suspicions;
pub mod swim;
pub mod task;
pub mod timers;
pub mod url;
pub mod webhooks;

pub use self::{
    channels::{
        Channels, Discovered, DiscoveredPeer, PeerQuestions, ProbePacket, ProbeResults, Prober,
        Published, SanityQuestion, SanityQuestions, TaskChannels, channels, not_configured,
    },
    gossip::{Gossip, GossipItem, Topic},
    settings::Settings,
    start::Peers,
    stats::{PeerStats, Rejection},
    task::{PeersTask, StartError},
};
