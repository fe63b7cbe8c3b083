//! What probes and their replies say: four time stamps in the end, as in NTP (RFC 5905, section 8).

use std::time::Duration;

/// The bytes of a probe: kind, number, time.
const PROBE: usize = 1 + 8 + 8;
/// The bytes of a reply: those of the probe, and two times.
const REPLY: usize = PROBE + 8 + 8;

/// A packet of a prober. Times are nanoseconds since 1970 by the clock of whoever noted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    /// Asks for a reply.
    Probe {
        /// Comes back in the reply.
        number: u64,
        /// When it was sent.
        sent: i64,
    },
    /// Answers a probe.
    Reply {
        /// Of the probe.
        number: u64,
        /// When the probe was sent, by the prober's clock.
        sent: i64,
        /// When the probe arrived.
        received: i64,
        /// When the reply was sent.
        replied: i64,
    },
}

impl Packet {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REPLY);
        match self {
            Self::Probe { number, sent } => {
                bytes.push(1);
                bytes.extend(number.to_be_bytes());
                bytes.extend(sent.to_be_bytes());
            }
            Self::Reply { number, sent, received, replied } => {
                bytes.push(2);
                bytes.extend(number.to_be_bytes());
                for time in [sent, received, replied] {
                    bytes.extend(time.to_be_bytes());
                }
            }
        }
        bytes
    }

    /// None where it is neither a probe nor a reply. Bytes after it are for later versions.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let word = |index: usize| {
            let bytes = rest.get(8 * index..)?.first_chunk::<8>()?;
            Some(i64::from_be_bytes(*bytes))
        };
        let (number, sent) = (word(0)?.cast_unsigned(), word(1)?);
        match kind {
            1 => Some(Self::Probe { number, sent }),
            2 => Some(Self::Reply { number, sent, received: word(2)?, replied: word(3)? }),
            _ => None,
        }
    }
}

/// The round trip without the time that the other side took, and the other clock minus the own one, in seconds: right to
/// within half a round trip. `elapsed` is the time from the probe to its reply, by a clock that does not jump; `arrived`
/// is when the reply arrived. What the other side says is not believed where it is impossible.
pub(super) fn measure(
    reply: (i64, i64, i64),
    arrived: i64,
    elapsed: Duration,
) -> (Duration, Option<f64>) {
    let (sent, received, replied) = reply;
    let nanos = |later: i64, earlier: i64| i128::from(later) - i128::from(earlier);
    let taken = u64::try_from(nanos(replied, received)).ok().map(Duration::from_nanos);
    // Its clock jumped, or it lies.
    let Some(round_trip) = taken.and_then(|taken| elapsed.checked_sub(taken)) else {
        return (elapsed, None);
    };
    let own = nanos(arrived, sent);
    let drift = own - i128::try_from(elapsed.as_nanos()).unwrap_or(i128::MAX);
    // The own clock jumped between the two.
    if drift.unsigned_abs() > 100_000_000 {
        return (round_trip, None);
    }
    let twice = nanos(received, sent) + nanos(replied, arrived);
    #[expect(clippy::cast_precision_loss, reason = "seconds with nine digits have room")]
    (round_trip, Some(twice as f64 / 2e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_and_others_are_refused() {
        for packet in [
            Packet::Probe { number: u64::MAX, sent: -1 },
            Packet::Reply { number: 7, sent: 1, received: i64::MIN, replied: i64::MAX },
        ] {
            let mut bytes = packet.encode();
            assert_eq!(Packet::decode(&bytes), Some(packet));
            bytes.push(0);
            assert_eq!(Packet::decode(&bytes), Some(packet));
            for length in 0..bytes.len() - 1 {
                assert_eq!(Packet::decode(&bytes[..length]), None);
            }
        }
        assert_eq!(Packet::decode(&[3; 40]), None);
    }

    #[test]
    fn times_are_measured_as_by_ntp() {
        let ms = |ms: i64| ms * 1_000_000;
        let elapsed = Duration::from_millis(10);
        // 3 ms there, 4 ms of work, 3 ms back; the other clock is 2 s ahead.
        let reply = (ms(0), ms(2003), ms(2007));
        let (round_trip, offset) = measure(reply, ms(10), elapsed);
        assert_eq!((round_trip.as_millis(), offset), (6, Some(2.0)));
        // All of the way there, none back: off by half a round trip.
        let (_, offset) = measure((ms(0), ms(6), ms(10)), ms(10), elapsed);
        assert_eq!(offset, Some(0.003));
        // It was done before it began, or took longer than there was.
        for reply in [(0, ms(5), ms(4)), (0, 0, ms(11)), (0, i64::MIN, i64::MAX)] {
            assert_eq!(measure(reply, ms(10), elapsed), (elapsed, None));
        }
        // The own clock was set meanwhile.
        assert_eq!(measure((0, ms(3), ms(7)), ms(5000), elapsed).1, None);
        assert!(measure((i64::MIN, 0, 0), i64::MAX, elapsed).1.is_none());
    }
}
