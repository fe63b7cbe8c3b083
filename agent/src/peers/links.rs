//! Who may say something: sessions, challenges and windows against replays. Pure; time and addresses come in.
//!
//! An agent's session is a random number that it makes at its start. A session counts at another agent once it has
//! echoed the token that this agent gave it in a challenge: the token is made of a secret that the agent makes at its
//! start, so what was recorded before a restart counts for nothing after it. From then on a window over the sequence
//! refuses what came before. No clock is trusted, and a session that did not prove itself takes no memory.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use ring::hmac;
use tokio::time::Instant;

use super::{
    keys::{Keys, TAG_BYTES},
    packet::{HEADER_BYTES, Kind, Packet, Route, open},
    stats::Rejection,
};

/// 8,192 agents that this one remembers: more than Kubernetes supports (5,000 nodes).
pub const LINKS: usize = 8192;
/// 300 ms between two requests for a challenge: longer than a round trip, shorter than two probes.
const HELLO_AGAIN: Duration = Duration::from_millis(300);
/// 1 second between two requests to say the name again.
const NAME_AGAIN: Duration = Duration::from_secs(1);
/// 253 bytes of a node's name: as Kubernetes allows (RFC 1123 subdomain).
const NAME_BYTES: usize = 253;
/// Bytes of a challenge: what it answers has as many at least.
const CHALLENGE_BYTES: usize = HEADER_BYTES + 12 + TAG_BYTES;

/// Packets to send, with their addressees.
pub type Outbox = Vec<(SocketAddr, Vec<u8>)>;

/// What a packet that counts is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// Nothing beyond the link itself.
    Nothing,
    /// The other side has given a token, and knows this generation of this agent.
    Challenged(u32),
    /// For the parts above.
    Content(Kind, &'a [u8]),
}

/// The links to all agents.
#[derive(Debug)]
pub struct Links {
    own: SocketAddr,
    node: Arc<str>,
    keys: Keys,
    session: u64,
    sequence: u32,
    secret: hmac::Key,
    /// Counts up when something is forgotten: then the tokens of before are worth nothing.
    epoch: u64,
    peers: HashMap<SocketAddr, Link>,
}

/// What is known of one agent.
#[derive(Debug)]
struct Link {
    /// What it accepts.
    token: Option<u64>,
    hello: Option<Instant>,
    /// The latest sequence whose challenge was accepted.
    answered: u32,
    /// The latest packet, which waits for the token.
    pending: Option<(Kind, Vec<u8>)>,
    /// What is accepted from it.
    incoming: Option<Incoming>,
    epoch: u64,
    node: Option<Arc<str>>,
    asked_name: Option<Instant>,
    used: Instant,
}

#[derive(Debug)]
struct Incoming {
    session: u64,
    token: u64,
    window: Window,
}

/// The latest sequence, and which of the 128 before it were received.
#[derive(Debug)]
struct Window {
    latest: u32,
    seen: u128,
}

impl Window {
    fn accept(&mut self, sequence: u32) -> bool {
        if sequence > self.latest {
            let by = sequence - self.latest;
            self.seen = self.seen.checked_shl(by).unwrap_or(0) | 1;
            self.latest = sequence;
            return true;
        }
        let bit = 1_u128.checked_shl(self.latest - sequence).unwrap_or(0);
        if bit == 0 || self.seen & bit != 0 {
            return false;
        }
        self.seen |= bit;
        true
    }
}

impl Links {
    /// No links yet. `seed` is random, and secret.
    #[must_use]
    pub fn new(own: SocketAddr, node: Arc<str>, keys: Keys, seed: &[u8; 32]) -> Self {
        let secret = hmac::Key::new(hmac::HMAC_SHA256, seed);
        let session = number(&secret, &[b"session"]);
        let peers = HashMap::new();
        Self { own, node, keys, session, sequence: 0, secret, epoch: 0, peers }
    }

    /// Signs with, and accepts, other keys from now on.
    pub fn set_keys(&mut self, keys: Keys) {
        self.keys = keys;
    }

