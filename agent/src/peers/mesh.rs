//! All that an agent decides about its peers, in virtual time: [`Membership`] and [`Quorum`] together.

mod outcome;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use foca::State;
use tokio::time::Instant;

use super::{
    channels::{Discovered, DiscoveredPeer},
    gossip::{
        GossipItem, Topic,
        status::{self, Status},
    },
    keys::Keys,
    links::Outbox,
    member::Node,
    membership::{Event, Membership},
    quorum::{Quorum, Sight, Standing},
    settings::identifier,
    stats::Rejection,
    swim::Note,
};
use crate::model::{PeerChange, PeerIdentity, PeerRole, PeerState};

/// 50 ms between two decisions while something waits.
const WAITING: Duration = Duration::from_millis(50);
/// 250 ms between looks at whether the others are heard.
const LOOK: Duration = Duration::from_millis(250);
/// 5 seconds between two decisions while nothing happens.
const ROUTINE: Duration = Duration::from_secs(5);
/// A probe of 400 ms to 2 seconds ago says whether a member is heard: what is younger may be answered yet, and what is
/// older was before.
const PROBE_AGES: [Duration; 2] = [Duration::from_millis(400), Duration::from_secs(2)];
/// 1 second for which a packet says that its sender is there.
const HEARD_LATELY: Duration = Duration::from_secs(1);

/// What the task has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Tell of a death or a recovery.
    Change(PeerChange),
    /// Tell of an item of gossip.
    Item(GossipItem),
    /// Hand a packet to the prober.
    Probe(Arc<str>, Vec<u8>),
    /// Ask `SANITY_CHECK_URL`.
    AskSanity,
}

/// The mesh of the agents, as one of them sees it.
#[derive(Debug)]
pub struct Mesh {
    own: PeerIdentity,
    membership: Membership,
    quorum: Quorum,
    discovered: Discovered,
    /// The hosts of the addresses that discovery names.
    hosts: HashMap<SocketAddr, Arc<str>>,
    /// Discovery has not said anything yet but that it does not work.
    is_blind: bool,
    identities: HashMap<SocketAddr, PeerIdentity>,
    states: HashMap<SocketAddr, (PeerState, Instant)>,
    left: HashSet<SocketAddr>,
    statuses: HashMap<SocketAddr, Status>,
    /// In which generation members died last, by identifier.
    died_as: HashMap<Arc<str>, u32>,
    started: Instant,
    looks_at: Instant,
    decides_at: Instant,
    is_dirty: bool,
    has_changed: bool,
    outputs: Vec<Output>,
}

impl Mesh {
    /// Nobody but this agent. `generation` is greater than in its life before, if its clock is right; if not, the others
    /// say so. `seed` is random, and secret.
    #[must_use]
    pub fn new(
        now: Instant,
        own: PeerIdentity,
        generation: u32,
        keys: Keys,
        seed: &[u8; 32],
        asks_sanity: bool,
    ) -> Self {
        let node = Node { address: own.address, generation, name: own.node.clone() };
        Self {
            membership: Membership::new(now, node, keys, seed),
            quorum: Quorum::new(own.id.clone(), asks_sanity),
            own,
            discovered: Discovered::default(),
            hosts: HashMap::new(),
            is_blind: true,
            identities: HashMap::new(),
            states: HashMap::new(),
            left: HashSet::new(),
            statuses: HashMap::new(),
            died_as: HashMap::new(),
            started: now,
            looks_at: now,
            decides_at: now,
            is_dirty: true,
            has_changed: true,
            outputs: Vec::new(),
        }
    }

    /// Signs with, and accepts, other keys from now on.
    pub fn set_keys(&mut self, keys: Keys) {
        self.membership.set_keys(keys);
    }

    /// Discovery knows something else.
    pub fn discover(&mut self, now: Instant, mut discovered: Discovered) {
        let Discovered { peers, is_complete, degraded } = &mut discovered;
        // The addresses of the other family, which this agent cannot reach, are those of the same agents.
        let is_v4 = self.own.address.is_ipv4();
        peers.retain(|peer| peer.address.is_ipv4() == is_v4);
        self.is_blind &= peers.is_empty() && !*is_complete && degraded.is_some();
        self.hosts = hosts(peers.iter());
        self.discovered = discovered;
        self.is_dirty = true;
        self.note_missing();
        self.decide(now);
    }

