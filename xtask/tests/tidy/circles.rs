//! No file uses another one that, directly or through others, uses it.
//!
//! Two files in a circle are one file in two places: neither can be understood, tested or moved alone. The rule is
//! strict, also between a module and its parent: what a child takes from `super` and the parent uses as well belongs in
//! a file of its own, beside the child. A parent that declares its children and re-exports what they have is no circle:
//! a re-export is followed to the file that has the item, and by itself is no use. Test code counts like any other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::expect_none;
use crate::imports::{self, Import};
use crate::tree::{CRATES, Crate, File};

/// Imports that close a circle today: which file uses which.
const OPEN: &[(&str, &str)] =
    &[("controller/src/remediation/crd/schema.rs", "controller/src/remediation/crd/mod.rs")];

/// Which file uses which, by their numbers, with one place for each.
pub(crate) type Edges = BTreeMap<(usize, usize), Import>;

pub(crate) fn edges(unit: &Crate) -> Edges {
    let mut edges = Edges::new();
    for import in imports::of(unit) {
        let passes_on =
            import.is_reexport && unit.is_below(&unit.files[import.from].module, import.to);
        if !passes_on {
            edges.entry((import.from, import.to)).or_insert(import);
        }
    }
    edges
}

/// The shortest way from one file to another.
fn way(edges: &Edges, from: usize, to: usize) -> Option<Vec<usize>> {
    let mut before = BTreeMap::from([(from, from)]);
    let mut next = VecDeque::from([from]);
    while let Some(here) = next.pop_front() {
        if here == to {
            let mut way = vec![here];
            while way.last() != Some(&from) {
                way.extend(way.last().and_then(|last| before.get(last)).copied());
            }
            way.reverse();
            return Some(way);
        }
        for ((_, there), _) in edges.range((here, 0)..(here + 1, 0)) {
            if !before.contains_key(there) {
                before.insert(*there, here);
                next.push_back(*there);
            }
        }
    }
    None
}

/// The shortest circle of each set of files that use each other, as its imports, one a line.
pub(crate) fn circles(files: &[File], edges: &Edges) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for (from, to) in edges.keys() {
        let Some(back) = way(edges, *to, *from) else { continue };
        let round: Vec<usize> = [*from].into_iter().chain(back).collect();
        let members: BTreeSet<usize> = round.iter().copied().collect();
        if told.insert(members) {
            let imports = round.windows(2).filter_map(|step| edges.get(&(step[0], step[1])));
            let steps = imports
                .map(|import| format!("{} uses {}", import.place(files), files[import.to].path));
            found.push(steps.collect::<Vec<_>>().join("\n    "));
        }
    }
    found
}

#[test]
fn no_files_use_each_other() {
    let mut found = Vec::new();
    let mut stale: BTreeSet<&(&str, &str)> = OPEN.iter().collect();
    for unit in CRATES.iter() {
        let mut edges = edges(unit);
        let number = |path: &str| unit.files.iter().position(|file| file.path == path);
        let known: Vec<_> = OPEN
            .iter()
            .filter_map(|open| Some((open, (number(open.0)?, number(open.1)?))))
            .collect();
        for (open, (from, to)) in &known {
            if edges.contains_key(&(*from, *to)) && way(&edges, *to, *from).is_some() {
                stale.remove(open);
            }
        }
        for (_, edge) in known {
            edges.remove(&edge);
        }
        found.extend(circles(&unit.files, &edges));
    }
    expect_none("files that use each other", &found);
    let stale = stale.iter().map(|(from, to)| format!("{from} -> {to}: closes no circle any more"));
    expect_none("exceptions to take out of OPEN", &stale.collect::<Vec<_>>());
}
