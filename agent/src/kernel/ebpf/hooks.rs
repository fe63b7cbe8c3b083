//! The table of kernel hooks: one row each, every one optional.
//!
//! A new hook is one function in `agent-ebpf`, one row here, and one arm in the ledger.

use tocsin_ebpf::{BlockLayout, FilesystemLayout, Layouts};

use super::tracefs::Format;

/// A field that the hook's program reads is not in this kernel's format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("its format on this kernel has no {bytes}-byte field {field:?}")]
pub struct LacksField {
    field: &'static str,
    bytes: u32,
}

/// When a hook is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Always.
    Always,
    /// Only if the named hook is not attached.
    Instead(&'static str),
    /// Only with `MOUNT_HOOKS=syscalls`.
    MountHooks,
}

/// What the program of a hook runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunsFor {
    /// Errors alone: a run that the kernel skipped was one.
    Errors,
    /// Each request or system call, nearly all of which succeed: a skipped run says nothing.
    Anything,
}

/// One hook: a program and the tracepoint that it runs on.
#[derive(Debug)]
pub struct Hook {
    /// Name of the program in the object, and of the tracepoint.
    pub event: &'static str,
    /// Category of the tracepoint.
    pub category: &'static str,
    /// When it is attached.
    pub wanted: Wanted,
    /// What its program runs for.
    pub runs_for: RunsFor,
    /// Takes the offsets that the program needs from the tracepoint's format.
    pub layout: fn(&Format, &mut Layouts) -> Result<(), LacksField>,
    /// What it shows and which kernels have it, for the tables of `docs/`.
    pub shows: &'static str,
}

impl Hook {
    /// Category and event, `block:block_rq_error`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.category, self.event)
    }
}

/// The offset of a field with exactly this size (for the array `rwbs`: at least this size).
fn offset(format: &Format, field: &'static str, bytes: u32) -> Result<u32, LacksField> {
    match format.get(field) {
        Some(found) if found.size == bytes || (field == "rwbs" && found.size > bytes) => {
            Ok(found.offset)
        }
        _ => Err(LacksField { field, bytes }),
    }
}

fn block(format: &Format) -> Result<BlockLayout, LacksField> {
    Ok(BlockLayout {
        dev: offset(format, "dev", 4)?,
        sector: offset(format, "sector", 8)?,
        sectors: offset(format, "nr_sector", 4)?,
        error: offset(format, "error", 4)?,
        rwbs: offset(format, "rwbs", 8)?,
    })
}

/// The layout of a tracepoint with a device and one more word.
fn announcement(format: &Format, detail: &'static str) -> Result<FilesystemLayout, LacksField> {
    Ok(FilesystemLayout {
        dev: offset(format, "dev", 4)?,
        detail: offset(format, detail, 4)?,
        ..FilesystemLayout::default()
    })
}

fn mount_exit(format: &Format, layouts: &mut Layouts) -> Result<(), LacksField> {
    layouts.syscall_ret = offset(format, "ret", 8)?;
    Ok(())
}

/// The hooks for failed block requests. If none of them is attached, `io_errors` is degraded.
pub const BLOCK_HOOKS: [&str; 2] = ["block_rq_error", "block_rq_complete"];

