//! What the operator has said about mounts and devices, applied to the mount table.

use std::path::{Path, PathBuf};

use glob::Pattern;

use super::{
    mounts::{Filesystem, MountTable},
    required_mounts::RequiredMount,
};

/// What the operator has said about mounts and devices.
#[derive(Clone, Debug, Default)]
pub struct MountRules {
    /// `REQUIRE_MOUNTS`.
    pub required: Vec<RequiredMount>,
    /// `IGNORE_MOUNTS`: a filesystem all of whose mount points match fails nothing.
    pub ignored_mounts: Vec<Pattern>,
    /// `IGNORE_DEVICES`: a device whose name in the kernel matches fails nothing, nor do its partitions and filesystems.
    pub ignored_devices: Vec<Pattern>,
    /// `KUBELET_ROOT`: the kubelet's `--root-dir`, where the mount table does not show it.
    pub kubelet_root: Option<PathBuf>,
}

impl MountRules {
    /// Marks the mounts that are volumes of pods, besides those that are recognised by themselves. `mountinfo` is the text
    /// of the table.
    pub(super) fn mark_volumes(&self, table: &mut MountTable, mountinfo: &[u8]) {
        let mut roots = kubelet_roots(mountinfo);
        roots.extend(self.kubelet_root.clone());
        let directories: Vec<_> =
            roots.iter().flat_map(|root| ["pods", "plugins"].map(|name| root.join(name))).collect();
        if directories.is_empty() {
            return;
        }
        for mount in table.filesystems.values_mut().flat_map(|filesystem| &mut filesystem.mounts) {
            mount.is_volume |= directories.iter().any(|root| mount.point.starts_with(root));
        }
    }

    /// Marks the devices and filesystems that the operator ignores.
    pub(super) fn mark_ignored(&self, table: &mut MountTable) {
        if self.ignored_mounts.is_empty() && self.ignored_devices.is_empty() {
            return;
        }
        for filesystem in table.filesystems.values_mut() {
            let ignored: Vec<_> = filesystem
                .members
                .iter()
                .filter(|member| self.ignores_device(filesystem, &member.name))
                .map(|member| member.dev)
                .collect();
            let own = filesystem.members.iter().filter(|member| {
                // A filesystem of its own number (btrfs) is on all its devices alike.
                member.dev == filesystem.dev || filesystem.dev.major() == 0
            });
            let own: Vec<_> = own.map(|member| member.dev).collect();
            let by_device = !own.is_empty() && own.iter().all(|dev| ignored.contains(dev));
            let matches = |point: &Path| {
                self.ignored_mounts.iter().any(|pattern| pattern.matches_path(point))
            };
            let mut mounts = filesystem.mounts.iter();
            let by_mount =
                !filesystem.mounts.is_empty() && mounts.all(|mount| matches(&mount.point));
            filesystem.is_ignored = by_device || by_mount;
            table.ignored_devices.extend(ignored);
        }
    }

    /// Whether a device of that name is ignored, or the disk of which it is a partition.
    fn ignores_device(&self, filesystem: &Filesystem, name: &str) -> bool {
        let matches = |name: &str| self.ignored_devices.iter().any(|glob| glob.matches(name));
        let is_part = |disk: &str| {
            let rest = name.strip_prefix(disk).map(|rest| rest.trim_start_matches('p'));
            rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        };
        let mut disks = filesystem.members.iter().filter(|member| !member.partition);
        matches(name) || disks.any(|disk| is_part(&disk.name) && matches(&disk.name))
    }
}

