//! What is known of each superblock: whether it can still be written, and errors it found in itself.

use std::collections::BTreeSet;

use super::{Entry, Key, Ledger, Mono, Now, probes::Schedule};
use crate::{
    errno,
    kernel::{
        looker::Look,
        mounts::{Filesystem, Mark},
        reader::Event,
        sysfs::BtrfsErrors,
    },
    model::{Dev, FaultKind},
};

/// ext4 writes its count of errors from a worker, some milliseconds after the tracepoint.
const COUNTED_WITHIN: Mono = 100_000_000;

/// The filesystem of block devices' own caches is made at boot, among the first: 0:3 to 0:6 have been seen.
/// Anything that a user mounts (an NFS or FUSE inode can look like a device number) comes later.
const INTERNAL_MINORS: u32 = 16;

/// Evidence that a filesystem cannot be written. Any of it opens a fault; all of it gone closes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    /// The mount table says so: `emergency_ro`, `shutdown` or `ro`.
    pub(super) level: Option<&'static str>,
    /// A probe was refused.
    pub(super) refused: Option<i32>,
    /// Looking at the root directory fails.
    pub(super) root: Option<i32>,
    /// The kernel announced a shutdown at this time.
    pub(super) announced: Option<Mono>,
}

impl Lost {
    fn any(&self) -> bool {
        self.level.is_some() || self.is_hidden()
    }

    /// Only a probe can tell when this is over.
    pub(super) fn is_hidden(&self) -> bool {
        self.refused.is_some() || self.root.is_some() || self.announced.is_some()
    }
}

/// What is known of one superblock.
#[derive(Clone, Debug, Default)]
pub(super) struct Superblock {
    pub(super) mount_ids: BTreeSet<i32>,
    /// It was read-only when it was first seen, without a sign of an error: so it shall be.
    pub(super) on_purpose: bool,
    /// The operator cleared its fault while this mark was there.
    pub(super) accepted: Option<&'static str>,
    pub(super) lost: Lost,
    /// Errors that it remembered before, and so are not new; `None` until the next look sets it.
    ext4: Option<u64>,
    pub(super) btrfs: Option<BtrfsErrors>,
    /// The operator accepted that it is lost: until it is written again, another life, or a new event.
    pub(super) loss_accepted: bool,
    /// When it was first seen in this life, or accepted as it was: what began before says nothing.
    pub(super) accepted_at: Mono,
    /// A look older than this must not set the above.
    pub(super) baseline_after: Mono,
    /// Writes were lost and the kernel did not say why: a full filesystem is no fault.
    pub(super) unexplained: Option<Event>,
    pub(super) probes: Schedule,
    /// The last write probe could not be synced.
    pub(super) sync_failed: bool,
    /// Why the last write probe could not be made.
    pub(super) unable: Option<String>,
}

impl Ledger {
    pub(super) fn update_superblocks(&mut self, look: &Look, table_changed: bool, now: Now) {
        let table = self.table.clone();
        self.superblocks.retain(|dev, _| table.filesystems.contains_key(dev));
        for filesystem in table.filesystems.values() {
            let is_new = !self.superblocks.contains_key(&filesystem.dev);
            self.update_superblock(filesystem, look, is_new, table_changed, now);
            self.remembered_errors(filesystem, look, is_new, now);
        }
    }

    fn update_superblock(
        &mut self,
        filesystem: &Filesystem,
        look: &Look,
        is_new: bool,
        table_changed: bool,
        now: Now,
    ) {
        let required =
            filesystem.mounts.iter().any(|m| self.rules.require_writable.contains(&m.point));
        let dev = filesystem.dev;
        let known = self.superblocks.entry(dev).or_default();
        let ids: BTreeSet<i32> = filesystem.mounts.iter().map(|mount| mount.id).collect();
        let remounted = look.ext4.get(&dev).is_some_and(|errors| errors.remounted);
        let is_other = !is_new && (remounted || known.mount_ids.is_disjoint(&ids));
        known.mount_ids = ids;
        if is_new || is_other {
            let broken = filesystem.is_ro_under_rw();
            known.on_purpose = filesystem.read_only && !required && !broken;
            known.accepted = None;
            known.loss_accepted = false;
            known.accepted_at = now.mono;
        }
        if is_other && filesystem.read_only && known.lost.is_hidden() {
            // No test write will tell about this life; its root directory does.
            let level = known.lost.level;
            known.lost = Lost { level, ..Lost::default() };
            known.probes.due.insert(now.mono);
        }
        if is_other {
            // Umounted and mounted again between two looks: what was known is about another life of it.
            known.ext4 = None;
            known.btrfs = None;
            known.baseline_after = 0;
            if known.lost.is_hidden() {
                known.probes.ask(now.mono);
            }
        }
        // A shut-down xfs shows nowhere but in its root directory: looked at when the agent starts, and, where
        // no event would tell of it, each time.
        let at_start = is_new && filesystem.is_writable_type() && !self.started;
        let each_time = !self.xfs_events && filesystem.fs_type == "xfs";
        if (at_start || each_time) && known.probes.due.is_empty() {
            known.probes.only_look = true;
            known.probes.due.insert(now.mono);
        }
        // What began read-only may go back to it (/usr does, on hosts that open it for updates only): then its
        // mount says so too.
        let on_purpose = known.on_purpose && !filesystem.is_ro_under_rw();
        let is_lost = filesystem.read_only && !on_purpose && filesystem.is_writable_type();
        let level = filesystem.mark.map(Mark::name).or_else(|| is_lost.then_some("ro"));
        if known.accepted.is_some() && known.accepted != level {
            known.accepted = None;
        }
        if table_changed && known.lost.is_hidden() {
            // It may have been mounted anew under the same number.
            known.probes.ask(now.mono);
        }
        let level = level.filter(|level| known.accepted != Some(*level));
        if known.lost.level.is_some() && level.is_none() && known.lost.is_hidden() {
            known.probes.ask(now.mono);
        }
        known.lost.level = level;
        if is_other {
            self.close((FaultKind::FilesystemError, dev));
        }
        self.settle(dev, None, now);
    }

