//! Which events to write about faults that open and close: pure.
//!
//! Faults of one kind that open (or close) before the next write share one event, and an event that says the same
//! as one of the last minutes is counted up instead of being written again.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Instant, SystemTime},
};

use crate::{
    cluster::settings,
    model::{Fault, FaultKind, Scope},
};

/// Texts kept for one event: the API takes a note of 1 KiB.
const TEXTS: usize = 4;
/// Bytes of a note, with room for what is added: the API takes 1,024.
const NOTE: usize = 960;
/// Events remembered for being counted up.
const SERIES: usize = 64;

/// An event to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The fault's kind.
    pub kind: FaultKind,
    /// Opened (a warning), or closed.
    pub opened: bool,
    /// One word for machines.
    pub reason: &'static str,
    /// What people read.
    pub note: String,
    /// The event of the last minutes that said the same, by name, and which repetition this is.
    pub series: Option<(String, i32)>,
}

#[derive(Debug, Default)]
struct Pending {
    count: u32,
    texts: Vec<String>,
}

#[derive(Debug)]
struct Written {
    reason: &'static str,
    note: String,
    name: String,
    count: i32,
    at: Instant,
}

/// What has been seen and is to be told.
#[derive(Debug, Default)]
pub struct Journal {
    open: BTreeMap<(String, SystemTime), (FaultKind, String)>,
    pending: BTreeMap<(bool, FaultKind), Pending>,
    order: VecDeque<(bool, FaultKind)>,
    written: VecDeque<Written>,
}

/// An event's reason, by kind: (opened, closed). They are API.
#[must_use]
pub fn reasons(kind: FaultKind) -> (&'static str, &'static str) {
    match kind {
        FaultKind::FilesystemRo => ("ReadonlyFilesystem", "ReadonlyFilesystemOver"),
        FaultKind::FilesystemError => ("FilesystemError", "FilesystemErrorOver"),
        FaultKind::IoError => ("DiskIOError", "DiskIOErrorOver"),
        FaultKind::IoStall => ("DiskStalled", "DiskStalledOver"),
    }
}

impl Journal {
    /// Takes in which faults are open now.
    pub fn see(&mut self, faults: &[Fault]) {
        let mut open = BTreeMap::new();
        for fault in faults {
            let id = (fault.id.clone(), fault.opened);
            if !self.open.contains_key(&id) {
                let whom = match fault.scope {
                    Scope::Host => "",
                    Scope::Volume => " [a pod's volume]",
                    Scope::Member => " [a member of a redundant device]",
                };
                self.add((true, fault.kind), format!("{}{whom}", fault.reason));
            }
            open.insert(id, (fault.kind, fault.reason.clone()));
        }
        for (id, (kind, reason)) in std::mem::take(&mut self.open) {
            if !open.contains_key(&id) {
                self.add((false, kind), reason);
            }
        }
        self.open = open;
    }

