//! The `format` files of tracefs, which say where each field of a tracepoint's record is on this kernel.
//!
//! Formats change between kernel versions and even within a stable series (6.12 put `ioprio` in front of `rwbs`). So the
//! agent reads offsets at run time, and leaves out a hook whose format lacks a field.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// One field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Offset from the start of the record, in bytes.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
}

/// The fields of one tracepoint, by name.
pub type Format = BTreeMap<String, Field>;

/// The text has no field at all, so it is no `format` file.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no fields in it")]
pub struct NoFields;

/// Parses a `format` file. Lines that are not fields are skipped. A field that cannot be parsed is left out, so a hook that
/// needs it reports that it is missing.
pub fn parse(text: &str) -> Result<Format, NoFields> {
    let fields: Format = text.lines().filter_map(parse_field).collect();
    if fields.is_empty() { Err(NoFields) } else { Ok(fields) }
}

/// Parses one line: `field:char rwbs[10]; offset:34; size:10; signed:0;`, with tabs between the parts.
fn parse_field(line: &str) -> Option<(String, Field)> {
    let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
    let declaration = parts.next()?;
    let (mut offset, mut size) = (None, None);
    for part in parts {
        if let Some(value) = part.strip_prefix("offset:") {
            offset = value.parse().ok();
        } else if let Some(value) = part.strip_prefix("size:") {
            size = value.parse().ok();
        }
    }
    // The name is the last word, without an array's brackets; `__data_loc char[] cmd` has its
    // brackets in the type.
    let name = declaration.split_whitespace().next_back()?;
    let name = name.split('[').next()?.trim_start_matches('*');
    let field = Field { offset: offset?, size: size? };
    (!name.is_empty()).then(|| (name.to_owned(), field))
}

/// A tracefs that can be read: the one that is mounted on this host, or a private mount of this process.
#[derive(Debug)]
pub struct TraceFs {
    root: PathBuf,
    /// The private mount, whose files are reached through `/proc/self/fd`.
    private: Option<OwnedFd>,
}

/// Why no tracefs can be read.
#[derive(Debug, thiserror::Error)]
pub enum NoTraceFs {
    /// It is not mounted and cannot be mounted.
    #[error("tracefs is not mounted and cannot be mounted privately: {0}")]
    Mount(#[source] io::Error),
    /// It is mounted and cannot be read.
    #[error("tracefs at {0} cannot be read: {1}")]
    Unreadable(PathBuf, #[source] io::Error),
}

impl TraceFs {
    /// Finds the tracefs that is mounted below `sys`. If there is none, mounts one that is in no mount table and goes away
    /// with this process.
    pub fn open(sys: &Path) -> Result<Self, NoTraceFs> {
        for place in ["kernel/tracing", "kernel/debug/tracing"] {
            let root = sys.join(place);
            if root.join("events").exists() {
                return Self::readable(root, None);
            }
            // An unreadable parent must not look like "not mounted".
            if let Err(error) = fs::read_dir(&root)
                && error.kind() == io::ErrorKind::PermissionDenied
            {
                return Err(NoTraceFs::Unreadable(root, error));
            }
        }
        let mount = || -> rustix::io::Result<OwnedFd> {
            let context = fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_create(&context)?;
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        };
        let private = mount().map_err(|error| NoTraceFs::Mount(error.into()))?;
        let root = PathBuf::from(format!("/proc/self/fd/{}", private.as_raw_fd()));
        Self::readable(root, Some(private))
    }

    fn readable(root: PathBuf, private: Option<OwnedFd>) -> Result<Self, NoTraceFs> {
        match fs::read_dir(root.join("events")) {
            Ok(_) => Ok(Self { root, private }),
            Err(error) => Err(NoTraceFs::Unreadable(root, error)),
        }
    }

    /// Whether it is a private mount of this process.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// The format of the tracepoint `category:event`; `Ok(None)` if this kernel has no such tracepoint (yet: its module may
    /// not be loaded).
    pub fn format(&self, category: &str, event: &str) -> io::Result<Option<Format>> {
        let path = self.root.join("events").join(category).join(event).join("format");
        match fs::read_to_string(path) {
            Ok(text) => {
                parse(&text).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_arrays_pointers_and_data_locs() {
        let text = "name: x\nID: 7\nformat:\n\
            \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
            \tfield:char rwbs[10];\toffset:34;\tsize:10;\tsigned:0;\n\
            \tfield:__data_loc char[] cmd;\toffset:44;\tsize:4;\tsigned:0;\n\
            \tfield:const char * function;\toffset:16;\tsize:8;\tsigned:0;\n\
            \tfield:char *dir;\toffset:24;\tsize:8;\tsigned:0;\n\
            \tfield:broken;\toffset:x;\tsize:8;\n\
            print fmt: \"%d\", REC->dev\n";
        let format = parse(text).unwrap();
        assert_eq!(format["rwbs"], Field { offset: 34, size: 10 });
        assert_eq!(format["cmd"], Field { offset: 44, size: 4 });
        assert_eq!(format["function"], Field { offset: 16, size: 8 });
        assert_eq!(format["dir"], Field { offset: 24, size: 8 });
        assert!(!format.contains_key("broken"));
        assert_eq!(parse("<html>"), Err(NoFields));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(\tfield:[ -~]{0,30};\toffset:[-0-9a-z]{0,12};\tsize:[0-9]{0,12};|[\\PC\n]{0,80}\n){0,8}") {
            let _parsed = parse(&text);
        }
    }
}
