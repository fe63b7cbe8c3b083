//! Open faults in words, as the outside sees them.

use super::{
    state::{Ledger, OpenFault},
    types::Key,
};
use crate::{
    errno,
    kernel::sampling::mounts::{Filesystem, MountTable},
    model::{Dev, Fault, FaultKind, FaultView, MOUNT_POINTS_SHOWN, Scope},
};

/// The id of a fault: `<kind>-<major>:<minor>`.
pub(super) fn fault_id(kind: FaultKind, dev: Dev) -> String {
    format!("{}-{dev}", kind.name())
}

/// What the mount table says about a fault's device.
struct Place<'a> {
    device: Dev,
    device_name: &'a str,
    filesystems: Vec<&'a Filesystem>,
    scope: Scope,
}

fn place((kind, dev): Key, table: &MountTable) -> Place<'_> {
    match kind {
        FaultKind::FilesystemRo | FaultKind::FilesystemError => {
            let filesystems: Vec<_> = table.filesystems.get(&dev).into_iter().collect();
            let scope = filesystems.first().map_or(Scope::Host, |filesystem| filesystem.scope());
            // The number of a btrfs is not that of a device: the fault names the first device that it is on.
            let members = filesystems.first().map_or(&[][..], |filesystem| &filesystem.members);
            let member = members.iter().find(|m| m.dev == dev).or_else(|| members.first());
            let (device, device_name) =
                member.map_or((dev, ""), |member| (member.dev, member.name.as_str()));
            Place { device, device_name, filesystems, scope }
        }
        FaultKind::IoError | FaultKind::IoStall => {
            let users: Vec<_> = table.users(dev).collect();
            let redundant =
                users.iter().all(|user| user.member.is_some_and(|member| member.redundant));
            let all = |scopes: &[Scope]| {
                users.iter().all(|user| scopes.contains(&user.filesystem.scope()))
            };
            let is_ignored = table.ignored_devices.contains(&dev) || all(&[Scope::Ignored]);
            let scope = match (redundant, all(&[Scope::Ignored, Scope::Volume])) {
                _ if is_ignored && !users.is_empty() => Scope::Ignored,
                (true, _) if kind == FaultKind::IoError => Scope::Member,
                (_, true) => Scope::Volume,
                _ => Scope::Host,
            };
            let filesystems = users.iter().map(|user| user.filesystem).collect();
            Place { device: dev, device_name: table.device_name(dev), filesystems, scope }
        }
    }
}

impl Ledger {
    /// The open faults and their numbers. The kernel task fills in the rest of the view.
    #[must_use]
    pub fn view(&self) -> FaultView {
        let faults =
            self.faults.iter().map(|(key, entry)| fault(*key, entry, &self.table)).collect();
        FaultView { faults, opened: self.opened, closed: self.closed, ..FaultView::default() }
    }

    /// Why parts of the mount table are not watched, unless that is on purpose.
    #[must_use]
    pub fn unwatched(&self) -> Option<String> {
        let table = &*self.table;
        let mut why = Vec::new();
        if table.bad_lines > 0 {
            why.push(format!("{} lines of the mount table cannot be read", table.bad_lines));
        } else if table.filesystems.is_empty() {
            why.push("the mount table has no filesystem on a disk".to_owned());
        } else if let Some(root) = &table.diskless_root {
            why.push(format!("the root filesystem is a {root}, which is on no disk of this host"));
        }
        let shown = table.unfollowed.iter().take(MOUNT_POINTS_SHOWN).cloned();
        why.extend(shown);
        let more = table.unfollowed.len().saturating_sub(MOUNT_POINTS_SHOWN);
        if more > 0 {
            why.push(format!("and {more} more"));
        }
        (!why.is_empty()).then(|| without_control_characters(&why.join("; ")))
    }

    /// The filesystems that could not be probed after an event, which may be lost without another sign of it.
    #[must_use]
    pub fn unprobed(&self) -> Option<String> {
        let unable = self.superblocks.iter().filter_map(|(dev, known)| {
            let unable = known.unable.as_ref()?;
            let mount = self.table.filesystems.get(dev)?.best_mount()?;
            Some(format!("{}: {unable}", mount.point.display()))
        });
        let unable: Vec<_> = unable.take(MOUNT_POINTS_SHOWN).collect();
        (!unable.is_empty()).then(|| {
            without_control_characters(&format!(
                "no test write after an event: {}",
                unable.join("; ")
            ))
        })
    }
}

fn fault(key: Key, entry: &OpenFault, table: &MountTable) -> Fault {
    let (kind, dev) = key;
    let Place { device, device_name, filesystems, scope } = place(key, table);
    let filesystem = match filesystems.as_slice() {
        [one] => one.fs_type.clone(),
        _ => String::new(),
    };
    let best = filesystems.iter().filter_map(|filesystem| filesystem.best_mount());
    let rest = filesystems.iter().flat_map(|filesystem| &filesystem.mounts);
    let mut mount_points: Vec<String> = Vec::new();
    for mount in best.chain(rest) {
        if mount_points.len() == MOUNT_POINTS_SHOWN {
            break;
        }
        let point = mount.point.to_string_lossy().into_owned();
        if !mount_points.contains(&point) {
            mount_points.push(point);
        }
    }
    let total: usize = filesystems.iter().map(|filesystem| filesystem.mounts.len()).sum();
    let on = match (mount_points.as_slice(), total) {
        ([], _) => String::new(),
        ([one], 0..=1) => format!(" on {one}"),
        ([first, ..], total) => format!(" on {first} and {} more", total - 1),
    };
    let name = if device_name.is_empty() { "device" } else { device_name };
    let space = if filesystem.is_empty() { "" } else { " " };
    let reason = without_control_characters(&format!(
        "{name} ({device}){space}{filesystem}{on}: {}",
        entry.what
    ));
    Fault {
        id: fault_id(kind, dev),
        kind,
        check: kind.check(),
        device,
        device_name: device_name.to_owned(),
        filesystem,
        mount_points,
        scope,
        opened: entry.opened,
        last: entry.last,
        count: entry.counted.max(1),
        errno: entry.errno.map(|errno| errno::name(errno).into_owned()),
        kernel_ns: entry.kernel_ns,
        reason,
        evidence: entry.evidence.clone(),
    }
}

/// Makes one line of plain text of a reason: a mount point may have a newline in its name.
fn without_control_characters(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
