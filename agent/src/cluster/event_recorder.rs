//! Decides which events to write about faults that open and close: pure.
//!
//! Faults of one kind that open (or close) before the next write share one event. An event that repeats one of the last
//! minutes is counted up instead of being written again.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use super::settings;
use crate::model::{Fault, FaultChange, FaultKind, FaultView, Scope, Transition};

/// 4 faults are named in one event: the API takes a note of 1 KiB.
const TEXTS: usize = 4;
/// 960 bytes of a note, with room for the number of faults that are not named: the API takes 1,024.
const NOTE: usize = 960;
/// 64 events are remembered for being counted up: four kinds of fault, two directions, and eight notes of each.
const SERIES: usize = 64;

/// An event about the Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent {
    /// What it is about.
    pub subject: Subject,
    /// Whether that began (a warning) or ended.
    pub direction: Direction,
    /// The reason: one word for machines.
    pub reason: &'static str,
    /// The text for people.
    pub note: String,
    /// The event of the last minutes that said the same, if there is one.
    pub series: Option<Series>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// Faults of that kind.
    Faults(FaultKind),
    /// A check that fails on so many nodes that failing it takes none of them out.
    StormGuard,
}

/// Something that began or ended and is no fault of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it is about.
    pub subject: Subject,
    /// Whether it began or ended.
    pub direction: Direction,
    /// The text for people.
    pub text: String,
}

/// Whether something began or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It began.
    Opened,
    /// It ended.
    Closed,
}

/// An event that is in the API already and is counted up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The event's name.
    pub name: String,
    /// How often it happened, this time included.
    pub count: i32,
}

/// An event's reason, by subject: (began, ended). Reasons are API.
#[must_use]
pub fn reasons(subject: Subject) -> (&'static str, &'static str) {
    match subject {
        Subject::Faults(FaultKind::FilesystemRo) => {
            ("ReadonlyFilesystem", "ReadonlyFilesystemOver")
        }
        Subject::Faults(FaultKind::FilesystemError) => ("FilesystemError", "FilesystemErrorOver"),
        Subject::Faults(FaultKind::IoError) => ("DiskIOError", "DiskIOErrorOver"),
        Subject::Faults(FaultKind::IoStall) => ("DiskStalled", "DiskStalledOver"),
        Subject::StormGuard => ("StormGuard", "StormGuardOver"),
    }
}

type Key = (Direction, Subject);

/// Changes that wait to be written as one event.
#[derive(Debug, Default)]
struct Pending {
    count: u32,
    texts: Vec<String>,
}

#[derive(Debug)]
struct Written {
    reason: &'static str,
    note: String,
    series: Series,
    at: Instant,
}

/// Collects changes of faults, and makes events of them.
#[derive(Debug, Default)]
pub struct EventRecorder {
    /// The number of the last change that was taken in.
    sequence: u64,
    /// The open faults by id, as the changes left them: what [`Self::resync`] compares the view with.
    open: BTreeMap<String, Arc<Fault>>,
    pending: BTreeMap<Key, Pending>,
    /// The keys of `pending`, next one first.
    order: VecDeque<Key>,
    written: VecDeque<Written>,
}

impl EventRecorder {
    /// Takes in one change of the kernel task's stream.
    pub fn record(&mut self, change: &FaultChange) {
        let FaultChange { sequence, at: _, transition, fault } = change;
        // A change that `resync` has taken from the view already.
        if *sequence <= self.sequence {
            return;
        }
        self.sequence = *sequence;
        match transition {
            Transition::Opened => self.opened(fault.clone()),
            Transition::Updated => {
                self.open.insert(fault.id.clone(), fault.clone());
            }
            Transition::Closed => self.closed(fault),
        }
    }

    /// Recovers from a gap in the stream: takes in what is open by the view. Faults that opened and closed within the
    /// gap are lost.
    pub fn resync(&mut self, view: &FaultView) {
        let FaultView { faults, sequence, .. } = view;
        let before = self.open.clone();
        let same =
            |fault: &Fault, other: &Fault| fault.id == other.id && fault.opened == other.opened;
        for fault in before.values() {
            if !faults.iter().any(|other| same(fault, other)) {
                self.closed(fault);
            }
        }
        for fault in faults {
            if !before.get(&fault.id).is_some_and(|other| same(fault, other)) {
                self.opened(Arc::new(fault.clone()));
            }
        }
        self.sequence = *sequence;
    }