    /// Receives a packet.
    pub fn receive(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), Rejection> {
        let result = self.membership.receive(now, from, bytes);
        self.handle(now);
        result
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        self.membership.tick(now);
        self.handle(now);
        if now >= self.looks_at {
            self.looks_at = now + LOOK;
            let (probed, heard) = self.evidence(now);
            self.is_dirty |= (heard + 1) * 2 <= probed + 1 && probed > 0;
            self.is_dirty |= *self.role() == PeerRole::Isolated;
        }
        if self.is_dirty || now >= self.decides_at {
            self.decide(now);
        }
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn next(&self) -> Instant {
        self.membership.next().min(self.looks_at).min(self.decides_at)
    }

    /// The packets to send.
    #[must_use]
    pub fn take_packets(&mut self) -> Outbox {
        self.membership.take_packets()
    }

    /// What the task has to do.
    #[must_use]
    pub fn take_outputs(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Whether the view may have changed since the last call.
    #[must_use]
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Tells all members something.
    pub fn share(&mut self, now: Instant, topic: Topic, bytes: Arc<[u8]>) {
        self.membership.share(now, topic, bytes);
    }

    /// Sends a packet of the prober; whether there is such a peer.
    pub fn probe(&mut self, now: Instant, peer: &str, bytes: &[u8]) -> bool {
        let address = self.identities.iter().find(|(_, identity)| &*identity.id == peer);
        let Some((&address, _)) = address else { return false };
        self.membership.probe(now, address, bytes);
        true
    }

    /// `SANITY_CHECK_URL` has answered.
    pub fn sanity(&mut self, now: Instant, is_success: bool) {
        self.quorum.sanity(now, is_success);
        self.decide(now);
    }

    /// Tells the members that this agent leaves.
    pub fn leave(&mut self, now: Instant) {
        self.membership.leave(now);
    }

    /// The part of this agent.
    #[must_use]
    pub fn role(&self) -> &PeerRole {
        self.quorum.role()
    }

    fn handle(&mut self, now: Instant) {
        let mut items = Vec::new();
        for event in self.membership.take_events() {
            match event {
                Event::Member(note) => {
                    if let Note::Up(node) | Note::Renamed(_, node) = &note {
                        self.left.remove(&node.address);
                    }
                    self.is_dirty = true;
                }
                Event::Leaves(address) => {
                    self.left.insert(address);
                }
                Event::Item(topic, origin, bytes) => items.push((topic, origin, bytes)),
                Event::Ended => self.is_dirty = true,
                Event::Probe(from, bytes) => {
                    if let Some(identity) = self.identities.get(&from) {
                        self.outputs.push(Output::Probe(identity.id.clone(), bytes));
                    }
                }
            }
        }
        // Items of those that are no members yet are told by the decision that makes them members.
        for (topic, origin, bytes) in items {
            self.item(topic, origin, bytes);
        }
        if self.is_dirty {
            self.decide(now);
        }
    }

    fn item(&mut self, topic: Topic, origin: SocketAddr, bytes: Arc<[u8]>) {
        if topic == Topic::Status
            && let Some(status) = status::decode(&bytes)
        {
            self.statuses.insert(origin, status);
            self.has_changed = true;
        }
        if let Some(identity) = self.identities.get(&origin) {
            let origin = identity.id.clone();
            self.outputs.push(Output::Item(GossipItem { topic, origin, bytes }));
        }
    }

    /// How many members were probed lately, and how many of these were heard.
    fn evidence(&self, now: Instant) -> (usize, usize) {
        let (mut probed, mut heard) = (0, 0);
        for (address, asked) in self.membership.asked() {
            let age = now.duration_since(asked);
            if age > PROBE_AGES[1] {
                continue;
            }
            let last = self.membership.heard(address);
            if last.is_some_and(|at| at >= asked || now.duration_since(at) < HEARD_LATELY) {
                (probed, heard) = (probed + 1, heard + 1);
            } else if age >= PROBE_AGES[0] {
                probed += 1;
            }
        }
        (probed, heard)
    }

    fn decide(&mut self, now: Instant) {
        self.is_dirty = false;
        self.has_changed = true;
        let mut members = BTreeMap::new();
        let mut ids = BTreeMap::new();
        let (mut seen, mut new) = (HashSet::new(), Vec::new());
        let mut agreed_dead = BTreeSet::new();
        for member in self.membership.members() {
            let node = member.id();
            // What was this agent before it was declared dead and came back under a new generation is no peer of it.
            if node.name.is_empty() || node.address == self.own.address {
                continue;
            }
            seen.insert(node.address);
            let known = self.identities.get(&node.address);
            if known.is_none_or(|identity| identity.node != node.name) {
                self.identities.insert(node.address, identity(node));
                new.push(node.address);
            }
            let Some(identity) = self.identities.get(&node.address) else { continue };
            let state = match member.state() {
                State::Alive => PeerState::Alive,
                State::Suspect => PeerState::Suspect,
                State::Down if self.left.contains(&node.address) => PeerState::Left,
                State::Down => PeerState::Dead,
            };
            let entry = self.states.entry(node.address).or_insert((state, now));
            if entry.0 != state {
                *entry = (state, now);
            }
            let standing = match state {
                PeerState::Alive | PeerState::Unseen => Standing::Alive,
                PeerState::Suspect => Standing::Suspect,
                PeerState::Dead => Standing::Dead(entry.1),
                PeerState::Left => Standing::Left,
            };
            if state == PeerState::Dead {
                self.died_as.insert(identity.id.clone(), node.generation);
                if self.membership.is_agreed_death(node.address, node.generation) {
                    agreed_dead.insert(identity.id.clone());
                }
            }
            ids.insert(identity.id.clone(), (node.address, node.generation));
            members.insert(identity.id.clone(), standing);
        }
        self.states.retain(|address, _| seen.contains(address));
        let (probed, heard) = self.evidence(now);
        let sight = Sight {
            members,
            agreed_dead,
            unseen: self.unseen().count(),
            is_blind: self.is_blind,
            probed,
            heard,
        };
        let decision = self.quorum.decide(now, &sight);
        self.told_by(now, &decision, &ids);
        self.note_leaves(now, &sight, &ids);
        for address in new {
            for (topic, bytes) in self.membership.items_of(address) {
                self.item(topic, address, bytes);
            }
        }
        self.decides_at = now + if decision.is_waiting { WAITING } else { ROUTINE };
        let reporter = match self.quorum.role() {
            PeerRole::Follower { coordinator } => ids.get(coordinator).map(|(address, _)| *address),
            _ => None,
        };
        self.membership.set_reporter(reporter);
        self.forget_gone(now);
        self.note_missing();
    }

    /// Asks for whom discovery knows and who is not alive.
    fn note_missing(&mut self) {
        let is_alive = |address: &SocketAddr| {
            matches!(self.states.get(address), Some((PeerState::Alive | PeerState::Suspect, _)))
        };
        let missing = self.discovered.peers.iter().map(|peer| peer.address);
        let missing = missing.filter(|address| *address != self.own.address && !is_alive(address));
        self.membership.set_missing(missing.collect());
    }
}

fn identity(node: &Node) -> PeerIdentity {
    PeerIdentity {
        id: identifier(&node.name, node.address.ip()),
        node: node.name.clone(),
        address: node.address,
    }
}

/// The hosts of addresses. Of one that is on several nodes, none counts but the first.
fn hosts<'a>(peers: impl Iterator<Item = &'a DiscoveredPeer>) -> HashMap<SocketAddr, Arc<str>> {
    let mut hosts = HashMap::new();
    for DiscoveredPeer { address, node } in peers {
        let by_address = || address.ip().to_string().into();
        hosts.entry(*address).or_insert_with(|| node.clone().unwrap_or_else(by_address));
    }
    hosts
}
