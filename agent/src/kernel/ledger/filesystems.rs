//! Filesystems: whether each can still be written, and the errors it found in itself.

use std::collections::BTreeSet;

use tocsin_ebpf::Kind;

use super::{
    counts::INTERNAL_MINORS,
    state::Ledger,
    superblock::{CP_ERROR, Lost},
    types::{Key, Mono, Now},
};
use crate::{
    errno,
    kernel::{
        ebpf::reader::Event,
        sampling::{
            mounts::{Filesystem, Mark},
            snapshot::Snapshot,
        },
    },
    model::{Dev, FaultKind},
};

/// 1 s, in nanoseconds, until an ext4 has counted an error in its superblock. A worker does it some milliseconds after the
/// tracepoint (`update_super_work` in fs/ext4/super.c).
const WRITTEN_DOWN_WITHIN: Mono = 1_000_000_000;

impl Ledger {
    /// Takes in what a snapshot says about each filesystem.
    pub(super) fn update_superblocks(
        &mut self,
        snapshot: &Snapshot,
        table_changed: bool,
        now: Now,
    ) {
        let table = self.table.clone();
        self.put_aside(snapshot);
        for filesystem in table.filesystems.values() {
            self.take_back(filesystem.dev, snapshot, now);
            let is_new = !self.superblocks.contains_key(&filesystem.dev);
            self.update_superblock(filesystem, snapshot, is_new, table_changed, now);
            self.remembered_errors(filesystem, snapshot, is_new, now);
        }
    }

    fn update_superblock(
        &mut self,
        filesystem: &Filesystem,
        snapshot: &Snapshot,
        is_new: bool,
        table_changed: bool,
        now: Now,
    ) {
        let required =
            filesystem.mounts.iter().any(|m| self.rules.require_writable.contains(&m.point));
        let dev = filesystem.dev;
        let known = self.superblocks.entry(dev).or_default();
        let ids: BTreeSet<i32> = filesystem.mounts.iter().map(|mount| mount.id).collect();
        // After a restart of the agent only this number tells: the kernel gives the numbers of mounts again, the lowest first.
        let born = snapshot.born.get(&dev).copied();
        let is_another = || Some(known.born? != born?);
        // Where sysfs does not tell, new numbers of all mounts do, although `umount -l` leaves the same superblock.
        let reborn = snapshot.reborn.get(&dev).copied().or_else(is_another);
        let is_other = !is_new && reborn.unwrap_or_else(|| known.mount_ids.is_disjoint(&ids));
        known.mount_ids = ids;
        known.born = born.or(known.born);
        if is_new || is_other {
            let broken = filesystem.is_ro_under_rw();
            known.on_purpose = filesystem.read_only && !required && !broken;
            known.accepted = None;
            known.loss_accepted = false;
            known.accepted_at = now.mono;
        }
        // What an earlier agent took for intended may be required by now.
        known.on_purpose &= !required;
        if is_other && filesystem.read_only && known.lost.is_hidden() {
            // It cannot be probed with a write since it was mounted again; its root directory can be checked.
            let level = known.lost.level;
            known.lost = Lost { level, ..Lost::default() };
            known.probes.due.insert(now.mono);
        }
        if is_other {
            // Umounted and mounted again between two snapshots: what was known is about the time before.
            known.ext4 = None;
            known.btrfs = None;
            known.baseline_after = 0;
            if known.lost.is_hidden() {
                known.probes.request(now.mono);
            }
        }
        // An xfs that was shut down shows that in its root directory only. So that is checked when the agent starts, and
        // at every snapshot if no event would tell of it.
        let at_start = filesystem.is_writable_type() && !self.started;
        let each_time = !self.xfs_events && filesystem.fs_type == "xfs";
        if (at_start || each_time) && known.probes.due.is_empty() {
            // Before 6.1, nothing but a refused write tells of an f2fs that has stopped.
            let writes = filesystem.fs_type == "f2fs" && !snapshot.f2fs_stopped.contains_key(&dev);
            known.probes.skip_write = !writes;
            known.probes.due.insert(now.mono);
        }
        // What was read-only at first may become so again (/usr does, on hosts that make it writable for updates only).
        // Then its mount is read-only too.
        let on_purpose = known.on_purpose && !filesystem.is_ro_under_rw();
        let is_lost = filesystem.read_only && !on_purpose && filesystem.is_writable_type();
        let stopped = snapshot.f2fs_stopped.get(&dev) == Some(&true);
        let mark = filesystem.mark.map(Mark::name).or_else(|| stopped.then_some(CP_ERROR));
        let level = mark.or_else(|| is_lost.then_some("ro"));
        if known.accepted.is_some() && known.accepted != level {
            known.accepted = None;
        }
        if table_changed && known.lost.is_hidden() {
            // It may have been mounted again under the same number.
            known.probes.request(now.mono);
        }
        let level = level.filter(|level| known.accepted != Some(*level));
        if known.lost.level.is_some() && level.is_none() && known.lost.is_hidden() {
            known.probes.request(now.mono);
        }
        known.lost.level = level;
        if is_other {
            self.close((FaultKind::FilesystemError, dev));
        }
        self.settle(dev, None, now);
    }