    fn opened(&mut self, fault: Arc<Fault>) {
        let scope = match fault.scope {
            Scope::Host => "",
            Scope::Volume => " [a pod's volume]",
            Scope::Member => " [a member of a redundant device]",
            Scope::Ignored => " [ignored by the operator]",
        };
        self.add(
            (Direction::Opened, Subject::Faults(fault.kind)),
            format!("{}{scope}", fault.reason),
        );
        self.open.insert(fault.id.clone(), fault);
    }

    fn closed(&mut self, fault: &Fault) {
        self.add((Direction::Closed, Subject::Faults(fault.kind)), fault.reason.clone());
        self.open.remove(&fault.id);
    }

    /// Takes in something that is no fault.
    pub fn notice(&mut self, notice: Notice) {
        let Notice { subject, direction, text } = notice;
        self.add((direction, subject), text);
    }

    fn add(&mut self, key: Key, text: String) {
        // Events are written in the order of their last change.
        self.order.retain(|other| *other != key);
        self.order.push_back(key);
        let pending = self.pending.entry(key).or_default();
        pending.count = pending.count.saturating_add(1);
        if pending.texts.len() < TEXTS {
            pending.texts.push(text);
        }
    }

    /// The event to write next.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<NodeEvent> {
        let key @ (direction, subject) = *self.order.front()?;
        let note = note(key, self.pending.get(&key)?);
        let (opened, closed) = reasons(subject);
        let reason = match direction {
            Direction::Opened => opened,
            Direction::Closed => closed,
        };
        let same = self.written.iter().find(|written| {
            written.reason == reason
                && written.note == note
                && now.saturating_duration_since(written.at) < settings::EVENT_SERIES
        });
        let series = same.map(|Written { series: Series { name, count }, .. }| Series {
            name: name.clone(),
            count: count.saturating_add(1),
        });
        Some(NodeEvent { subject, direction, reason, note, series })
    }

    /// The event of [`Self::next`] was written under that name. No change may be recorded between the two.
    pub fn wrote(&mut self, event: &NodeEvent, name: String, now: Instant) {
        let key = (event.direction, event.subject);
        self.order.retain(|other| *other != key);
        self.pending.remove(&key);
        let count = event.series.as_ref().map_or(1, |series| series.count);
        self.forget(&name);
        if self.written.len() == SERIES {
            self.written.pop_front();
        }
        let (reason, note) = (event.reason, event.note.clone());
        self.written.push_back(Written { reason, note, series: Series { name, count }, at: now });
    }

    /// The event could not be written: the others come first.
    pub fn postpone(&mut self, event: &NodeEvent) {
        let key = (event.direction, event.subject);
        if let Some(place) = self.order.iter().position(|other| *other == key) {
            self.order.remove(place);
            self.order.push_back(key);
        }
    }

    /// The event of that name can no longer be counted up.
    pub fn forget(&mut self, name: &str) {
        self.written.retain(|written| written.series.name != name);
    }
}

fn note((direction, subject): Key, pending: &Pending) -> String {
    let texts = pending.texts.join("; ");
    let more = usize::try_from(pending.count).unwrap_or(usize::MAX) - pending.texts.len();
    let mut note = match (direction, pending.count) {
        _ if subject == Subject::StormGuard => texts,
        (Direction::Opened, 1) => texts,
        (Direction::Opened, count) => format!("{count} faults: {texts}"),
        (Direction::Closed, 1) => format!("no longer: {texts}"),
        (Direction::Closed, count) => format!("no longer, {count} faults: {texts}"),
    };
    if note.len() > NOTE {
        let end = (0..=NOTE).rev().find(|end| note.is_char_boundary(*end)).unwrap_or_default();
        note.truncate(end);
        note.push('…');
    }
    if more > 0 {
        note.push_str(&format!("; and {more} more"));
    }
    note
}

#[cfg(test)]
mod tests;