    fn add(&mut self, key: (bool, FaultKind), text: String) {
        // What happened last is told last.
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
    pub fn next(&self, now: Instant) -> Option<Event> {
        let key @ (opened, kind) = *self.order.front()?;
        let pending = self.pending.get(&key)?;
        let (reason_opened, reason_closed) = reasons(kind);
        let reason = if opened { reason_opened } else { reason_closed };
        let note = note(opened, pending);
        let same = self.written.iter().find(|written| {
            written.reason == reason
                && written.note == note
                && now.saturating_duration_since(written.at) < settings::EVENT_SERIES
        });
        let series = same.map(|written| (written.name.clone(), written.count.saturating_add(1)));
        Some(Event { kind, opened, reason, note, series })
    }

    /// It was written under that name.
    pub fn wrote(&mut self, event: &Event, name: String, now: Instant) {
        self.gone(event);
        let count = event.series.as_ref().map_or(1, |(_, count)| *count);
        self.written.retain(|written| written.name != name);
        if self.written.len() == SERIES {
            self.written.pop_front();
        }
        let (reason, note) = (event.reason, event.note.clone());
        self.written.push_back(Written { reason, note, name, count, at: now });
    }

    /// It could not be written: the others come first.
    pub fn postpone(&mut self, event: &Event) {
        let key = (event.opened, event.kind);
        if let Some(place) = self.order.iter().position(|other| *other == key) {
            self.order.remove(place);
            self.order.push_back(key);
        }
    }

    /// The event that it would have counted up is not there any more.
    pub fn forget(&mut self, name: &str) {
        self.written.retain(|written| written.name != name);
    }

    /// What came in since the event was made stays to be told.
    fn gone(&mut self, event: &Event) {
        let key = (event.opened, event.kind);
        self.order.retain(|other| *other != key);
        self.pending.remove(&key);
    }
}

fn note(opened: bool, pending: &Pending) -> String {
    let texts = pending.texts.join("; ");
    let more = usize::try_from(pending.count).unwrap_or(usize::MAX) - pending.texts.len();
    let mut note = match (opened, pending.count) {
        (true, 1) => texts,
        (true, count) => format!("{count} faults: {texts}"),
        (false, 1) => format!("no longer: {texts}"),
        (false, count) => format!("no longer, {count} faults: {texts}"),
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
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::checks::tests::fault;

    fn io(id: usize) -> Fault {
        Fault {
            id: format!("io_error-7:{id}"),
            reason: format!("loop{id}: EIO"),
            ..fault(FaultKind::IoError, Scope::Host)
        }
    }

    #[test]
    fn faults_are_told_once_when_they_open_and_once_when_they_close() {
        let (mut journal, now) = (Journal::default(), Instant::now());
        journal.see(&[]);
        assert_eq!(journal.next(now), None);
        journal.see(&[io(1)]);
        let event = journal.next(now).unwrap();
        assert_eq!(
            (event.opened, event.reason, event.note.as_str()),
            (true, "DiskIOError", "loop1: EIO")
        );
        journal.wrote(&event, "a".into(), now);
        // The same fault with another text is the same fault.
        journal.see(&[Fault { reason: "loop1: EIO again".into(), ..io(1) }]);
        assert_eq!(journal.next(now), None);
        journal.see(&[]);
        let event = journal.next(now).unwrap();
        assert_eq!(
            (event.opened, event.reason, event.note.as_str()),
            (false, "DiskIOErrorOver", "no longer: loop1: EIO again")
        );
        journal.wrote(&event, "b".into(), now);
        assert_eq!(journal.next(now), None);
        // Opened anew between two looks: a new fault, and the old one closed.
        journal.see(&[io(1)]);
        journal.wrote(&journal.next(now).unwrap(), "c".into(), now);
        journal.see(&[Fault { opened: SystemTime::UNIX_EPOCH + Duration::from_secs(1), ..io(1) }]);
        assert!(journal.next(now).unwrap().opened);
        journal.wrote(&journal.next(now).unwrap(), "d".into(), now);
        assert!(!journal.next(now).unwrap().opened);
    }

    #[test]
    fn faults_of_a_kind_share_an_event_of_bounded_size() {
        let (mut journal, now) = (Journal::default(), Instant::now());
        journal.see(&[io(1), io(2)]);
        assert_eq!(journal.next(now).unwrap().note, "2 faults: loop1: EIO; loop2: EIO");
        let many: Vec<_> =
            (0..1000).map(|id| Fault { reason: "ü".repeat(1000), ..io(id) }).collect();
        journal.see(&many);
        let note = journal.next(now).unwrap().note;
        assert!(note.len() <= 1024 && note.ends_with("…; and 996 more"), "{note}");
        // Another kind is another event, after this one, or before it where this one cannot be written.
        let stall = fault(FaultKind::IoStall, Scope::Volume);
        journal.see(&[&many[..], &[stall]].concat());
        let first = journal.next(now).unwrap();
        assert_eq!((first.kind, first.opened), (FaultKind::IoError, true));
        journal.postpone(&first);
        let second = journal.next(now).unwrap();
        assert_eq!(second.note, "loop3 (7:3) ext4 on /mnt/x: io_stall [a pod's volume]");
        journal.wrote(&second, "a".into(), now);
        assert_eq!(journal.next(now), Some(first));
    }

    #[test]
    fn a_repetition_is_counted_up_for_some_minutes() {
        let (mut journal, start) = (Journal::default(), Instant::now());
        let mut series = Vec::new();
        for (turn, minutes) in [0, 1, 2, 20].into_iter().enumerate() {
            let now = start + Duration::from_mins(minutes);
            let opened = SystemTime::UNIX_EPOCH + Duration::from_secs(minutes);
            journal.see(&[Fault { opened, ..io(1) }]);
            let event = journal.next(now).unwrap();
            series.push(event.series.clone());
            let name = event.series.clone().map_or_else(|| format!("e{turn}"), |(name, _)| name);
            journal.wrote(&event, name, now);
            journal.see(&[]);
            let over = journal.next(now).unwrap();
            journal.wrote(&over, "over".into(), now);
        }
        assert_eq!(series, [None, Some(("e0".into(), 2)), Some(("e0".into(), 3)), None]);
        journal.forget("e3");
        journal.see(&[io(1)]);
        assert_eq!(journal.next(start + Duration::from_mins(20)).unwrap().series, None);
    }
}
