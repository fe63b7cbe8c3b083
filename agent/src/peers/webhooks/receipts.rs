//! What members tell each other about webhooks, by gossip: which ones were accepted, and who has the queue.
//!
//! Gossip carries 256 bytes for each member, and a newer item replaces the older one. A [`Share`] therefore names
//! webhooks by 8 bytes of a hash. If more were accepted lately than one item can name, [`Accepted`] names them in turns.

use std::{collections::VecDeque, time::Duration};

use ring::digest::{SHA256, digest};
use tokio::time::Instant;

/// The first byte of a [`Share`]; a member skips those of another version.
const VERSION: u8 = 1;
/// 6 bytes before the fingerprints: the version, the flags and the session.
const HEAD: usize = 6;
/// 31 fingerprints of 8 bytes: with [`HEAD`], 254 bytes of the 256 that gossip carries.
pub(super) const NAMED: usize = 31;
/// 1,024 accepted webhooks that can be named, as many as are queued.
const ACCEPTED: usize = 1024;
/// 5 minutes during which an accepted webhook is named in turns: 1,024 of them take 64 turns, two minutes.
pub(super) const NAMED_FOR: Duration = Duration::from_mins(5);
/// 2 seconds for a turn, in which gossip reaches every member.
const TURN: Duration = Duration::from_secs(2);

const HOLDS: u8 = 1;
const BEHIND: u8 = 2;

/// What one member tells the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// A random number of this run of the agent: another one means that it restarted, with an empty queue.
    pub(super) session: u32,
    /// It is part of a majority, and queues what the majority agrees on.
    pub(super) holds: bool,
    /// It has to send webhooks that the coordinator does not have.
    pub(super) behind: bool,
    /// Fingerprints of webhooks that it sent and that were accepted.
    pub(super) accepted: Vec<u64>,
}

impl Share {
    /// The bytes for gossip.
    pub(super) fn encode(&self) -> Vec<u8> {
        let flags = if self.holds { HOLDS } else { 0 } | if self.behind { BEHIND } else { 0 };
        let mut bytes = vec![VERSION, flags];
        bytes.extend(self.session.to_be_bytes());
        bytes.extend(self.accepted.iter().take(NAMED).flat_map(|print| print.to_be_bytes()));
        bytes
    }

    /// Reads such bytes; none where they are not of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let ([VERSION, flags, session @ ..], rest) = bytes.split_first_chunk::<HEAD>()? else {
            return None;
        };
        let (accepted, []) = rest.as_chunks::<8>() else { return None };
        Some(Self {
            session: u32::from_be_bytes(*session),
            holds: flags & HOLDS != 0,
            behind: flags & BEHIND != 0,
            accepted: accepted.iter().map(|print| u64::from_be_bytes(*print)).collect(),
        })
    }
}

/// The name of a webhook in a [`Share`]: the beginning of its key's SHA-256.
pub(super) fn fingerprint(key: &str) -> u64 {
    let hash = digest(&SHA256, key.as_bytes());
    hash.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The webhooks that this member sent and that were accepted, the latest last.
#[derive(Debug, Default)]
pub(super) struct Accepted(VecDeque<(u64, Instant)>);

impl Accepted {
    /// Adds one.
    pub(super) fn push(&mut self, print: u64, now: Instant) {
        if self.0.len() >= ACCEPTED {
            self.0.pop_front();
        }
        self.0.push_back((print, now));
    }

    /// Number of those that were accepted lately.
    fn young(&self, now: Instant) -> usize {
        let is_young = |at: &Instant| now.saturating_duration_since(*at) < NAMED_FOR;
        self.0.iter().rev().take_while(|(_, at)| is_young(at)).count()
    }

    /// Whether they are named in turns.
    pub(super) fn is_turning(&self, now: Instant) -> bool {
        self.young(now) > NAMED
    }

    /// Those to name now; `since_start` is the time since the agent started. Another turn names others, if there are too
    /// many.
    pub(super) fn named(&self, now: Instant, since_start: Duration) -> Vec<u64> {
        let young = self.young(now);
        // The latest come first. Where all of them fit, old ones fill the rest.
        let mut latest = self.0.iter().rev().map(|(print, _)| *print);
        if young <= NAMED {
            return latest.take(NAMED).collect();
        }
        // Half of the room is always for the latest, so that those are known at once.
        let (head, rest) = (NAMED / 2, NAMED - NAMED / 2);
        let mut named: Vec<u64> = latest.by_ref().take(head).collect();
        let others: Vec<u64> = latest.take(young - head).collect();
        let turns = others.len().div_ceil(rest);
        let turn = since_start.as_secs() / TURN.as_secs();
        let turn = usize::try_from(turn).unwrap_or_default() % turns.max(1);
        named.extend(others.into_iter().skip(turn * rest).take(rest));
        named
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_share_fits_and_comes_back() {
        for share in [
            Share::default(),
            Share { session: 7, holds: true, behind: false, accepted: vec![1, u64::MAX] },
            Share { session: u32::MAX, holds: true, behind: true, accepted: vec![5; NAMED] },
        ] {
            let bytes = share.encode();
            assert!(bytes.len() <= 256, "{}", bytes.len());
            assert_eq!(Share::decode(&bytes), Some(share));
        }
        for bytes in [&b""[..], b"\x01\0\0\0\0", b"\x02\0\0\0\0\0", b"\x01\0\0\0\0\0\0"] {
            assert_eq!(Share::decode(bytes), None, "{bytes:?}");
        }
        assert_ne!(fingerprint("a"), fingerprint("b"));
        // The SHA-256 of "abc" (FIPS 180-2, B.1): agents of all versions have to agree.
        assert_eq!(fingerprint("abc"), 0xba78_16bf_8f01_cfea);
    }

    #[test]
    fn every_accepted_webhook_is_named_in_its_turn() {
        let start = Instant::now();
        for count in [0, 1, 31, 32, 400, 1024, 2000] {
            let mut accepted = Accepted::default();
            for print in 0..count {
                accepted.push(print, start);
            }
            let mut named = BTreeSet::new();
            for second in 0..140 {
                let second = Duration::from_secs(second);
                let now = accepted.named(start + second, second);
                assert!(now.len() <= NAMED);
                assert_eq!(now.first().copied(), count.checked_sub(1));
                named.extend(now);
            }
            let expected: BTreeSet<_> = (count.saturating_sub(1024)..count).collect();
            assert_eq!(named, expected, "{count}");
            // Later only the last ones are named, and always the same.
            let late = |seconds| {
                let late = Duration::from_secs(seconds);
                accepted.named(start + late, late)
            };
            assert_eq!(late(300), late(311));
        }
    }
}
