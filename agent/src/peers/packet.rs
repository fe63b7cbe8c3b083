//! The outer form of a packet, and its signature.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version |
//! | 1 | kind |
//! | 8 | session of the sender, random at its start |
//! | 8 | token: what the addressee gave this session (in a challenge: what the sender gives) |
//! | 4 | sequence of the sender |
//! | 0 to 1,362 | payload |
//! | 16 | HMAC-SHA256, cut |
//!
//! Numbers are big-endian. The signature covers all bytes and, unsent, both addresses, so a packet counts for one
//! addressee and from one sender alone; a challenge also covers the session that it challenges.

use std::net::{IpAddr, SocketAddr};

use super::{
    keys::{Keys, TAG_BYTES},
    stats::Rejection,
};

/// 1,400 bytes of a packet: below the MTU of every usual overlay network (1,450 and 1,410 with VXLAN and `WireGuard`).
pub const PACKET_BYTES: usize = 1400;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 22;
/// Bytes of a payload.
pub const PAYLOAD_BYTES: usize = PACKET_BYTES - HEADER_BYTES - TAG_BYTES;
/// The version of the form.
pub const VERSION: u8 = 1;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Asks for a challenge.
    Hello = 1,
    /// Has the token with which a session is believed.
    Challenge = 2,
    /// Says the node's name, first of all.
    Introduce = 3,
    /// A message of SWIM.
    Swim = 4,
    /// One member's state, straight to whom it matters most.
    Update = 5,
    /// A packet of the prober.
    Probe = 6,
    /// Asks for the latest items of gossip.
    AskItems = 7,
    /// Some of them.
    Items = 8,
    /// Deaths that were agreed on, and leaves, for an agent that may have missed them.
    Deaths = 9,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Hello,
        Self::Challenge,
        Self::Introduce,
        Self::Swim,
        Self::Update,
        Self::Probe,
        Self::AskItems,
        Self::Items,
        Self::Deaths,
    ];
}

/// A packet whose signature is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it is for.
    pub kind: Kind,
    /// The session of its sender.
    pub session: u64,
    /// The token.
    pub token: u64,
    /// The sequence of its sender.
    pub sequence: u32,
    /// The payload.
    pub payload: &'a [u8],
}

/// What the signature covers beside the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The sender's address.
    pub from: SocketAddr,
    /// The addressee's address.
    pub to: SocketAddr,
    /// The session that a challenge challenges; for other kinds it is not looked at.
    pub challenged: u64,
}

impl Route {
    fn bytes(&self, kind: Kind) -> [u8; 44] {
        let mut bytes = [0; 44];
        for (at, address) in [(0, self.from), (18, self.to)] {
            let ip = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            bytes[at..at + 16].copy_from_slice(&ip.octets());
            bytes[at + 16..at + 18].copy_from_slice(&address.port().to_be_bytes());
        }
        if kind == Kind::Challenge {
            bytes[36..].copy_from_slice(&self.challenged.to_be_bytes());
        }
        bytes
    }
}

impl Packet<'_> {
    /// The bytes to send.
    #[must_use]
    pub fn seal(&self, keys: &Keys, route: &Route) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.payload.len() + TAG_BYTES);
        bytes.extend([VERSION, self.kind as u8]);
        bytes.extend(self.session.to_be_bytes());
        bytes.extend(self.token.to_be_bytes());
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.payload);
        let tag = keys.sign(&[&route.bytes(self.kind), &bytes]);
        bytes.extend(tag);
        bytes
    }
}

/// Reads a packet, and checks its signature. Allocates nothing.
pub fn open<'a>(bytes: &'a [u8], keys: &Keys, route: &Route) -> Result<Packet<'a>, Rejection> {
    if bytes.len() > PACKET_BYTES {
        return Err(Rejection::Oversized);
    }
    let (body, tag) = bytes.split_last_chunk::<TAG_BYTES>().ok_or(Rejection::Truncated)?;
    let (header, payload) = body.split_first_chunk::<HEADER_BYTES>().ok_or(Rejection::Truncated)?;
    let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == header[1]);
    let kind = kind.filter(|_| header[0] == VERSION).ok_or(Rejection::Unknown)?;
    if !keys.verify(&[&route.bytes(kind), body], tag) {
        return Err(Rejection::Forged);
    }
    let number = |at: usize| {
        let mut number = [0; 8];
        number.copy_from_slice(&header[at..at + 8]);
        u64::from_be_bytes(number)
    };
    let sequence = u32::from_be_bytes([header[18], header[19], header[20], header[21]]);
    Ok(Packet { kind, session: number(2), token: number(10), sequence, payload })
}
