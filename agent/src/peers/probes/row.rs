//! A row of the mesh for gossip: what one member's direct probes found.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use ring::digest::{SHA256, digest};

use super::samples::TARGETS;
use crate::model::PeerProbe;

/// The first byte; a member skips rows of another version.
const VERSION: u8 = 1;
/// A peer: 8 bytes of its identifier's SHA-256, the round trip in microseconds (4), the loss in percent (1), and the
/// offset of its clock in milliseconds (4). With [`TARGETS`] of them a row has 137 bytes.
const ENTRY: usize = 8 + 4 + 1 + 4;
/// Stands for no round trip.
const NO_TIME: u32 = u32::MAX;
/// Stands for no offset.
const NO_OFFSET: i32 = i32::MIN;

fn name(id: &str) -> [u8; 8] {
    digest(&SHA256, id.as_bytes()).as_ref().first_chunk().copied().unwrap_or_default()
}

/// Encodes the results of this member's probes.
#[must_use]
pub fn encode(row: &BTreeMap<Arc<str>, PeerProbe>) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    for (id, probe) in row.iter().take(TARGETS) {
        let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(NO_TIME - 1);
        #[expect(clippy::cast_possible_truncation, reason = "`as` stops at the bounds")]
        let millis = |seconds: f64| ((seconds * 1000.0).round() as i32).max(NO_OFFSET + 1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "`as` stops at the bounds"
        )]
        let loss = (probe.loss * 100.0).round().min(100.0) as u8;
        bytes.extend(name(id));
        bytes.extend(probe.round_trip.map_or(NO_TIME, micros).to_be_bytes());
        bytes.push(loss);
        bytes.extend(probe.clock_offset.map_or(NO_OFFSET, millis).to_be_bytes());
    }
    bytes
}

/// Names the peers of rows.
#[derive(Clone, Debug, Default)]
pub struct Names(HashMap<[u8; 8], Arc<str>>);

impl Names {
    /// The members that rows may name.
    pub fn new<'a>(ids: impl IntoIterator<Item = &'a Arc<str>>) -> Self {
        Self(ids.into_iter().map(|id| (name(id), id.clone())).collect())
    }

    /// Decodes another member's row, by identifier; those that are not known are left out. None where it is no row of this
    /// version.
    #[must_use]
    pub fn decode(&self, bytes: &[u8]) -> Option<Vec<(Arc<str>, PeerProbe)>> {
        let (&VERSION, rest) = bytes.split_first()? else { return None };
        let (entries, []) = rest.as_chunks::<ENTRY>() else { return None };
        Some(entries.iter().take(TARGETS).filter_map(|entry| self.entry(entry)).collect())
    }

    fn entry(&self, entry: &[u8; ENTRY]) -> Option<(Arc<str>, PeerProbe)> {
        let (name, rest) = entry.split_first_chunk::<8>()?;
        let (micros, rest) = rest.split_first_chunk::<4>()?;
        let (loss, rest) = rest.split_first()?;
        let (micros, millis) =
            (u32::from_be_bytes(*micros), i32::from_be_bytes(*rest.first_chunk::<4>()?));
        let probe = PeerProbe {
            round_trip: (micros != NO_TIME).then(|| Duration::from_micros(micros.into())),
            loss: f32::from(*loss.min(&100)) / 100.0,
            clock_offset: (millis != NO_OFFSET).then(|| f64::from(millis) / 1000.0),
        };
        Some((self.0.get(name)?.clone(), probe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fits_and_comes_back() {
        let probe = |micros: Option<u64>, loss, clock_offset| PeerProbe {
            round_trip: micros.map(Duration::from_micros),
            loss,
            clock_offset,
        };
        let row = BTreeMap::from([
            ("a@1".into(), probe(Some(1234), 0.25, Some(-0.012))),
            ("b@2".into(), probe(None, 1.0, None)),
            ("c@3".into(), probe(Some(0), 0.0, Some(86_400.5))),
        ]);
        let bytes = encode(&row);
        let names = Names::new(row.keys());
        assert_eq!(names.decode(&bytes), Some(row.clone().into_iter().collect()));
        // Nobody knows `b` here.
        let two: Vec<_> = row.iter().filter(|(id, _)| &***id != "b@2").collect();
        let names = Names::new(two.iter().map(|(id, _)| *id));
        assert_eq!(names.decode(&bytes).unwrap().len(), 2);
        for bytes in [&b""[..], b"\x02", b"\x01\x01", &bytes[..bytes.len() - 1]] {
            assert_eq!(names.decode(bytes), None, "{bytes:?}");
        }
        let extreme = BTreeMap::from([("a@1".into(), probe(Some(u64::MAX), 2.0, Some(-1e30)))]);
        let decoded = names.decode(&encode(&extreme)).unwrap();
        assert_eq!(Some(decoded[0].1.loss), Some(1.0));
        assert!(decoded[0].1.clock_offset.unwrap() < -2e6);
        let many = (0..30).map(|n| (format!("n{n}").into(), probe(None, 0.0, None))).collect();
        assert_eq!(encode(&many).len(), 137);
    }
}
