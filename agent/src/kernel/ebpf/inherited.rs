//! The counts that an agent inherits, so that counters go on over a restart: pure.

use std::collections::BTreeMap;

use tocsin_ebpf::Kind;

use super::reader::Count;
use crate::model::Dev;

/// 4,096 counters that are carried over: four times as many as one agent can have. The ones that were silent for longest
/// are given up first.
const CARRIED: usize = 4096;

/// What identifies a counter.
pub type CountId = (Kind, Dev, i32);

/// The counters that an earlier agent left in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The agent's number: the later one has the higher number.
    pub instance: u64,
    /// Its counters.
    pub counts: Vec<Count>,
    /// Events that its programs missed, or had no room to count.
    pub missed: u64,
}

/// What an agent takes over.
#[derive(Debug, Default)]
pub struct Takeover {
    /// The counters of earlier agents, each as it was when its gate closed.
    pub inherited: Vec<Inherited>,
    /// The directories of another version, or that cannot be read: what they counted is not known.
    pub unreadable: Vec<String>,
}

impl Takeover {
    /// Whether earlier agents have left anything.
    #[must_use]
    pub fn has_predecessors(&self) -> bool {
        !self.inherited.is_empty() || !self.unreadable.is_empty()
    }
}

/// What the checkpoint says about counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// The number of the agent that wrote it.
    pub instance: u64,
    /// What that agent had inherited itself.
    pub carried: BTreeMap<CountId, u64>,
    /// What that agent had dealt with, inherited counts included.
    pub total: BTreeMap<CountId, u64>,
    /// Missed events that it had inherited, and all that it knew of.
    pub missed: (u64, u64),
}

/// The counts of all agents before this one. If the kernel has lost the counters of the agent that wrote the checkpoint,
/// what that agent had dealt with stands in for them.
#[must_use]
pub fn carried(checkpoint: Option<&Acknowledged>, inherited: &[Inherited]) -> Carried {
    let none = Acknowledged::default();
    let Acknowledged { instance, carried, total, missed: _ } = checkpoint.unwrap_or(&none);
    let is_there = inherited.iter().any(|left| left.instance == *instance);
    let base = if is_there { carried } else { total };
    let mut sums: Carried = base
        .iter()
        .map(|(id, count)| {
            let (kind, dev, errno) = *id;
            (*id, Count { kind, dev, errno, count: *count, suppressed: 0, dropped: 0, last: 0 })
        })
        .collect();
    // What agents before that one left is in its checkpoint already.
    for left in inherited.iter().filter(|left| left.instance >= *instance) {
        add(&mut sums, &left.counts);
    }
    while sums.len() > CARRIED {
        let silent = sums.iter().min_by_key(|(_, count)| count.last).map(|(id, _)| *id);
        silent.map(|id| sums.remove(&id));
    }
    sums
}

/// The missed events of all agents before this one, by the same rule.
#[must_use]
pub fn carried_missed(checkpoint: Option<&Acknowledged>, inherited: &[Inherited]) -> u64 {
    let none = Acknowledged::default();
    let Acknowledged { instance, missed: (carried, total), .. } = checkpoint.unwrap_or(&none);
    let is_there = inherited.iter().any(|left| left.instance == *instance);
    let since = inherited.iter().filter(|left| left.instance >= *instance);
    let base = if is_there { carried } else { total };
    base + since.map(|left| left.missed).sum::<u64>()
}

/// Counts by what identifies them.
pub type Carried = BTreeMap<CountId, Count>;

/// Adds counts to others.
pub fn add(sums: &mut Carried, counts: &[Count]) {
    for count in counts {
        let sum = sums.entry((count.kind, count.dev, count.errno)).or_insert(Count {
            count: 0,
            suppressed: 0,
            dropped: 0,
            last: 0,
            ..*count
        });
        sum.count += count.count;
        sum.suppressed += count.suppressed;
        sum.dropped += count.dropped;
        sum.last = sum.last.max(count.last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(minor: u32) -> CountId {
        (Kind::BlockRead, Dev::new(7, minor), 5)
    }

    fn left(instance: u64, counts: &[(u32, u64)]) -> Inherited {
        let count = |(minor, count): &(u32, u64)| {
            let (kind, dev, errno) = id(*minor);
            Count { kind, dev, errno, count: *count, suppressed: 1, dropped: 1, last: instance }
        };
        Inherited { instance, counts: counts.iter().map(count).collect(), missed: instance }
    }

    fn ids(counts: &[(u32, u64)]) -> BTreeMap<CountId, u64> {
        counts.iter().map(|(minor, count)| (id(*minor), *count)).collect()
    }

    #[test]
    fn every_count_is_carried_over_once() {
        let wrote = |instance, carried: &[(u32, u64)], total: &[(u32, u64)]| {
            Some(Acknowledged {
                instance,
                carried: ids(carried),
                total: ids(total),
                missed: (1, 9),
            })
        };
        for (what, checkpoint, inherited, expected) in [
            ("the first agent", None, vec![], vec![]),
            ("no checkpoint", None, vec![left(7, &[(0, 3)])], vec![(0, 3)]),
            (
                "a restart",
                wrote(7, &[(0, 10), (1, 2)], &[(0, 12), (1, 2)]),
                vec![left(7, &[(0, 3), (2, 1)])],
                vec![(0, 13), (1, 2), (2, 1)],
            ),
            ("nothing pinned", wrote(7, &[(0, 10)], &[(0, 12)]), vec![], vec![(0, 12)]),
            (
                "killed before its first checkpoint: the one of the agent before counts on",
                wrote(7, &[(0, 10)], &[(0, 12)]),
                vec![left(7, &[(0, 3)]), left(8, &[(0, 5)])],
                vec![(0, 18)],
            ),
            (
                "killed before it removed what it had taken over",
                wrote(8, &[(0, 13)], &[(0, 14)]),
                vec![left(7, &[(0, 3)]), left(8, &[(0, 5)])],
                vec![(0, 18)],
            ),
            (
                "an agent that could not pin, between two that could",
                wrote(8, &[(0, 13)], &[(0, 14)]),
                vec![left(7, &[(0, 3)])],
                vec![(0, 14)],
            ),
        ] {
            let sums = carried(checkpoint.as_ref(), &inherited);
            let sums: Vec<_> = sums.iter().map(|(id, count)| (id.1.minor(), count.count)).collect();
            assert_eq!(sums, expected, "{what}");
        }
    }

    #[test]
    fn missed_events_are_carried_over_once() {
        let wrote = Acknowledged { instance: 7, missed: (1, 9), ..Acknowledged::default() };
        for (checkpoint, inherited, expected) in [
            (None, vec![], 0),
            (None, vec![left(7, &[])], 7),
            (Some(&wrote), vec![], 9),
            (Some(&wrote), vec![left(7, &[])], 8),
            (Some(&wrote), vec![left(6, &[]), left(7, &[]), left(8, &[])], 16),
        ] {
            assert_eq!(carried_missed(checkpoint, &inherited), expected, "{inherited:?}");
        }
    }

    #[test]
    fn what_is_carried_over_has_a_bound() {
        let mut counts: Vec<_> = (0..5000).map(|minor| (minor, 1)).collect();
        let mut first = left(7, &counts[..1000]);
        first.counts.extend(left(8, &counts.split_off(1000)).counts);
        let sums = carried(None, &[first]);
        assert_eq!(sums.len(), CARRIED);
        assert!(sums.contains_key(&id(4999)) && !sums.contains_key(&id(0)));
    }
}