    /// Takes in the errors that ext4 and btrfs remember. Those of the first snapshot are old: they outlive umount and
    /// reboot, and only a probe tells whether they still matter.
    fn remembered_errors(
        &mut self,
        filesystem: &Filesystem,
        snapshot: &Snapshot,
        is_new: bool,
        now: Now,
    ) {
        let dev = filesystem.dev;
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        if snapshot.at < known.baseline_after {
            return;
        }
        known.baseline_after = 0;
        if let Some(errors) = snapshot.ext4.get(&dev) {
            match known.ext4.replace(errors.count) {
                None if is_new && errors.count > 0 => {
                    known.probes.skip_write = false;
                    known.probes.request(now.mono);
                }
                Some(before) if errors.count > before => {
                    known.probes.request(now.mono);
                    let what = format!("ext4 found an error in it ({})", errors.first);
                    let evidence =
                        format!("sysfs errors_count {} (first: {})", errors.count, errors.first);
                    self.open((FaultKind::FilesystemError, dev), None, what, evidence, now);
                }
                _ => {}
            }
        }
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        if let Some(errors) = snapshot.btrfs.get(&dev) {
            let before = known.btrfs.replace(*errors).unwrap_or(*errors);
            if errors.corruption > before.corruption {
                known.probes.request(now.mono);
                let evidence =
                    format!("sysfs corruption and generation errors {}", errors.corruption);
                // With bad blocks on one device alone, there is a good copy of each on another one.
                let (key, what) = if errors.corrupted <= 1 && self.is_on_legs(dev) {
                    let what = "btrfs found corrupted blocks on a device, and has other copies";
                    (self.leg_key(dev), what)
                } else {
                    let what = "btrfs found corrupted blocks in it";
                    ((FaultKind::FilesystemError, dev), what)
                };
                self.open(key, None, what.to_owned(), evidence, now);
            }
            if errors.io > before.io {
                let key = self.leg_key(dev);
                let evidence = format!("sysfs read, write and flush errors {}", errors.io);
                self.open(key, None, "btrfs counted I/O errors".to_owned(), evidence, now);
                self.request_probe(dev, now);
            }
        }
    }

