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
    let (opened, closed) = reasons(Subject::Faults(FaultKind::IoError));
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
    assert_eq!(
        (first.subject, first.direction),
        (Subject::Faults(FaultKind::IoError), Direction::Opened)
    );
    recorder.postpone(&first);
    let second = recorder.next(now).unwrap();
    assert_eq!(second.note, "loop3 (7:3) ext4 on /mnt/x: io_stall [a pod's volume]");
    recorder.wrote(&second, "a".into(), now);
    assert_eq!(recorder.next(now), Some(first));
}

#[test]
fn a_notice_is_an_event_of_its_own() {
    let (mut recorder, now) = (Recorder::default(), Instant::now());
    recorder.record(Transition::Opened, [io(1)]);
    for (direction, text) in [(Direction::Opened, "3 of 5"), (Direction::Closed, "over")] {
        let (subject, text) = (Subject::StormGuard, text.to_owned());
        recorder.recorder.notice(Notice { subject, direction, text });
    }
    let expected = [
        event(Direction::Opened, "loop1: EIO"),
        (Direction::Opened, "StormGuard", "3 of 5".to_owned()),
        (Direction::Closed, "StormGuardOver", "over".to_owned()),
    ];
    assert_eq!(recorder.write_all(now), expected);
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
        let name = event.series.clone().map_or_else(|| format!("e{turn}"), |series| series.name);
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
