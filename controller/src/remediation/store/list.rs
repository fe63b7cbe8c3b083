//! Lists that are being read, and versions of objects.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use jiff::{SignedDuration, Timestamp};

/// 10 seconds: a list that was asked for before a write, and does not have what it made, has come by then.
const UNCONFIRMED: SignedDuration = SignedDuration::from_secs(10);

/// Who tells of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Teller {
    /// A list, which has everything.
    List,
    /// A watch.
    Watch,
    /// The API server's answer to a write of ours.
    Answer,
}

/// What is known of the objects of one kind: the list that is being read, and writes of ours that no watch has told yet.
#[derive(Debug)]
pub(super) struct List<K> {
    /// Names that it has told so far, while it is being read.
    told: Option<HashSet<K>>,
    /// Objects that are known from the answer to a write of ours only, since when.
    ours: HashMap<K, Timestamp>,
    /// Those of them that a later list did not have.
    doubted: HashSet<K>,
    /// Whether one has been complete.
    pub(super) synced: bool,
}

impl<K> Default for List<K> {
    fn default() -> Self {
        Self { told: None, ours: HashMap::new(), doubted: HashSet::new(), synced: false }
    }
}

impl<K: Eq + Hash + Clone> List<K> {
    pub(super) fn begin(&mut self) {
        self.told = Some(HashSet::new());
    }

    /// Whether a word about an object counts; `versions` are that of the word, and the one that is known.
    ///
    /// What a watch tells of an older version is from before our write. A list that has an older version is right
    /// unless we have just written: the API server's store was put back to what it was.
    pub(super) fn hears(
        &mut self,
        name: &K,
        teller: Teller,
        (new, known): (&str, Option<&str>),
        now: Timestamp,
    ) -> bool {
        if let (Teller::List, Some(told)) = (teller, &mut self.told) {
            told.insert(name.clone());
        }
        let is_older = known.is_some_and(|known| is_older(new, known));
        let counts = match teller {
            Teller::List => !is_older || !self.is_unconfirmed(name, now),
            Teller::Watch | Teller::Answer => !is_older,
        };
        if counts {
            self.doubted.remove(name);
            match teller {
                Teller::Answer => drop(self.ours.insert(name.clone(), now)),
                Teller::List | Teller::Watch => drop(self.ours.remove(name)),
            }
        }
        counts
    }

    fn is_unconfirmed(&self, name: &K, now: Timestamp) -> bool {
        self.ours.get(name).is_some_and(|at| now.duration_since(*at) < UNCONFIRMED)
    }

    /// The list is complete: whether an object that is known is still there.
    pub(super) fn end(&mut self, now: Timestamp) -> impl Fn(&K) -> bool + use<K> {
        self.synced = true;
        let mut there = self.told.take().unwrap_or_default();
        self.ours.retain(|_, at| now.duration_since(*at) < UNCONFIRMED);
        self.doubted = self.ours.keys().filter(|name| !there.contains(*name)).cloned().collect();
        there.extend(self.doubted.iter().cloned());
        move |name| there.contains(name)
    }

    /// Objects that a list did not have, and that no watch has told of in time: they are gone.
    pub(super) fn gone(&mut self, now: Timestamp) -> Vec<K> {
        let over = self.doubted.iter().filter(|name| !self.is_unconfirmed(name, now));
        let gone: Vec<_> = over.cloned().collect();
        for name in &gone {
            self.doubted.remove(name);
            self.ours.remove(name);
        }
        gone
    }
}

/// Whether an object of version `new` is older than one of version `old`. Versions of one resource can be compared as
/// numbers (KEP-5504); where they are none, the later word counts.
fn is_older(new: &str, old: &str) -> bool {
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new < old,
        _ => false,
    }
}
