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
    /// The kind of the faults.
    pub kind: FaultKind,
    /// Whether they opened (a warning) or closed.
    pub direction: Direction,
    /// The reason: one word for machines.
    pub reason: &'static str,
    /// The text for people.
    pub note: String,
    /// The event of the last minutes that said the same, if there is one.
    pub series: Option<Series>,
}

/// Whether faults opened or closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// They opened.
    Opened,
    /// They closed.
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

/// An event's reason, by kind: (opened, closed). Reasons are API.
#[must_use]
pub fn reasons(kind: FaultKind) -> (&'static str, &'static str) {
    match kind {
        FaultKind::FilesystemRo => ("ReadonlyFilesystem", "ReadonlyFilesystemOver"),
        FaultKind::FilesystemError => ("FilesystemError", "FilesystemErrorOver"),
        FaultKind::IoError => ("DiskIOError", "DiskIOErrorOver"),
        FaultKind::IoStall => ("DiskStalled", "DiskStalledOver"),
    }
}

type Key = (Direction, FaultKind);

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
        };
        self.add((Direction::Opened, fault.kind), format!("{}{scope}", fault.reason));
        self.open.insert(fault.id.clone(), fault);
    }

    fn closed(&mut self, fault: &Fault) {
        self.add((Direction::Closed, fault.kind), fault.reason.clone());
        self.open.remove(&fault.id);
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
        let key @ (direction, kind) = *self.order.front()?;
        let note = note(direction, self.pending.get(&key)?);
        let (opened, closed) = reasons(kind);
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
        Some(NodeEvent { kind, direction, reason, note, series })
    }

    /// The event of [`Self::next`] was written under that name. No change may be recorded between the two.
    pub fn wrote(&mut self, event: &NodeEvent, name: String, now: Instant) {
        let key = (event.direction, event.kind);
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
        let key = (event.direction, event.kind);
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

fn note(direction: Direction, pending: &Pending) -> String {
    let texts = pending.texts.join("; ");
    let more = usize::try_from(pending.count).unwrap_or(usize::MAX) - pending.texts.len();
    let mut note = match (direction, pending.count) {
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
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::checks::tests::fault;

    fn io(id: usize) -> Fault {
        Fault {
            id: format!("io_error-7:{id}"),
            reason: format!("loop{id}: EIO"),
            ..fault(FaultKind::IoError, Scope::Host)
        }
    }

    fn opened_at(seconds: u64, fault: Fault) -> Fault {
        Fault { opened: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), ..fault }
    }

    /// A recorder, and the numbers that the kernel task gives to changes.
    #[derive(Default)]
    struct Recorder {
        recorder: EventRecorder,
        sequence: u64,
    }

    impl Recorder {
        fn record(&mut self, transition: Transition, faults: impl IntoIterator<Item = Fault>) {
            for fault in faults {
                self.sequence += 1;
                let (sequence, at) = (self.sequence, SystemTime::UNIX_EPOCH);
                let fault = Arc::new(fault);
                self.recorder.record(&FaultChange { sequence, at, transition, fault });
            }
        }

        /// Every event that is due, written at `now`: direction, reason and note.
        fn write_all(&mut self, now: Instant) -> Vec<(Direction, &'static str, String)> {
            let mut written = Vec::new();
            while let Some(event) = self.recorder.next(now) {
                self.recorder.wrote(&event, format!("e{}", written.len()), now);
                written.push((event.direction, event.reason, event.note));
            }
            written
        }
    }

    fn event(direction: Direction, note: &str) -> (Direction, &'static str, String) {
        let (opened, closed) = reasons(FaultKind::IoError);
        let reason = if direction == Direction::Opened { opened } else { closed };
        (direction, reason, note.to_owned())
    }

    #[test]
    fn a_fault_is_one_event_when_it_opens_and_one_when_it_closes() {
        use Direction::{Closed, Opened};
        let (mut recorder, now) = (Recorder::default(), Instant::now());
        assert_eq!(recorder.write_all(now), []);
        recorder.record(Transition::Opened, [io(1)]);
        assert_eq!(recorder.write_all(now), [event(Opened, "loop1: EIO")]);
        // The same fault with another text is the same fault.
        let again = Fault { reason: "loop1: EIO again".into(), ..io(1) };
        recorder.record(Transition::Updated, [again.clone()]);
        assert_eq!(recorder.write_all(now), []);
        recorder.record(Transition::Closed, [again]);
        assert_eq!(recorder.write_all(now), [event(Closed, "no longer: loop1: EIO again")]);
        // A fault that opens and closes between two writes, and one that closes and opens.
        recorder.record(Transition::Opened, [io(2)]);
        recorder.record(Transition::Closed, [io(2)]);
        let both = [event(Opened, "loop2: EIO"), event(Closed, "no longer: loop2: EIO")];
        assert_eq!(recorder.write_all(now), both);
        recorder.record(Transition::Opened, [io(2)]);
        let _opened = recorder.write_all(now);
        recorder.record(Transition::Closed, [io(2)]);
        recorder.record(Transition::Opened, [opened_at(1, io(2))]);
        let both = [event(Closed, "no longer: loop2: EIO"), event(Opened, "loop2: EIO")];
        assert_eq!(recorder.write_all(now), both);
    }

    #[test]
    fn a_gap_in_the_stream_is_filled_from_the_view() {
        use Direction::{Closed, Opened};
        let (mut recorder, now) = (Recorder::default(), Instant::now());
        recorder.record(Transition::Opened, [io(1), io(2), io(3)]);
        let _opened = recorder.write_all(now);
        // In the gap: 1 closed, 2 closed and opened again, 4 opened.
        let faults = vec![opened_at(9, io(2)), io(3), io(4)];
        recorder.recorder.resync(&FaultView { faults, sequence: 7, ..FaultView::default() });
        let closed = event(Closed, "no longer, 2 faults: loop1: EIO; loop2: EIO");
        let opened = event(Opened, "2 faults: loop2: EIO; loop4: EIO");
        assert_eq!(recorder.write_all(now), [closed, opened]);
        // The rest of the stream up to the view is no news; what comes after it is.
        recorder.sequence = 5;
        recorder.record(Transition::Opened, [opened_at(9, io(2)), io(4)]);
        assert_eq!(recorder.write_all(now), []);
        recorder.record(Transition::Closed, [io(4)]);
        assert_eq!(recorder.write_all(now), [event(Closed, "no longer: loop4: EIO")]);
    }

    #[test]
    fn faults_of_a_kind_share_an_event_of_bounded_size() {
        let (mut recorder, now) = (Recorder::default(), Instant::now());
        recorder.record(Transition::Opened, [io(1), io(2)]);
        assert_eq!(recorder.recorder.next(now).unwrap().note, "2 faults: loop1: EIO; loop2: EIO");
        let many = (0..1000).map(|id| Fault { reason: "ü".repeat(1000), ..io(id) });
        recorder.record(Transition::Opened, many);
        let note = recorder.recorder.next(now).unwrap().note;
        assert!(note.len() <= 1024 && note.ends_with("…; and 998 more"), "{note}");
        // Another kind is another event: after this one, or before it where this one cannot be written.
        recorder.record(Transition::Opened, [fault(FaultKind::IoStall, Scope::Volume)]);
        let recorder = &mut recorder.recorder;
        let first = recorder.next(now).unwrap();
        assert_eq!((first.kind, first.direction), (FaultKind::IoError, Direction::Opened));
        recorder.postpone(&first);
        let second = recorder.next(now).unwrap();
        assert_eq!(second.note, "loop3 (7:3) ext4 on /mnt/x: io_stall [a pod's volume]");
        recorder.wrote(&second, "a".into(), now);
        assert_eq!(recorder.next(now), Some(first));
    }

    #[test]
    fn a_repetition_is_counted_up_for_some_minutes() {
        let (mut recorder, start) = (Recorder::default(), Instant::now());
        let mut series = Vec::new();
        for (turn, minutes) in [0, 1, 2, 20].into_iter().enumerate() {
            let now = start + Duration::from_mins(minutes);
            recorder.record(Transition::Opened, [opened_at(minutes, io(1))]);
            let event = recorder.recorder.next(now).unwrap();
            series.push(event.series.clone());
            let name =
                event.series.clone().map_or_else(|| format!("e{turn}"), |series| series.name);
            recorder.recorder.wrote(&event, name, now);
            recorder.record(Transition::Closed, [opened_at(minutes, io(1))]);
            let over = recorder.recorder.next(now).unwrap();
            recorder.recorder.wrote(&over, "over".into(), now);
        }
        let counted = |count| Some(Series { name: "e0".into(), count });
        assert_eq!(series, [None, counted(2), counted(3), None]);
        recorder.recorder.forget("e3");
        recorder.record(Transition::Opened, [io(1)]);
        assert_eq!(recorder.recorder.next(start + Duration::from_mins(20)).unwrap().series, None);
    }
}
