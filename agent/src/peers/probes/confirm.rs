//! Direct questions about checks: PURE. What gossip says of a member passes through other members, which all have the
//! key; an answer comes from the member itself, as the peers task binds a packet to the address of its sender.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::peers::{
    gossip::status::{self, Status},
    settings::GOSSIP_BYTES,
};

/// 10 seconds for which an answer counts: longer than two lost packets in a row, shorter than the guard takes to end.
pub const ANSWER_COUNTS: Duration = Duration::from_secs(10);
/// 1 second for an answer; a later one counts for nothing.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The first bytes, after those of the probes.
const ASK: u8 = 3;
const ANSWER: u8 = 4;

/// What peers answered lately, by identifier.
pub type Answers = BTreeMap<Arc<str>, Answer>;

/// What a peer itself answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When it arrived.
    pub at: Instant,
    /// What it said of its checks, before its storm guard.
    pub status: Status,
}

/// A question, or the answer to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// Asks what the checks say.
    Ask(u64),
    /// The number of the question, and an item of [`Topic::Status`](crate::peers::Topic::Status).
    Answer(u64, &'a [u8]),
}

impl<'a> Message<'a> {
    pub(super) fn encode(self) -> Vec<u8> {
        let (kind, number, status) = match self {
            Self::Ask(number) => (ASK, number, &[][..]),
            Self::Answer(number, status) => (ANSWER, number, status),
        };
        [&[kind], &number.to_be_bytes()[..], status].concat()
    }

    /// None where it is neither.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (number, status) = rest.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(*number);
        match *kind {
            ASK => Some(Self::Ask(number)),
            ANSWER if status.len() <= GOSSIP_BYTES => Some(Self::Answer(number, status)),
            _ => None,
        }
    }
}

/// The questions that wait for an answer.
#[derive(Debug, Default)]
pub(super) struct Questions(BTreeMap<Arc<str>, (u64, Instant)>);

impl Questions {
    /// A question for that peer. Its number cannot be guessed from other questions.
    pub(super) fn ask(&mut self, peer: Arc<str>, now: Instant) -> Message<'static> {
        self.0.retain(|_, (_, asked)| now.saturating_duration_since(*asked) < TIMEOUT);
        let number = RandomState::new().hash_one(&peer);
        self.0.insert(peer, (number, now));
        Message::Ask(number)
    }

    /// What the answer says; none where it answers no question to that peer, or comes too late.
    pub(super) fn take(
        &mut self,
        from: &str,
        number: u64,
        status: &[u8],
        at: Instant,
    ) -> Option<Answer> {
        let (_, asked) = self.0.get(from).filter(|(asked, _)| *asked == number)?;
        let is_in_time = at.saturating_duration_since(*asked) < TIMEOUT;
        self.0.remove(from);
        let status = status::decode(status).filter(|_| is_in_time)?;
        Some(Answer { at, status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_and_others_are_refused() {
        let full = [b'a'; GOSSIP_BYTES + 1];
        for message in
            [Message::Ask(7), Message::Answer(u64::MAX, b""), Message::Answer(7, &full[1..])]
        {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Some(message));
            assert!((0..9).all(|length| Message::decode(&bytes[..length]).is_none()));
        }
        assert_eq!(Message::decode(&Message::Answer(7, &full).encode()), None);
        assert!([1, 2, 5].iter().all(|kind| Message::decode(&[*kind; 40]).is_none()));
    }

    #[test]
    fn an_answer_counts_from_whom_was_asked_once_and_in_time() {
        let (now, peer) = (Instant::now(), || Arc::from("n2@10002"));
        let mut questions = Questions::default();
        let mut asked = |now| {
            let Message::Ask(number) = questions.ask(peer(), now) else { panic!("no question") };
            (number, std::mem::take(&mut questions))
        };
        let says = &b"a;b"[..];
        // (from, what is added to the number, what it says, after how many ms, whether it counts)
        for (from, other, status, ms, expected) in [
            ("n2@10002", 0, says, 20, true),
            ("n3@10003", 0, says, 20, false),
            ("n2@10002", 1, says, 20, false),
            ("n2@10002", 0, b"?", 20, false),
            ("n2@10002", 0, b"", 20, false),
            ("n2@10002", 0, says, 1000, false),
        ] {
            let (number, mut questions) = asked(now);
            let (number, at) = (number.wrapping_add(other), now + Duration::from_millis(ms));
            let answer = questions.take(from, number, status, at);
            assert_eq!(answer.is_some(), expected, "{from} {other} {status:?} {ms}");
            assert_eq!(questions.take(from, number, status, at), None, "said twice");
        }
    }
}
