//! A member as SWIM knows it, and its form on the wire.
//!
//! foca's messages name sender and addressee. Both are known from the link, so [`Prefix`] takes them off a message that
//! is sent and puts them before one that is received.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Identity, Member, Message, State};

/// An agent in one of its lives.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it listens; no two agents have the same.
    pub address: SocketAddr,
    /// Greater in each life: an agent that was declared dead, or that restarts, takes a new one.
    pub generation: u32,
    /// The name of its node; empty where it does not matter.
    pub name: Arc<str>,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        (self.address, self.generation) == (other.address, other.generation)
    }
}

impl Eq for Node {}

impl Identity for Node {
    type Addr = SocketAddr;

    fn renew(&self) -> Option<Self> {
        let generation = self.generation.checked_add(1)?;
        Some(Self { generation, ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.generation > adversary.generation
    }
}

/// Bytes that do not say what they should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed")]
pub struct Malformed;

/// Encodes and decodes what foca sends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire;

/// Who a message is from, and for whom.
#[derive(Clone, Debug)]
pub struct Prefix {
    bytes: Vec<u8>,
}

impl Prefix {
    /// The bytes before a message between these two.
    #[must_use]
    pub fn new(from: &Node, to: SocketAddr) -> Self {
        let mut bytes = Vec::with_capacity(80);
        put_address(&mut bytes, from.address);
        put_name(&mut bytes, &from.name);
        put_address(&mut bytes, to);
        Self { bytes }
    }

    /// The message without them.
    #[must_use]
    pub fn strip<'a>(&self, message: &'a [u8]) -> &'a [u8] {
        message.get(self.bytes.len()..).unwrap_or_default()
    }

    /// The message with them.
    #[must_use]
    pub fn restore(mut self, message: &[u8]) -> Vec<u8> {
        self.bytes.extend(message);
        self.bytes
    }
}

/// The sender's incarnation, in a message without its prefix.
#[must_use]
pub fn incarnation(message: &[u8]) -> Option<u16> {
    message.get(4..6).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// The kind of a message without its prefix, and the number of the probe that it belongs to.
#[must_use]
pub fn probe(message: &[u8]) -> Option<(Probe, u8)> {
    let kind = match message.get(10)? {
        0 => Probe::Ping,
        1 => Probe::Ack,
        5 => Probe::ForwardedAck,
        _ => return None,
    };
    Some((kind, *message.get(11)?))
}

/// The messages of a probe that the prober itself sends or gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It asks.
    Ping,
    /// The member answers.
    Ack,
    /// The member answers another one, which passes the answer on.
    ForwardedAck,
}

impl Codec<Node> for Wire {
    type Error = Malformed;

