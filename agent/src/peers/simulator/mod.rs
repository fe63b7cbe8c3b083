//! A network of agents in virtual time: the code of the agents is the real one, and the packets are real too.

mod bench;
mod reports;
mod stories;

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    channels::{Discovered, DiscoveredPeer},
    gossip::GossipItem,
    keys::Keys,
    mesh::{Mesh, Output},
    settings::identifier,
};
use crate::model::{PeerChange, PeerIdentity, PeerRole, PeerState};

/// 28 bytes of IPv4 and UDP on each packet.
const OUTER_BYTES: usize = 28;
/// 17 bytes of a probe of the mesh, and 33 of its reply.
const PROBE_BYTES: usize = 17;
const REPLY_BYTES: usize = 33;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Runs,
    Stopped,
    Dead,
}

struct Agent {
    mesh: Mesh,
    life: Life,
    generation: u32,
    waiting: Vec<(SocketAddr, Arc<[u8]>)>,
    wakes: Duration,
    sent: (u64, u64),
    answers_sanity: Option<bool>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Act {
    Deliver { from: usize, to: usize, bytes: Arc<[u8]> },
    Wake(usize),
    Answer(usize, bool),
}

/// What an agent told, and when.
#[derive(Clone, Debug)]
struct Told {
    at: Duration,
    by: usize,
    change: PeerChange,
}

struct Network {
    start: Instant,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, Act)>>,
    count: u64,
    random: SmallRng,
    agents: Vec<Agent>,
    discovered: Discovered,
    loss: f64,
    delay: Duration,
    /// How long `SANITY_CHECK_URL` takes to answer.
    sanity_delay: Duration,
    /// Pairs between which nothing passes, one way.
    cut: BTreeSet<(usize, usize)>,
    told: Vec<Told>,
    /// The items of gossip that agents were told, and by which of them.
    items: Vec<(usize, GossipItem)>,
}

fn address(n: usize) -> SocketAddr {
    let [a, b, ..] = u16::try_from(n).unwrap().to_be_bytes();
    SocketAddr::new(Ipv4Addr::new(10, 0, a, b).into(), 25004)
}

fn name(n: usize) -> String {
    format!("node-{n:04}")
}

fn index(address: SocketAddr) -> Option<usize> {
    let SocketAddr::V4(v4) = address else { return None };
    let [10, 0, a, b] = v4.ip().octets() else { return None };
    Some(usize::from(u16::from_be_bytes([a, b])))
}

impl Network {
    /// Agents that start within a second and discover each other.
    fn new(count: usize, seed: u64, sanity: Option<bool>) -> Self {
        let peer = |n| DiscoveredPeer { address: address(n), node: Some(name(n).into()) };
        let peers = (0..count).map(peer).collect();
        let mut network = Self {
            start: Instant::now(),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            count: 0,
            random: SmallRng::seed_from_u64(seed),
            agents: Vec::new(),
            discovered: Discovered { peers, is_complete: true, degraded: None },
            loss: 0.0,
            delay: Duration::from_micros(200),
            sanity_delay: Duration::ZERO,
            cut: BTreeSet::new(),
            told: Vec::new(),
            items: Vec::new(),
        };
        for n in 0..count {
            let wait = Duration::from_micros(network.random.random_range(0..1_000_000));
            let mesh = network.mesh(n, 100, sanity.is_some(), wait);
            network.agents.push(Agent {
                mesh,
                life: Life::Runs,
                generation: 100,
                waiting: Vec::new(),
                wakes: Duration::MAX,
                sent: (0, 0),
                answers_sanity: sanity,
            });
            network.flush(n);
        }
        network
    }