/// Every hook, in the order in which it is attached.
pub static HOOKS: &[Hook] = &[
    Hook {
        event: "block_rq_error",
        category: "block",
        wanted: Wanted::Always,
        runs_for: RunsFor::Errors,
        layout: |format, layouts| block(format).map(|layout| layouts.rq_error = layout),
        shows: "a failed request of a disk (5.18 and later); no program runs on healthy I/O",
    },
    Hook {
        event: "block_rq_complete",
        category: "block",
        wanted: Wanted::Instead("block_rq_error"),
        runs_for: RunsFor::Anything,
        layout: |format, layouts| block(format).map(|layout| layouts.rq_complete = layout),
        shows: "the same before 5.18, filtered in the kernel",
    },
    Hook {
        event: "block_bio_complete",
        category: "block",
        wanted: Wanted::Always,
        runs_for: RunsFor::Anything,
        layout: |format, layouts| block(format).map(|layout| layouts.bio_complete = layout),
        shows: "a failed request of device mapper, md and other bio-based devices",
    },
    Hook {
        event: "ext4_error",
        category: "ext4",
        wanted: Wanted::Always,
        runs_for: RunsFor::Errors,
        layout: |format, layouts| {
            announcement(format, "line").map(|layout| layouts.ext4_error = layout)
        },
        shows: "ext4 found an error in its structures",
    },
    Hook {
        event: "ext4_shutdown",
        category: "ext4",
        wanted: Wanted::Always,
        runs_for: RunsFor::Errors,
        layout: |format, layouts| {
            announcement(format, "flags").map(|layout| layouts.ext4_shutdown = layout)
        },
        shows: "ext4 was shut down by ioctl",
    },
    Hook {
        event: "xfs_force_shutdown",
        category: "xfs",
        wanted: Wanted::Always,
        runs_for: RunsFor::Errors,
        layout: |format, layouts| {
            announcement(format, "flags").map(|layout| layouts.xfs_shutdown = layout)
        },
        shows: "xfs shut itself down (5.15 and later)",
    },
    Hook {
        event: "xfs_buf_ioerror",
        category: "xfs",
        wanted: Wanted::Always,
        runs_for: RunsFor::Errors,
        layout: |format, layouts| {
            layouts.xfs_buffer = FilesystemLayout {
                dev: offset(format, "dev", 4)?,
                error: offset(format, "error", 4)?,
                place: offset(format, "bno", 8)?,
                detail: offset(format, "flags", 4)?,
            };
            Ok(())
        },
        shows: "xfs could not read, write or verify a metadata buffer",
    },
    Hook {
        event: "f2fs_fault_report",
        category: "f2fs",
        wanted: Wanted::Always,
        runs_for: RunsFor::Errors,
        layout: |format, layouts| {
            announcement(format, "err_code").map(|layout| layouts.f2fs_error = layout)
        },
        shows: "f2fs found an error in its structures, or stopped writing (7.1 and later)",
    },
    Hook {
        event: "f2fs_shutdown",
        category: "f2fs",
        wanted: Wanted::Always,
        runs_for: RunsFor::Errors,
        layout: |format, layouts| {
            let error = offset(format, "ret", 4)?;
            layouts.f2fs_shutdown = FilesystemLayout { error, ..announcement(format, "mode")? };
            Ok(())
        },
        shows: "f2fs was shut down by ioctl",
    },
    Hook {
        event: "filemap_set_wb_err",
        category: "filemap",
        wanted: Wanted::Always,
        runs_for: RunsFor::Errors,
        layout: |format, layouts| {
            layouts.writeback = FilesystemLayout {
                dev: offset(format, "s_dev", 4)?,
                error: offset(format, "errseq", 4)?,
                place: offset(format, "i_ino", 8)?,
                ..FilesystemLayout::default()
            };
            Ok(())
        },
        shows: "written data did not reach the disk, on any filesystem",
    },
    Hook {
        event: "sys_exit_mount",
        category: "syscalls",
        wanted: Wanted::MountHooks,
        runs_for: RunsFor::Anything,
        layout: mount_exit,
        shows: "mount(2) succeeded",
    },
    Hook {
        event: "sys_exit_umount",
        category: "syscalls",
        wanted: Wanted::MountHooks,
        runs_for: RunsFor::Anything,
        layout: mount_exit,
        shows: "umount2(2) succeeded",
    },
    Hook {
        event: "sys_exit_fsconfig",
        category: "syscalls",
        wanted: Wanted::MountHooks,
        runs_for: RunsFor::Anything,
        layout: mount_exit,
        shows: "fsconfig(2) succeeded: the only event of a remount through it",
    },
    Hook {
        event: "sys_exit_mount_setattr",
        category: "syscalls",
        wanted: Wanted::MountHooks,
        runs_for: RunsFor::Anything,
        layout: mount_exit,
        shows: "mount_setattr(2) succeeded",
    },
    Hook {
        event: "sys_exit_move_mount",
        category: "syscalls",
        wanted: Wanted::MountHooks,
        runs_for: RunsFor::Anything,
        layout: mount_exit,
        shows: "move_mount(2) succeeded",
    },
];