/// The kubelet's root directories, as its own mounts show them: each pod has one at
/// `<root>/pods/<uid>/volumes/kubernetes.io~projected/<name>` for its token (`GetPodVolumeDir` in
/// `pkg/kubelet/kubelet_getters.go`).
fn kubelet_roots(mountinfo: &[u8]) -> Vec<PathBuf> {
    let mut roots: Vec<PathBuf> = Vec::new();
    for line in mountinfo.split(|byte| *byte == b'\n') {
        let Some(point) = line.split(|byte| *byte == b' ').nth(4) else { continue };
        let Ok(point) = std::str::from_utf8(point) else { continue };
        let Some((pod, _)) = point.split_once("/volumes/kubernetes.io~") else { continue };
        let Some((root, _uid)) = pod.rsplit_once("/pods/") else { continue };
        let root = super::mountinfo::unescape(root);
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    roots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kernel::sampling::mounts::Member,
        model::{Dev, Scope},
    };

    fn marked(rules: &MountRules, mountinfo: &str, members: &[(&str, &str)]) -> MountTable {
        let mut table = MountTable::parse(mountinfo.as_bytes());
        for filesystem in table.filesystems.values_mut() {
            let member = |&(dev, name): &(&str, &str)| Member {
                dev: dev.parse().unwrap(),
                name: name.to_owned(),
                redundant: false,
                partition: name.ends_with('1'),
            };
            filesystem.members = members.iter().map(member).collect();
        }
        rules.mark_volumes(&mut table, mountinfo.as_bytes());
        rules.mark_ignored(&mut table);
        table
    }

    #[test]
    fn a_kubelet_elsewhere_is_found_by_its_own_mounts_or_named() {
        let volume = "36 27 7:3 / /data/k8s/plugins/csi.example/x/mount rw - ext4 /dev/loop3 rw\n";
        let token = "40 27 0:50 / /data/k8s/pods/9f-1/volumes/kubernetes.io~projected/kube-api-access-x rw - tmpfs tmpfs rw\n";
        let named = MountRules { kubelet_root: Some("/data/k8s".into()), ..MountRules::default() };
        for (rules, text, scope) in [
            (MountRules::default(), volume.to_owned(), Scope::Host),
            (MountRules::default(), format!("{token}{volume}"), Scope::Volume),
            (named, volume.to_owned(), Scope::Volume),
        ] {
            let table = marked(&rules, &text, &[]);
            assert_eq!(table.filesystems[&Dev::new(7, 3)].scope(), scope, "{text}");
        }
    }

    #[test]
    fn what_the_operator_ignores_has_its_own_scope() {
        let rules = |mounts: &[&str], devices: &[&str]| {
            let globs = |texts: &[&str]| texts.iter().map(|t| Pattern::new(t).unwrap()).collect();
            let (ignored_mounts, ignored_devices) = (globs(mounts), globs(devices));
            MountRules { ignored_mounts, ignored_devices, ..MountRules::default() }
        };
        let one = "36 27 8:1 / /mnt/backup/a rw - ext4 /dev/sda1 rw\n";
        let two = "36 27 8:1 / /mnt/backup/a rw - ext4 /dev/sda1 rw\n37 27 8:1 / /srv rw - ext4 /dev/sda1 rw\n";
        for (rules, text, is_ignored, disks) in [
            (rules(&[], &[]), one, false, 0),
            (rules(&["/mnt/backup/*"], &[]), one, true, 0),
            (rules(&["/mnt/*"], &[]), one, true, 0),
            // It is mounted elsewhere too.
            (rules(&["/mnt/*"], &[]), two, false, 0),
            (rules(&["/mnt/*", "/srv"], &[]), two, true, 0),
            (rules(&[], &["sda"]), two, true, 2),
            (rules(&[], &["sd?"]), two, true, 2),
            (rules(&[], &["sda1"]), two, true, 1),
            (rules(&[], &["sdb*"]), two, false, 0),
        ] {
            let table = marked(&rules, text, &[("8:1", "sda1"), ("8:0", "sda")]);
            let filesystem = &table.filesystems[&Dev::new(8, 1)];
            assert_eq!(filesystem.scope() == Scope::Ignored, is_ignored, "{rules:?} {text}");
            assert_eq!(table.ignored_devices.len(), disks, "{rules:?}");
        }
    }
}