    /// Takes in an `ext4_error`, or a metadata buffer of xfs that failed its verification. False if there is no such
    /// filesystem.
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
        if self.is_repaired_since(event) {
            return true;
        }
        let (what, evidence) = if event.errno == 0 {
            // An event that stands for counters has no source line.
            let line = (event.detail != 0).then(|| format!(" (source line {})", event.detail));
            (format!("{source}{}", line.unwrap_or_default()), format!("tracepoint {source}"))
        } else {
            let errno = errno::describe(event.errno);
            (format!("{source} failed: {errno}"), format!("tracepoint xfs_buf_ioerror {errno}"))
        };
        self.open((FaultKind::FilesystemError, dev), Some(event), what, evidence, now);
        self.request_probe(dev, now);
        true
    }

    /// Whether an ext4 has been repaired since this event, while no agent ran: it remembers no error although it has had the
    /// time to write this one down, so e2fsck or mkfs has made its superblock anew.
    fn is_repaired_since(&self, event: &Event) -> bool {
        let remembered = self.superblocks.get(&event.dev).and_then(|known| known.ext4);
        let is_written_down = event.ktime + WRITTEN_DOWN_WITHIN <= self.looked_at;
        event.kind == Kind::Ext4Error && remembered == Some(0) && is_written_down
    }

    /// Takes in an `ext4_shutdown` or `xfs_force_shutdown`. False if there is no such filesystem.
    pub(super) fn shut_down(&mut self, event: &Event, now: Now) -> bool {
        let Some(known) = self.superblocks.get_mut(&event.dev) else { return false };
        known.lost.announced = Some(event.ktime);
        self.settle(event.dev, Some(event), now);
        self.request_probe(event.dev, now);
        true
    }

    /// Takes in a `filemap_set_wb_err`: data did not reach the disk. False if no known filesystem is on the device.
    pub(super) fn lost_write(&mut self, event: &Event, now: Now) -> bool {
        let table = self.table.clone();
        // The cache of a block device belongs to an internal filesystem, with the device number as the inode number.
        let place = u32::try_from(event.place).ok().map(Dev).filter(|dev| dev.major() != 0);
        let internal = event.dev.major() == 0
            && event.dev.minor() < INTERNAL_MINORS
            && !table.filesystems.contains_key(&event.dev)
            && !table.diskless.contains(&event.dev);
        let dev = if internal { place.unwrap_or(event.dev) } else { event.dev };
        let Some(user) = table.users(dev).next() else { return false };
        let superblock = user.filesystem.dev;
        // The probe tells a full filesystem from a broken disk.
        if let Some(known) = self.superblocks.get_mut(&superblock) {
            known.unexplained.get_or_insert(*event);
        }
        self.request_probe(superblock, now);
        true
    }

    /// Opens an I/O fault, or renews it, because data was lost.
    pub(super) fn write_was_lost(&mut self, dev: Dev, event: &Event, now: Now) {
        let key = self.io_key(dev);
        if let Some(entry) = self.faults.get_mut(&key) {
            // The open fault says more than this event does.
            (entry.last, entry.last_mono) = (now.wall, now.mono);
            return;
        }
        let what = "written data was lost".to_owned();
        self.open(key, Some(event), what, "tracepoint filemap_set_wb_err".to_owned(), now);
    }

    /// The I/O fault to which a loss that a filesystem reports belongs. The block layer has usually reported it already,
    /// and then it is the same fault. It is never that of a leg of an array, because the array did not make up for the
    /// loss.
    pub(super) fn io_key(&self, dev: Dev) -> Key {
        let filesystem = self.table.filesystems.get(&dev);
        let members = || {
            let members = filesystem.into_iter().flat_map(|filesystem| &filesystem.members);
            members.filter(|member| !member.redundant)
        };
        let has_fault = |dev: &Dev| self.faults.contains_key(&(FaultKind::IoError, *dev));
        let open = members().map(|member| member.dev).find(has_fault);
        // The topmost one. The block layer's events about a partition name its disk, so this does too.
        let top = || members().find(|member| !member.partition).or_else(|| members().next());
        let blamed = open.or_else(|| top().map(|member| member.dev));
        (FaultKind::IoError, blamed.unwrap_or(dev))
    }

    /// Whether every device that a filesystem is on is redundant.
    fn is_on_legs(&self, dev: Dev) -> bool {
        let members = self.table.filesystems.get(&dev).map_or(&[][..], |f| &f.members);
        !members.is_empty() && members.iter().all(|member| member.redundant)
    }

    /// The I/O fault to which errors belong that a btrfs counts for its devices, and that may have done no harm: where every
    /// device is redundant, it is that of a leg.
    fn leg_key(&self, dev: Dev) -> Key {
        if !self.is_on_legs(dev) {
            return self.io_key(dev);
        }
        let members = self.table.filesystems.get(&dev).map_or(&[][..], |f| &f.members);
        let has_fault = |dev: &Dev| self.faults.contains_key(&(FaultKind::IoError, *dev));
        let mut legs = members.iter().map(|member| member.dev);
        let leg = legs.clone().find(has_fault).or_else(|| legs.next());
        (FaultKind::IoError, leg.unwrap_or(dev))
    }

    /// Opens or closes the `filesystem_ro` fault of a filesystem, by the evidence.
    pub(super) fn settle(&mut self, dev: Dev, event: Option<&Event>, now: Now) {
        let key = (FaultKind::FilesystemRo, dev);
        let Some(known) = self.superblocks.get(&dev) else { return };
        let lost = known.lost.clone();
        if !lost.any() {
            self.close(key);
            return;
        }
        let (mut what, evidence, mut errno) = match &lost {
            Lost { level: Some("ro"), .. } => {
                ("became read-only".into(), "mountinfo: super option ro".into(), None)
            }
            Lost { level: Some(CP_ERROR), .. } => (
                "no longer writable: f2fs has stopped writing checkpoints".into(),
                "sysfs cp_status: CP_ERROR_FLAG".into(),
                None,
            ),
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
        if let Some((below, words)) = self.said_below(dev) {
            what = format!("{what}, {words}");
            errno = Some(below);
        }
        // Nothing new: the fault keeps the time of its last evidence.
        if event.is_none()
            && self.faults.get(&key).is_some_and(|entry| entry.says(&what, &evidence))
        {
            return;
        }
        let announced =
            self.faults.get(&(FaultKind::FilesystemError, dev)).and_then(|e| e.kernel_ns);
        self.open(key, event, what, evidence, now);
        if let Some(entry) = self.faults.get_mut(&key) {
            entry.errno = errno.or(entry.errno);
            // The event of the error is the first event of this fault as well.
            entry.kernel_ns = entry.kernel_ns.or(announced);
        }
    }
}