    fn mesh(&mut self, n: usize, generation: u32, asks_sanity: bool, wait: Duration) -> Mesh {
        let own = PeerIdentity {
            id: identifier(&name(n), address(n).ip()),
            node: name(n).into(),
            address: address(n),
        };
        let keys = Keys::public();
        let now = self.start + self.now + wait;
        let seed = self.random.random();
        let mut mesh = Mesh::new(now, own, generation, keys, &seed, asks_sanity);
        mesh.discover(now, self.discovered.clone());
        mesh
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn push(&mut self, at: Duration, act: Act) {
        self.count += 1;
        self.queue.push(Reverse((at, self.count, act)));
    }

    /// Carries what an agent wants carried, and notes when it wants to wake.
    fn flush(&mut self, n: usize) {
        for (to, bytes) in self.agents[n].mesh.take_packets() {
            assert!(bytes.len() <= super::packet::PACKET_BYTES);
            self.agents[n].sent.0 += 1;
            self.agents[n].sent.1 += (bytes.len() + OUTER_BYTES) as u64;
            let Some(to) = index(to).filter(|to| *to < self.agents.len()) else { continue };
            if self.cut.contains(&(n, to)) || self.random.random_bool(self.loss) {
                continue;
            }
            let jitter = self.delay.mul_f64(self.random.random_range(0.0..0.5));
            let at = self.now + self.delay + jitter;
            self.push(at, Act::Deliver { from: n, to, bytes: bytes.into() });
        }
        for output in self.agents[n].mesh.take_outputs() {
            match output {
                Output::Change(change) => {
                    self.told.push(Told { at: self.now, by: n, change });
                }
                Output::AskSanity => {
                    // A question replaces the one before, whose answer then reaches nobody.
                    self.queue.retain(
                        |Reverse((.., act))| !matches!(act, Act::Answer(of, _) if *of == n),
                    );
                    let answer = self.agents[n].answers_sanity.unwrap_or(false);
                    self.push(self.now + self.sanity_delay, Act::Answer(n, answer));
                }
                Output::Probe(peer, bytes) if bytes.len() == PROBE_BYTES => {
                    let now = self.instant();
                    self.agents[n].mesh.probe(now, &peer, &[2; REPLY_BYTES]);
                    self.flush(n);
                }
                Output::Item(item) => self.items.push((n, item)),
                Output::Probe(..) => {}
            }
        }
        let next = self.agents[n].mesh.next().saturating_duration_since(self.start).max(self.now);
        if next < self.agents[n].wakes || self.agents[n].wakes <= self.now {
            self.agents[n].wakes = next;
            self.push(next, Act::Wake(n));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Some(Reverse((at, _, act))) = self.queue.pop() else { break };
            self.now = at;
            match act {
                Act::Deliver { from, to, bytes } => self.deliver(from, to, bytes),
                Act::Answer(n, is_success) => {
                    if self.agents[n].life == Life::Runs {
                        let now = self.instant();
                        self.agents[n].mesh.sanity(now, is_success);
                        self.flush(n);
                    }
                }
                Act::Wake(n) => {
                    if self.agents[n].life == Life::Runs && self.agents[n].wakes == at {
                        self.agents[n].wakes = Duration::MAX;
                        let now = self.instant();
                        self.agents[n].mesh.tick(now);
                        self.flush(n);
                    }
                }
            }
        }
        self.now = end;
    }

    fn deliver(&mut self, from: usize, to: usize, bytes: Arc<[u8]>) {
        let now = self.instant();
        let agent = &mut self.agents[to];
        match agent.life {
            Life::Dead => {}
            Life::Stopped => agent.waiting.push((address(from), bytes)),
            Life::Runs => {
                let _refused = agent.mesh.receive(now, address(from), &bytes).is_err();
                self.flush(to);
            }
        }
    }

    fn kill(&mut self, n: usize) {
        self.agents[n].life = Life::Dead;
    }

    fn stop(&mut self, n: usize) {
        self.agents[n].life = Life::Stopped;
    }

    fn resume(&mut self, n: usize) {
        self.agents[n].life = Life::Runs;
        let now = self.instant();
        for (from, bytes) in std::mem::take(&mut self.agents[n].waiting) {
            let _refused = self.agents[n].mesh.receive(now, from, &bytes).is_err();
        }
        self.agents[n].mesh.tick(now);
        self.agents[n].wakes = Duration::ZERO;
        self.flush(n);
    }

    /// Begins another life of an agent; `generation` is what its clock says.
    fn start(&mut self, n: usize, generation: u32) {
        let asks_sanity = self.agents[n].answers_sanity.is_some();
        let mesh = self.mesh(n, generation, asks_sanity, Duration::ZERO);
        let agent = &mut self.agents[n];
        (agent.mesh, agent.life, agent.generation) = (mesh, Life::Runs, generation);
        agent.waiting.clear();
        agent.wakes = Duration::ZERO;
        self.flush(n);
    }

    /// Ends an agent in order.
    fn leave(&mut self, n: usize) {
        let now = self.instant();
        self.agents[n].mesh.leave(now);
        self.flush(n);
        self.run(Duration::from_millis(300));
        self.kill(n);
    }

    /// Cuts all ways between two groups.
    fn partition(&mut self, one: &[usize], other: &[usize]) {
        for &a in one {
            for &b in other {
                self.cut.extend([(a, b), (b, a)]);
            }
        }
    }

    fn unplug(&mut self, n: usize) {
        let others: Vec<_> = (0..self.agents.len()).filter(|other| *other != n).collect();
        self.partition(&[n], &others);
    }

    /// How many peers an agent sees in this state.
    fn sees(&self, n: usize, state: PeerState) -> usize {
        let view = self.agents[n].mesh.view(&Arc::default(), Vec::new());
        view.peers.iter().filter(|peer| peer.state == state).count()
    }

    fn role(&self, n: usize) -> &PeerRole {
        self.agents[n].mesh.role()
    }

    /// What those told that coordinate now: (when, by whom, about whom, alive). A successor sends what its predecessor
    /// could not.
    fn reported(&self) -> Vec<(Duration, usize, usize, bool)> {
        let by_coordinator = |told: &&Told| {
            let agent = &self.agents[told.by];
            agent.life == Life::Runs && *agent.mesh.role() == PeerRole::Coordinator
        };
        (self.told.iter().filter(by_coordinator))
            .map(|told| {
                let peer = index(told.change.peer.address).unwrap();
                (told.at, told.by, peer, told.change.alive)
            })
            .collect()
    }

    /// The members, after they have found each other.
    fn settled(count: usize, seed: u64) -> Self {
        let mut network = Self::new(count, seed, None);
        network.run(Duration::from_secs(10));
        for n in 0..count {
            assert_eq!(network.sees(n, PeerState::Alive), count - 1, "node {n}");
        }
        assert!(network.told.is_empty());
        network
    }
}