    /// Errors that ext4 and btrfs remember. What was there at first sight is old: it outlives umount,
    /// mount and reboot, so only a probe tells whether it still matters.
    fn remembered_errors(&mut self, filesystem: &Filesystem, look: &Look, is_new: bool, now: Now) {
        let dev = filesystem.dev;
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        if look.at < known.baseline_after {
            return;
        }
        known.baseline_after = 0;
        if let Some(errors) = look.ext4.get(&dev) {
            match known.ext4.replace(errors.count) {
                None if is_new && errors.count > 0 => {
                    known.probes.only_look = false;
                    known.probes.ask(now.mono);
                }
                Some(before) if errors.count > before => {
                    known.probes.ask(now.mono);
                    let what = format!("ext4 found an error in it ({})", errors.first);
                    let evidence =
                        format!("sysfs errors_count {} (first: {})", errors.count, errors.first);
                    self.open((FaultKind::FilesystemError, dev), None, what, evidence, now);
                }
                _ => {}
            }
        }
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        if let Some(errors) = look.btrfs.get(&dev) {
            let before = known.btrfs.replace(*errors).unwrap_or(*errors);
            if errors.corruption > before.corruption {
                known.probes.ask(now.mono);
                let what = "btrfs found corrupted blocks in it".to_owned();
                let evidence =
                    format!("sysfs corruption and generation errors {}", errors.corruption);
                self.open((FaultKind::FilesystemError, dev), None, what, evidence, now);
            }
            if errors.io > before.io {
                let key = self.io_key(dev);
                let evidence = format!("sysfs read, write and flush errors {}", errors.io);
                self.open(key, None, "btrfs counted I/O errors".to_owned(), evidence, now);
                self.ask_for_probe(dev, now);
            }
        }
    }

    /// `ext4_error`, or a metadata buffer of xfs that failed its verification.
    pub(super) fn filesystem_error(
        &mut self,
        dev: Dev,
        event: &Event,
        source: &str,
        now: Now,
    ) -> bool {
        if !self.table.filesystems.contains_key(&dev) {
            return false;
        }
        let (what, evidence) = if event.errno == 0 {
            // What comes from the counters has no line.
            let line = (event.detail != 0).then(|| format!(" (source line {})", event.detail));
            (format!("{source}{}", line.unwrap_or_default()), format!("tracepoint {source}"))
        } else {
            let errno = errno::describe(event.errno);
            (format!("{source} failed: {errno}"), format!("tracepoint xfs_buf_ioerror {errno}"))
        };
        self.open((FaultKind::FilesystemError, dev), Some(event), what, evidence, now);
        self.ask_for_probe(dev, now);
        true
    }

    /// `ext4_shutdown` and `xfs_force_shutdown`: announced, and true in a moment.
    pub(super) fn shut_down(&mut self, event: &Event, now: Now) -> bool {
        let Some(known) = self.superblocks.get_mut(&event.dev) else { return false };
        known.lost.announced = Some(event.ktime);
        self.settle(event.dev, Some(event), now);
        self.ask_for_probe(event.dev, now);
        true
    }

