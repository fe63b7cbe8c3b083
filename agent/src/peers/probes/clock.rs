//! What the probes say of clocks.

use crate::model::PeerProbe;

/// 500 milliseconds that a clock may be off: leases, certificates and logs of the cluster bear that.
pub const OFFSET_MAX: f64 = 0.5;

/// The cluster's clock minus the own one, in seconds: the median of all clocks, the own one included, so that of two
/// that differ none is blamed. None where no peer was measured.
#[must_use]
pub fn offset<'a>(probes: impl IntoIterator<Item = &'a PeerProbe>) -> Option<f64> {
    let mut offsets: Vec<f64> = probes.into_iter().filter_map(|probe| probe.clock_offset).collect();
    if offsets.is_empty() {
        return None;
    }
    offsets.push(0.0);
    offsets.sort_by(f64::total_cmp);
    let upper = offsets.get(offsets.len() / 2).copied()?;
    let lower = offsets.get((offsets.len() - 1) / 2).copied()?;
    // Of the two in the middle the one that speaks for the own clock.
    Some(if lower.abs() < upper.abs() { lower } else { upper })
}

/// The line for an agent whose clock is off by more than [`OFFSET_MAX`].
#[must_use]
pub fn degraded<'a>(probes: impl IntoIterator<Item = &'a PeerProbe>) -> Option<String> {
    let offset = offset(probes).filter(|offset| offset.abs() > OFFSET_MAX)?;
    let relation = if offset > 0.0 { "behind" } else { "ahead of" };
    // Tenths, so that the line does not change with each probe.
    Some(format!("this node's clock is {:.1} s {relation} the clocks of its peers", offset.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_where_most_others_say_so() {
        let probe = |clock_offset| PeerProbe { round_trip: None, loss: 0.0, clock_offset };
        let (far, near) = (Some(2.04), Some(0.01));
        for (offsets, expected, line) in [
            (&[][..], None, None),
            (&[None], None, None),
            (&[near], Some(0.0), None),
            // Of two clocks nobody knows which one is wrong.
            (&[far], Some(0.0), None),
            (&[far, near], near, None),
            (&[far, far], far, Some("this node's clock is 2.0 s behind the clocks of its peers")),
            (&[far, far, near], near, None),
            (
                &[Some(-0.6), Some(-0.7), Some(-0.8), None],
                Some(-0.6),
                Some("this node's clock is 0.6 s ahead of the clocks of its peers"),
            ),
            (&[Some(0.5), Some(0.5)], Some(0.5), None),
        ] {
            let row: Vec<_> = offsets.iter().copied().map(probe).collect();
            assert_eq!(offset(&row), expected, "{offsets:?}");
            assert_eq!(degraded(&row).as_deref(), line, "{offsets:?}");
        }
    }
}