    /// The name of the node at this address, once it has introduced itself.
    #[must_use]
    pub fn node(&self, address: SocketAddr) -> Option<&Arc<str>> {
        self.peers.get(&address)?.node.as_ref()
    }

    /// Sends a packet; where the addressee has given no token yet, asks for one first, and keeps the latest packet.
    pub fn send(
        &mut self,
        now: Instant,
        to: SocketAddr,
        kind: Kind,
        payload: &[u8],
        out: &mut Outbox,
    ) {
        let is_full = self.peers.len() >= LINKS;
        let link = match self.peers.get_mut(&to) {
            Some(link) => link,
            None if is_full => return,
            None => self.peers.entry(to).or_insert_with(|| Link::new(now, self.epoch)),
        };
        link.used = now;
        if let Some(token) = link.token {
            let bytes = self.seal(to, kind, token, 0, payload);
            out.push((to, bytes));
            return;
        }
        link.pending = Some((kind, payload.to_vec()));
        if link.hello.is_none_or(|at| now.duration_since(at) >= HELLO_AGAIN) {
            link.hello = Some(now);
            // As long as the challenge that answers it.
            let bytes = self.seal(to, Kind::Hello, 0, 0, &[0; 12]);
            out.push((to, bytes));
        }
    }

    /// Receives a packet. `known` is the generation in which this agent knows the sender.
    pub fn receive<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &'a [u8],
        known: u32,
        out: &mut Outbox,
    ) -> Result<Received<'a>, Rejection> {
        let route = Route { from, to: self.own, challenged: self.session };
        let packet = open(bytes, &self.keys, &route)?;
        match packet.kind {
            Kind::Hello => {
                self.challenge(from, &packet, bytes.len(), known, out);
                Ok(Received::Nothing)
            }
            Kind::Challenge => self.challenged(now, from, &packet, out),
            _ => self.content(now, from, &packet, bytes.len(), known, out),
        }
    }

    /// Forgets the links that `keep` does not want and that were not used for `idle`.
    pub fn forget(&mut self, now: Instant, idle: Duration, keep: impl Fn(&SocketAddr) -> bool) {
        let before = self.peers.len();
        self.peers.retain(|address, link| keep(address) || now.duration_since(link.used) < idle);
        if self.peers.len() < before {
            self.epoch += 1;
        }
    }

    fn seal(
        &mut self,
        to: SocketAddr,
        kind: Kind,
        token: u64,
        challenged: u64,
        payload: &[u8],
    ) -> Vec<u8> {
        if self.sequence == u32::MAX {
            // After years, the session ends like at a restart; the others challenge the new one.
            self.session = number(&self.secret, &[b"session", &self.session.to_be_bytes()]);
            self.sequence = 0;
            self.peers.values_mut().for_each(|link| (link.token, link.answered) = (None, 0));
        }
        self.sequence += 1;
        let (session, sequence) = (self.session, self.sequence);
        let packet = Packet { kind, session, token, sequence, payload };
        packet.seal(&self.keys, &Route { from: self.own, to, challenged })
    }

    /// The token for a session at an address.
    fn token(&self, from: SocketAddr, session: u64) -> u64 {
        let link = self.peers.get(&from);
        let incoming = link.and_then(|link| link.incoming.as_ref());
        if let Some(incoming) = incoming.filter(|incoming| incoming.session == session) {
            return incoming.token;
        }
        let epoch = link.map_or(self.epoch, |link| link.epoch);
        let address = from.to_string();
        let parts = [address.as_bytes(), &session.to_be_bytes(), &epoch.to_be_bytes()];
        number(&self.secret, &parts)
    }

    /// Answers a session that has to prove itself, if that takes no more bytes than it has sent.
    fn challenge(
        &mut self,
        from: SocketAddr,
        packet: &Packet<'_>,
        bytes: usize,
        known: u32,
        out: &mut Outbox,
    ) {
        if bytes < CHALLENGE_BYTES {
            return;
        }
        let token = self.token(from, packet.session);
        let mut payload = [0; 12];
        payload[..4].copy_from_slice(&packet.sequence.to_be_bytes());
        payload[4..8].copy_from_slice(&known.to_be_bytes());
        let challenge = self.seal(from, Kind::Challenge, token, packet.session, &payload);
        out.push((from, challenge));
    }

    /// Takes a token, if the challenge answers a packet that is newer than the last one that was answered.
    fn challenged(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: &Packet<'_>,
        out: &mut Outbox,
    ) -> Result<Received<'static>, Rejection> {
        let payload = packet.payload.first_chunk::<8>().ok_or(Rejection::Malformed)?;
        let both = u64::from_be_bytes(*payload);
        let echo = u32::try_from(both >> 32).unwrap_or(0);
        let known = u32::try_from(both & u64::from(u32::MAX)).unwrap_or(0);
        let sent = self.sequence;
        let link = self.peers.get_mut(&from).ok_or(Rejection::Unproven)?;
        if echo <= link.answered || echo > sent {
            return Err(Rejection::Replayed);
        }
        link.answered = echo;
        link.token = Some(packet.token);
        link.hello = None;
        link.used = now;
        let pending = link.pending.take();
        let node = self.node.clone();
        let introduce = self.seal(from, Kind::Introduce, packet.token, 0, node.as_bytes());
        out.push((from, introduce));
        if let Some((kind, payload)) = pending {
            let bytes = self.seal(from, kind, packet.token, 0, &payload);
            out.push((from, bytes));
        }
        Ok(Received::Challenged(known))
    }

    fn content<'a>(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: &Packet<'a>,
        bytes: usize,
        known: u32,
        out: &mut Outbox,
    ) -> Result<Received<'a>, Rejection> {
        if packet.token != self.token(from, packet.session) {
            self.challenge(from, packet, bytes, known, out);
            return Err(Rejection::Unproven);
        }
        let is_full = self.peers.len() >= LINKS;
        let link = match self.peers.get_mut(&from) {
            Some(link) => link,
            None if is_full => return Err(Rejection::TooManySenders),
            None => self.peers.entry(from).or_insert_with(|| Link::new(now, self.epoch)),
        };
        match &mut link.incoming {
            Some(incoming) if incoming.session == packet.session => {
                if !incoming.window.accept(packet.sequence) {
                    return Err(Rejection::Replayed);
                }
            }
            incoming => {
                let is_other = incoming.is_some();
                let window = Window { latest: packet.sequence, seen: 1 };
                let (session, token) = (packet.session, packet.token);
                *incoming = Some(Incoming { session, token, window });
                if is_other {
                    // The tokens of the session before are worth nothing any more, and neither is what it was sent.
                    self.epoch += 1;
                    link.epoch = self.epoch;
                    link.node = None;
                }
            }
        }
        link.used = now;
        if packet.kind == Kind::Introduce {
            link.node = Some(node_name(packet.payload).ok_or(Rejection::Malformed)?);
            return Ok(Received::Nothing);
        }
        if link.node.is_none() {
            // The introduction was lost.
            if link.asked_name.is_none_or(|at| now.duration_since(at) >= NAME_AGAIN) {
                link.asked_name = Some(now);
                self.challenge(from, packet, bytes, known, out);
            }
            return Ok(Received::Nothing);
        }
        Ok(Received::Content(packet.kind, packet.payload))
    }
}

impl Link {
    fn new(now: Instant, epoch: u64) -> Self {
        Self {
            token: None,
            hello: None,
            answered: 0,
            pending: None,
            incoming: None,
            epoch,
            node: None,
            asked_name: None,
            used: now,
        }
    }
}

/// A name, if it can be one of a node.
pub(super) fn node_name(bytes: &[u8]) -> Option<Arc<str>> {
    let is_name = |byte: &u8| byte.is_ascii_graphic();
    let is_good = !bytes.is_empty() && bytes.len() <= NAME_BYTES && bytes.iter().all(is_name);
    str::from_utf8(bytes).ok().filter(|_| is_good).map(Arc::from)
}

fn number(secret: &hmac::Key, parts: &[&[u8]]) -> u64 {
    let mut context = hmac::Context::with_key(secret);
    for part in parts {
        context.update(part);
    }
    let mut number = [0; 8];
    number.copy_from_slice(&context.sign().as_ref()[..8]);
    u64::from_be_bytes(number)
}
