//! Lists that are being read, and versions of objects.

use std::{collections::HashSet, hash::Hash};

/// A list that is being read: what is not in it when it is complete is gone.
#[derive(Debug)]
pub(super) struct List<K> {
    /// Names that it has told so far, while it is being read.
    told: Option<HashSet<K>>,
    /// Whether one has been complete.
    pub(super) synced: bool,
}

impl<K> Default for List<K> {
    fn default() -> Self {
        Self { told: None, synced: false }
    }
}

impl<K: Eq + Hash> List<K> {
    pub(super) fn begin(&mut self) {
        self.told = Some(HashSet::new());
    }

    pub(super) fn tell(&mut self, name: K) {
        if let Some(told) = &mut self.told {
            told.insert(name);
        }
    }

    pub(super) fn end(&mut self) -> HashSet<K> {
        self.synced = true;
        self.told.take().unwrap_or_default()
    }
}

/// Whether an object of version `new` is older than one of version `old`. Versions of one resource can be compared as
/// numbers (KEP-5504); where they are none, the later word counts.
pub(super) fn is_older(new: &str, old: &str) -> bool {
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new < old,
        _ => false,
    }
}
