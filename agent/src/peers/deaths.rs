//! The deaths that a majority has agreed on, and who left in order: what an agent that was isolated meanwhile has to know.
//! Pure.
//!
//! An agent that is part of a majority again sees members dead whose death it did not agree on. If others did, they have
//! reported it, long ago perhaps. If nobody did, since a switch was down and all were isolated, it is still to be reported.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use bytes::{Buf, BufMut};
use tokio::time::Instant;

use super::member::{Malformed, get_address, put_address};

/// 1,024 ends that are told in an answer, in ten packets: as many as a receiver of changes may be behind.
const TOLD: usize = 1024;

/// 5 seconds until others are told of a death that this agent agreed on itself: agents that were isolated together agree
/// within that, each by itself, so that all of them keep it until it is reported.
const TOLD_AFTER: Duration = Duration::from_secs(5);

/// What ended an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It died.
    Death,
    /// It left in order.
    Leave,
}

/// How an agent ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its address.
    pub address: SocketAddr,
    /// Its generation.
    pub generation: u32,
    /// By what.
    pub end: End,
}

/// By address, the end of the latest generation, and from when on that is told.
#[derive(Clone, Debug, Default)]
pub struct Deaths(HashMap<SocketAddr, (Ended, Instant)>);

impl Deaths {
    /// This agent has agreed on an end.
    pub fn agree(&mut self, now: Instant, ended: Ended) {
        let _is_news = self.insert(now + TOLD_AFTER, ended);
    }

    /// Another agent says that it has; whether that is news.
    pub fn hear(&mut self, now: Instant, ended: Ended) -> bool {
        self.insert(now, ended)
    }

    fn insert(&mut self, from: Instant, ended: Ended) -> bool {
        let Ended { address, generation, .. } = ended;
        let is_news = self.get(address, generation).is_none();
        if is_news {
            self.0.insert(address, (ended, from));
        }
        is_news
    }

    /// The end of that generation, or of a later one, that was agreed on.
    #[must_use]
    pub fn get(&self, address: SocketAddr, generation: u32) -> Option<End> {
        let (ended, _) = self.0.get(&address)?;
        (ended.generation >= generation).then_some(ended.end)
    }

    /// Forgets a member.
    pub fn forget(&mut self, address: SocketAddr) {
        self.0.remove(&address);
    }

    /// The deaths of those that are `dead` now, in packets of `room` bytes.
    #[must_use]
    pub fn packed(
        &self,
        now: Instant,
        dead: impl Iterator<Item = SocketAddr>,
        room: usize,
    ) -> Vec<Vec<u8>> {
        let mut packets = vec![Vec::new()];
        let told = dead.filter_map(|address| {
            let (ended, from) = *self.0.get(&address)?;
            (from <= now).then_some(ended)
        });
        for Ended { address, generation, end } in told.take(TOLD) {
            let mut bytes = Vec::with_capacity(24);
            put_address(&mut bytes, address);
            bytes.put_u32(generation);
            bytes.put_u8(u8::from(end == End::Leave));
            match packets.last_mut() {
                Some(packet) if packet.len() + bytes.len() <= room => packet.extend(bytes),
                _ => packets.push(bytes),
            }
        }
        packets.retain(|packet| !packet.is_empty());
        packets
    }
}

/// Reads a packet of [`Deaths::packed`].
pub fn unpack(mut packet: &[u8]) -> Result<Vec<Ended>, Malformed> {
    let mut all = Vec::new();
    while !packet.is_empty() {
        let address = get_address(&mut packet)?;
        let generation = packet.try_get_u32().map_err(|_| Malformed)?;
        let end = match packet.try_get_u8() {
            Ok(0) => End::Death,
            Ok(1) => End::Leave,
            _ => return Err(Malformed),
        };
        all.push(Ended { address, generation, end });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deaths_of_those_that_are_dead_fit_into_packets_and_come_back() {
        let address = |n: u16| SocketAddr::from(([10, 0, 0, 1], n));
        let ended = |n, generation| {
            let end = if n % 2 == 0 { End::Leave } else { End::Death };
            Ended { address: address(n), generation, end }
        };
        let (now, mut deaths) = (Instant::now(), Deaths::default());
        for n in 1..=2000 {
            assert!(deaths.hear(now, ended(n, 7)));
        }
        assert!(!deaths.hear(now, ended(1, 7)) && !deaths.hear(now, ended(1, 6)));
        assert_eq!(deaths.get(address(1), 7), Some(End::Death));
        assert_eq!(deaths.get(address(2), 6), Some(End::Leave));
        assert!(deaths.get(address(1), 8).is_none() && deaths.get(address(3000), 1).is_none());
        deaths.forget(address(2));
        let packed = |from, to| deaths.packed(now, (from..=to).map(address), 1362);
        let packets = packed(1, 200);
        assert!(packets.len() == 2 && packets.iter().all(|packet| packet.len() <= 1362));
        let back: Vec<_> = packets.iter().flat_map(|packet| unpack(packet).unwrap()).collect();
        assert_eq!(back.len(), 199);
        assert!(back.contains(&ended(1, 7)) && back.contains(&ended(4, 7)));
        assert!(!back.contains(&ended(2, 7)));
        assert_eq!(packed(1, 2000).len(), 10);
        assert!(packed(3000, 3000).is_empty());
        for length in [1, 7, 11, 13] {
            assert!(unpack(&packets[0][..length]).is_err(), "{length}");
        }
        // What it has agreed on itself, it knows at once and tells later.
        deaths.agree(now, ended(3000, 7));
        assert!(deaths.get(address(3000), 7).is_some());
        for (after, count) in [(TOLD_AFTER / 2, 0), (TOLD_AFTER, 1)] {
            let packets = deaths.packed(now + after, [address(3000)].into_iter(), 1362);
            assert_eq!(packets.len(), count, "{after:?}");
        }
    }
}