    /// `filemap_set_wb_err`: data did not reach the disk.
    pub(super) fn lost_write(&mut self, event: &Event, now: Now) -> bool {
        if matches!(event.errno, errno::ENOSPC | errno::EDQUOT) {
            return true;
        }
        let table = self.table.clone();
        // A block device's own cache belongs to an internal filesystem, and its inode is the device.
        let place = u32::try_from(event.place).ok().map(Dev).filter(|dev| dev.major() != 0);
        let internal = event.dev.major() == 0
            && event.dev.minor() < INTERNAL_MINORS
            && !table.filesystems.contains_key(&event.dev)
            && !table.diskless.contains(&event.dev);
        let dev = if internal { place.unwrap_or(event.dev) } else { event.dev };
        let Some(user) = table.users(dev).next() else { return false };
        let superblock = user.filesystem.dev;
        if event.errno == 0 {
            if let Some(known) = self.superblocks.get_mut(&superblock) {
                known.unexplained.get_or_insert(*event);
            }
        } else {
            self.write_was_lost(superblock, event, now);
        }
        self.ask_for_probe(superblock, now);
        true
    }

    pub(super) fn write_was_lost(&mut self, dev: Dev, event: &Event, now: Now) {
        let key = self.io_key(dev);
        if event.errno == 0
            && let Some(entry) = self.faults.get_mut(&key)
        {
            // What is known of it says more than this event does.
            (entry.last, entry.last_mono) = (now.wall, now.mono);
            return;
        }
        let errno =
            if event.errno == 0 { "an I/O error".into() } else { errno::describe(event.errno) };
        let what = format!("written data was lost: {errno}");
        self.open(key, Some(event), what, "tracepoint filemap_set_wb_err".to_owned(), now);
    }

    /// The I/O fault that a loss seen by a filesystem belongs to. The block layer has usually said so already:
    /// one fault, not two. Never that of a leg of an array: what the filesystem sees was not made good.
    pub(super) fn io_key(&self, dev: Dev) -> Key {
        let filesystem = self.table.filesystems.get(&dev);
        let members = || {
            let members = filesystem.into_iter().flat_map(|filesystem| &filesystem.members);
            members.filter(|member| !member.redundant).map(|member| member.dev)
        };
        let open = members().find(|dev| self.faults.contains_key(&(FaultKind::IoError, *dev)));
        (FaultKind::IoError, open.or_else(|| members().next()).unwrap_or(dev))
    }

    /// Opens or closes the fault of a filesystem by what is known of it.
    pub(super) fn settle(&mut self, dev: Dev, event: Option<&Event>, now: Now) {
        let key = (FaultKind::FilesystemRo, dev);
        let Some(known) = self.superblocks.get(&dev) else { return };
        let lost = known.lost.clone();
        if !lost.any() {
            self.close(key);
            return;
        }
        let (what, evidence, errno) = match &lost {
            Lost { level: Some("ro"), .. } => {
                ("became read-only".into(), "mountinfo: super option ro".into(), None)
            }
            Lost { level: Some(mark), .. } => (
                format!("no longer writable: {mark}"),
                format!("mountinfo: super option {mark}"),
                None,
            ),
            Lost { refused: Some(errno), .. } => {
                let errno_text = errno::describe(*errno);
                let what = format!("no longer writable: creating a file gives {errno_text}");
                (what, format!("write probe: {errno_text}"), Some(*errno))
            }
            Lost { root: Some(errno), .. } => {
                let errno_text = errno::describe(*errno);
                let what = format!("no longer usable: its root directory gives {errno_text}");
                (what, format!("stat of its root: {errno_text}"), Some(*errno))
            }
            _ => ("shut down".into(), "tracepoint of the shutdown".into(), None),
        };
        // Nothing new: the fault's last evidence keeps its time.
        if event.is_none() && self.faults.get(&key).is_some_and(|entry| entry.has(&what, &evidence))
        {
            return;
        }
        let announced =
            self.faults.get(&(FaultKind::FilesystemError, dev)).and_then(|e| e.kernel_ns);
        self.open(key, event, what, evidence, now);
        if let Some(entry) = self.faults.get_mut(&key) {
            entry.errno = errno.or(entry.errno);
            // It is the same story: the kernel told of it when it told of the error.
            entry.kernel_ns = entry.kernel_ns.or(announced);
        }
    }

    /// The operator accepts a filesystem as it is.
    pub(super) fn accept_superblock(&mut self, dev: Dev, kind: FaultKind, now: Now) {
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        known.accepted_at = now.mono;
        // ext4 counts its error some time after it announced it.
        known.baseline_after = now.mono + COUNTED_WITHIN;
        known.ext4 = None;
        known.btrfs = None;
        known.probes.due.clear();
        // Its answer to a quiet device's question may be among what is forgotten: it is asked again.
        self.asked.retain(|_, (_, users)| !users.contains(&dev));
        if kind == FaultKind::FilesystemRo {
            known.loss_accepted = true;
            known.accepted = known.lost.level;
            known.lost = Lost::default();
        }
    }
}

impl Entry {
    fn has(&self, what: &str, evidence: &str) -> bool {
        self.what == what && self.evidence.iter().any(|line| line == evidence)
    }
}
