//! Groups of scenarios: each boots a guest of its own, with the devices and modules that it needs.

/// What one guest runs.
#[derive(Debug)]
pub(super) struct Group {
    /// Its name, and that of its script `guest/NAME.sh`.
    pub(super) name: &'static str,
    pub(super) script: &'static str,
    /// The scenarios, in the order of the script.
    pub(super) scenarios: &'static [&'static str],
    /// Modules that the script loads as the list of the group's name. One that the kernel does not have is passed over, and the
    /// scripts say so.
    pub(super) modules: &'static [&'static str],
    /// Arguments of qemu for its devices; `DISK` stands for an empty file of 128 MiB.
    pub(super) devices: &'static [&'static str],
}

pub(super) const GROUPS: [Group; 4] = [
    Group {
        name: "agent",
        script: include_str!("guest/agent.sh"),
        scenarios: &[
            "hooks",
            "late_modules",
            "healthy",
            "ext4_error",
            "restart",
            "block_write",
            "journal_abort",
            "ext4_shutdown",
            "shutdown_restart",
            "xfs_shutdown",
            "counts",
            "syscall_hooks",
        ],
        // On a host that mounts its first ext4 later, they are loaded while the agent runs.
        modules: &["ext4", "xfs"],
        devices: &[],
    },
    Group {
        name: "filesystems",
        script: include_str!("guest/filesystems.sh"),
        scenarios: &[
            "vfat_writes",
            "vfat_corrupt",
            "exfat_writes",
            "exfat_corrupt",
            "f2fs_writes",
            "f2fs_remount_ro",
            "f2fs_shutdown",
            "f2fs_corrupt",
            "nilfs2_writes",
            "ntfs_writes",
            "jfs_writes",
            "jfs_corrupt",
        ],
        modules: &[
            "dm_mod",
            "dm_flakey",
            "dm_delay",
            "crc32_generic",
            "vfat",
            "nls_cp437",
            "nls_iso8859_1",
            "nls_ascii",
            "nls_utf8",
            "exfat",
            "f2fs",
            "ntfs3",
            "ntfs",
            "jfs",
            "nilfs2",
        ],
        devices: &[],
    },
    Group {
        name: "nvme",
        script: include_str!("guest/nvme.sh"),
        scenarios: &["nvme_two_paths", "nvme_head", "nvme_path", "nvme_no_path"],
        modules: &["ext4", "nvme"],
        devices: &[
            "-drive",
            "driver=blkdebug,image.driver=raw,image.file.driver=file,image.file.filename=DISK,\
             inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5,\
             inject-error.0.sector=200000,if=none,id=d0",
            "-device",
            "nvme-subsys,id=s0",
            "-device",
            "nvme,id=c0,serial=tocsin,subsys=s0",
            "-device",
            "nvme,id=c1,serial=tocsin,subsys=s0",
            "-device",
            "nvme-ns,drive=d0,nsid=1,shared=on,bus=c1",
        ],
    },
    Group {
        name: "stacks",
        script: include_str!("guest/stacks.sh"),
        scenarios: &["volume_disk_pulled", "mirror_leg"],
        modules: &["ext4", "dm_mod", "raid1"],
        devices: &[],
    },
];

#[cfg(test)]
mod tests {
    use super::GROUPS;

    #[test]
    fn each_script_runs_the_scenarios_of_its_group() {
        for group in &GROUPS {
            let lines = group.script.lines();
            let run: Vec<&str> = lines.filter_map(|line| line.strip_prefix("scenario ")).collect();
            assert_eq!(run, group.scenarios, "{}", group.name);
        }
    }
}