/// Whether the program of this event's hook runs for errors alone.
pub(crate) fn runs_for_errors_alone(event: &str) -> bool {
    HOOKS.iter().any(|hook| hook.event == event && hook.runs_for == RunsFor::Errors)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::kernel::ebpf::tracefs;

    fn fixture(kernel: &str, event: &str) -> Option<Format> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fixtures/tracefs")
            .join(kernel)
            .join(format!("{event}.format"));
        fs::read_to_string(path).ok().map(|text| tracefs::parse(&text).unwrap())
    }

    /// `(kernel, rq events' rwbs offset, hooks that this kernel does not have)`.
    const KERNELS: &[(&str, u32, &[&str])] = &[
        (
            "5.10",
            32,
            &[
                "block_rq_error",
                "xfs_force_shutdown",
                "f2fs_fault_report",
                "sys_exit_mount_setattr",
            ],
        ),
        ("6.1", 32, &["f2fs_fault_report"]),
        ("6.12", 34, &["f2fs_fault_report"]),
        // That of a machine without f2fs.
        ("6.18", 34, &["f2fs_fault_report", "f2fs_shutdown"]),
        ("7.3", 34, &[]),
    ];

    #[test]
    fn every_hook_finds_its_fields_on_five_kernels() {
        for (kernel, rwbs, missing) in KERNELS {
            let mut layouts = Layouts::default();
            for hook in HOOKS {
                match fixture(kernel, hook.event) {
                    Some(format) => (hook.layout)(&format, &mut layouts)
                        .unwrap_or_else(|error| panic!("{kernel} {}: {error}", hook.event)),
                    None => assert!(
                        missing.contains(&hook.event) || no_fixture(hook.event),
                        "{kernel} {}",
                        hook.event
                    ),
                }
            }
            let expected = BlockLayout { dev: 8, sector: 16, sectors: 24, error: 28, rwbs: *rwbs };
            assert_eq!(layouts.rq_complete, expected, "{kernel}");
            if *kernel != "5.10" {
                assert_eq!(layouts.rq_error, expected, "{kernel}");
            }
            assert_eq!(layouts.bio_complete.rwbs, 32, "{kernel}");
            assert_eq!((layouts.ext4_error.dev, layouts.ext4_error.detail), (8, 24), "{kernel}");
            assert_eq!(layouts.writeback.error, 20, "{kernel}");
            assert_eq!(layouts.syscall_ret, 16, "{kernel}");
        }
    }

    /// Tracepoints that exist on that kernel but whose format was not collected.
    fn no_fixture(event: &str) -> bool {
        event == "sys_exit_umount"
            || event == "sys_exit_mount_setattr"
            || event == "sys_exit_move_mount"
    }

    #[test]
    fn a_format_without_a_field_is_named() {
        let mut format = fixture("6.1", "block_rq_error").unwrap();
        format.remove("error");
        let error = (HOOKS[0].layout)(&format, &mut Layouts::default()).unwrap_err();
        assert_eq!(error.to_string(), "its format on this kernel has no 4-byte field \"error\"");
    }

    #[test]
    fn a_field_that_changed_its_size_is_refused() {
        let mut format = fixture("6.1", "block_rq_error").unwrap();
        format.insert("error".into(), tracefs::Field { offset: 28, size: 8 });
        assert!((HOOKS[0].layout)(&format, &mut Layouts::default()).is_err());
    }
}