    fn encode_header(
        &mut self,
        header: &Header<Node>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        let Header { src, src_incarnation, dst, message } = header;
        let mut bytes = Prefix::new(src, dst.address).bytes;
        bytes.put_u32(src.generation);
        bytes.put_u16(*src_incarnation);
        bytes.put_u32(dst.generation);
        put_message(&mut bytes, message);
        put(&mut buf, &bytes)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Node>, Malformed> {
        let address = get_address(&mut buf)?;
        let name = get_name(&mut buf)?;
        let to = get_address(&mut buf)?;
        let generation = buf.try_get_u32().map_err(|_| Malformed)?;
        let src_incarnation = buf.try_get_u16().map_err(|_| Malformed)?;
        let src = Node { address, generation, name };
        let generation = buf.try_get_u32().map_err(|_| Malformed)?;
        let dst = Node { address: to, generation, name: Arc::from("") };
        Ok(Header { src, src_incarnation, dst, message: get_message(&mut buf)? })
    }

    fn encode_member(
        &mut self,
        member: &Member<Node>,
        mut buf: impl BufMut,
    ) -> Result<(), Malformed> {
        let mut bytes = Vec::with_capacity(64);
        put_node(&mut bytes, member.id());
        put_name(&mut bytes, &member.id().name);
        bytes.put_u16(member.incarnation());
        bytes.put_u8(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        put(&mut buf, &bytes)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Node>, Malformed> {
        let node = get_node(&mut buf)?;
        let node = Node { name: get_name(&mut buf)?, ..node };
        let incarnation = buf.try_get_u16().map_err(|_| Malformed)?;
        let state = match buf.try_get_u8() {
            Ok(0) => State::Alive,
            Ok(1) => State::Suspect,
            Ok(2) => State::Down,
            _ => return Err(Malformed),
        };
        Ok(Member::new(node, incarnation, state))
    }
}

fn put(buf: &mut impl BufMut, bytes: &[u8]) -> Result<(), Malformed> {
    if buf.remaining_mut() < bytes.len() {
        return Err(Malformed);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn put_message(bytes: &mut Vec<u8>, message: &Message<Node>) {
    let (kind, number, node) = match message {
        Message::Ping(number) => (0, Some(number), None),
        Message::Ack(number) => (1, Some(number), None),
        Message::PingReq { target, probe_number } => (2, Some(probe_number), Some(target)),
        Message::IndirectPing { origin, probe_number } => (3, Some(probe_number), Some(origin)),
        Message::IndirectAck { target, probe_number } => (4, Some(probe_number), Some(target)),
        Message::ForwardedAck { origin, probe_number } => (5, Some(probe_number), Some(origin)),
        Message::Announce => (6, None, None),
        Message::Feed => (7, None, None),
        Message::Gossip => (8, None, None),
        Message::Broadcast => (9, None, None),
        Message::TurnUndead => (10, None, None),
    };
    bytes.put_u8(kind);
    bytes.extend(number);
    if let Some(node) = node {
        put_node(bytes, node);
    }
}

fn get_message(buf: &mut impl Buf) -> Result<Message<Node>, Malformed> {
    let kind = buf.try_get_u8().map_err(|_| Malformed)?;
    let probe_number = if kind <= 5 { buf.try_get_u8().map_err(|_| Malformed)? } else { 0 };
    Ok(match kind {
        0 => Message::Ping(probe_number),
        1 => Message::Ack(probe_number),
        2 => Message::PingReq { target: get_node(buf)?, probe_number },
        3 => Message::IndirectPing { origin: get_node(buf)?, probe_number },
        4 => Message::IndirectAck { target: get_node(buf)?, probe_number },
        5 => Message::ForwardedAck { origin: get_node(buf)?, probe_number },
        6 => Message::Announce,
        7 => Message::Feed,
        8 => Message::Gossip,
        9 => Message::Broadcast,
        10 => Message::TurnUndead,
        _ => return Err(Malformed),
    })
}

fn put_node(bytes: &mut Vec<u8>, node: &Node) {
    put_address(bytes, node.address);
    bytes.put_u32(node.generation);
}

fn get_node(buf: &mut impl Buf) -> Result<Node, Malformed> {
    let address = get_address(buf)?;
    let generation = buf.try_get_u32().map_err(|_| Malformed)?;
    Ok(Node { address, generation, name: Arc::from("") })
}

/// An address: 4 or 6, the bytes of the IP address, and the port.
pub fn put_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.put_u8(4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.put_u8(6);
            bytes.extend(ip.octets());
        }
    }
    bytes.put_u16(address.port());
}

/// Reads what [`put_address`] writes.
pub fn get_address(buf: &mut impl Buf) -> Result<SocketAddr, Malformed> {
    let ip = match buf.try_get_u8() {
        Ok(4) => IpAddr::from(buf.try_get_u32().map_err(|_| Malformed)?.to_be_bytes()),
        Ok(6) => IpAddr::from(buf.try_get_u128().map_err(|_| Malformed)?.to_be_bytes()),
        _ => return Err(Malformed),
    };
    Ok(SocketAddr::new(ip, buf.try_get_u16().map_err(|_| Malformed)?))
}

fn put_name(bytes: &mut Vec<u8>, name: &str) {
    // A node's name has 253 bytes at most, see `links`.
    bytes.put_u8(u8::try_from(name.len()).unwrap_or(0));
    bytes.extend(name.as_bytes().iter().take(255));
}

fn get_name(buf: &mut impl Buf) -> Result<Arc<str>, Malformed> {
    let mut name = [0; 255];
    let length = usize::from(buf.try_get_u8().map_err(|_| Malformed)?);
    buf.try_copy_to_slice(&mut name[..length]).map_err(|_| Malformed)?;
    let is_name = name[..length].iter().all(u8::is_ascii_graphic);
    str::from_utf8(&name[..length]).ok().filter(|_| is_name).map(Arc::from).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(address: &str, generation: u32) -> Node {
        Node { address: address.parse().unwrap(), generation, name: "node-1".into() }
    }

    #[test]
    fn messages_survive_the_wire_without_their_prefix() {
        let (from, to) = (node("10.0.0.1:25004", 7), node("[fd00::2]:25004", 9));
        let third = node("10.0.0.3:1", 3);
        for (message, bytes) in [
            (Message::Ping(5), 12),
            (Message::PingReq { target: third.clone(), probe_number: 5 }, 23),
            (Message::Announce, 11),
        ] {
            let (src, dst) = (from.clone(), to.clone());
            let header = Header { src, src_incarnation: 4, dst, message };
            let mut whole = Vec::new();
            Wire.encode_header(&header, &mut whole).unwrap();
            let prefix = Prefix::new(&from, to.address);
            let short = prefix.strip(&whole).to_vec();
            assert_eq!(short.len(), bytes);
            assert_eq!(incarnation(&short), Some(4));
            assert_eq!(prefix.restore(&short), whole);
            assert_eq!(Wire.decode_header(&whole[..]), Ok(header));
            for cut in 0..whole.len() {
                assert!(Wire.decode_header(&whole[..cut]).is_err(), "{cut}");
            }
        }
        let member = Member::new(third, 2, State::Suspect);
        let mut bytes = Vec::new();
        Wire.encode_member(&member, &mut bytes).unwrap();
        let decoded = Wire.decode_member(&bytes[..]).unwrap();
        assert_eq!(decoded, member);
        assert_eq!(&*decoded.id().name, "node-1");
        assert!((0..bytes.len()).all(|cut| Wire.decode_member(&bytes[..cut]).is_err()));
    }

    #[test]
    fn kinds_of_probes() {
        assert_eq!(probe(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 9]), Some((Probe::Ack, 9)));
        assert_eq!(probe(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]), None);
        assert_eq!(probe(&[]), None);
    }
}
