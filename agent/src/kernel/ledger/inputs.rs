//! What an event, a snapshot and a reading of the kernel's counters each change.

use std::sync::Arc;

use tocsin_ebpf::Kind;

use super::{
    state::Ledger,
    types::{Key, Now},
};
use crate::{
    kernel::{
        ebpf::reader::{Count, Event},
        sampling::snapshot::Snapshot,
    },
    model::FaultKind,
};

/// 256 events on devices that no known filesystem is on. They wait for the next snapshot, some milliseconds; the kernel
/// sends ten a second per (kind, device), so there is room for many devices at once.
const WAITING: usize = 256;

/// What an event says about its device. A new kind of event is an arm of [`Meaning::of`].
enum Meaning {
    /// Nothing is wrong: the event is benign, or only a reason to take a snapshot.
    Nothing,
    /// A filesystem found an error in its own structures; with the name of what found it.
    FilesystemError(&'static str),
    /// A filesystem shuts down.
    Shutdown,
    /// Written data did not reach the disk.
    LostWrite,
    /// A request of a disk or of a metadata buffer failed.
    FailedRequest,
}

impl Meaning {
    fn of(event: &Event) -> Self {
        if event.is_benign() {
            return Self::Nothing;
        }
        match event.kind {
            Kind::MountChange => Self::Nothing,
            Kind::Ext4Error => Self::FilesystemError("ext4_error"),
            Kind::F2fsError => Self::FilesystemError("f2fs_fault_report"),
            Kind::XfsBuffer if event.is_corruption() => {
                Self::FilesystemError("metadata verification")
            }
            Kind::Ext4Shutdown | Kind::XfsShutdown | Kind::F2fsShutdown => Self::Shutdown,
            Kind::Writeback => Self::LostWrite,
            Kind::BlockRead
            | Kind::BlockWrite
            | Kind::BlockFlush
            | Kind::BlockDiscard
            | Kind::BlockZeroes
            | Kind::BlockReadahead
            | Kind::BioRead
            | Kind::BioWrite
            | Kind::BioFlush
            | Kind::BioDiscard
            | Kind::BioZeroes
            | Kind::BioReadahead
            | Kind::XfsBuffer => Self::FailedRequest,
        }
    }
}

impl Ledger {
    /// Takes in an event of the kernel. False if no known filesystem is on its device: then it waits for the next
    /// snapshot.
    pub fn event(&mut self, event: &Event, now: Now) -> bool {
        let handled = self.handled.entry((event.kind, event.dev)).or_default();
        *handled = event.ktime.max(*handled);
        let is_known = self.try_event(event, now);
        if !is_known {
            if self.waiting.len() == WAITING {
                self.waiting.pop_front();
                self.forgotten += 1;
            }
            self.waiting.push_back(*event);
        }
        is_known
    }

    /// Takes in an event, unless no known filesystem is on its device; then returns false.
    fn try_event(&mut self, event: &Event, now: Now) -> bool {
        let event = &Event { dev: self.table.head(event.dev), ..*event };
        match Meaning::of(event) {
            Meaning::Nothing => true,
            Meaning::FilesystemError(source) => {
                self.filesystem_error(event.dev, event, source, now)
            }
            Meaning::Shutdown => self.shut_down(event, now),
            // The errno of this event is that of the loss before it (`mapping->wb_err` before it is set, 6.18).
            Meaning::LostWrite => self.lost_write(&Event { errno: 0, ..*event }, now),
            Meaning::FailedRequest => self.io_error(event, now),
        }
    }

    /// Takes in a snapshot. The first one is the baseline.
    pub fn snapshot(&mut self, snapshot: &Snapshot, now: Now) {
        let changed = !Arc::ptr_eq(&self.table, &snapshot.table) && self.table != snapshot.table;
        self.table = snapshot.table.clone();
        self.looked_at = snapshot.at;
        if changed {
            // Scope and mount points of open faults may have changed.
            self.version += 1;
        }
        self.update_superblocks(snapshot, changed, now);
        self.update_progress(snapshot, now);
        self.started = true;
        for event in std::mem::take(&mut self.waiting) {
            // An event younger than the snapshot may be about a filesystem that was mounted after it.
            if !self.try_event(&event, now) && event.ktime > snapshot.at {
                self.waiting.push_back(event);
            }
        }
        self.close_unused();
        self.look_out(now);
        self.forget_unmounted();
        self.close_quiet(now);
    }

    /// Takes in a reading of the kernel's exact counters. They correct the counts of open faults, and they stand in for
    /// events that found no room in the ring buffer.
    pub fn counted(&mut self, counts: &[Count], now: Now) {
        for count in counts {
            let before =
                self.counts.insert((count.kind, count.dev, count.errno), count.count).unwrap_or(0);
            let new = count.count.saturating_sub(before);
            if new == 0 {
                continue;
            }
            let event = Event {
                ktime: count.last,
                kind: count.kind,
                dev: count.dev,
                errno: count.errno,
                place: 0,
                detail: 0,
            };
            if self
                .handled
                .get(&(count.kind, count.dev))
                .is_none_or(|handled| *handled < count.last)
            {
                self.event(&event, now);
            }
            let event = Event { dev: self.table.head(event.dev), ..event };
            if let Some(key) = self.key_of(&event)
                && let Some(entry) = self.faults.get_mut(&key)
                && entry.kernel_ns.is_none_or(|first| first <= count.last)
            {
                entry.counted += new;
                self.version += 1;
            }
        }
    }

    /// The fault to which an event of this kind and device belongs.
    fn key_of(&self, event: &Event) -> Option<Key> {
        let kind = match Meaning::of(event) {
            // One lost write gives an event for each page, which says nothing about the number of losses.
            Meaning::Nothing | Meaning::LostWrite => return None,
            Meaning::FilesystemError(_) => FaultKind::FilesystemError,
            Meaning::Shutdown => FaultKind::FilesystemRo,
            Meaning::FailedRequest => return Some(self.request_key(event)),
        };
        Some((kind, event.dev))
    }

    /// The fault to which a failed request belongs. The number of a metadata buffer's is that of the filesystem.
    pub(super) fn request_key(&self, event: &Event) -> Key {
        match event.kind {
            Kind::XfsBuffer => self.io_key(event.dev),
            _ => (FaultKind::IoError, event.dev),
        }
    }

    /// Closes the faults of what is not mounted any more.
    fn close_unused(&mut self) {
        let table = self.table.clone();
        let unused: Vec<Key> = self
            .faults
            .keys()
            .copied()
            .filter(|(kind, dev)| match kind {
                FaultKind::FilesystemRo | FaultKind::FilesystemError => {
                    !table.filesystems.contains_key(dev)
                }
                FaultKind::IoError | FaultKind::IoStall => table.users(*dev).next().is_none(),
            })
            .collect();
        for key in unused {
            self.close(key);
        }
    }
}
