//! The watched mountinfo file, read again only if it may have changed.

use std::{fs, io, os::unix::fs::FileExt, path::Path};

use super::{mount_changes::MountChangeDetector, mounts::MountTable};

/// An open mountinfo file with what was read from it last.
#[derive(Debug)]
pub(super) struct MountInfoFile {
    file: fs::File,
    /// `None` where the kernel cannot say that nothing has changed.
    detector: Option<MountChangeDetector>,
    /// The text that was parsed last.
    text: Vec<u8>,
    /// A buffer for the next reading.
    next: Vec<u8>,
}

impl MountInfoFile {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: fs::File::open(path)?,
            detector: MountChangeDetector::new(path),
            text: Vec::new(),
            next: Vec::new(),
        })
    }

    /// The text that was parsed last.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The table if it has changed since the last call, or in any case with `always`.
    pub(super) fn read(&mut self, always: bool) -> io::Result<Option<MountTable>> {
        // The detector is always called, and before the file is read: so it reports what changes later as a new change.
        let is_unchanged = self.detector.as_mut().is_some_and(MountChangeDetector::is_unchanged);
        if is_unchanged && !always {
            return Ok(None);
        }
        if let Err(error) = read_whole(&self.file, &mut self.next) {
            // The detector does not report this change a second time.
            if let Some(detector) = &mut self.detector {
                detector.invalidate();
            }
            return Err(error);
        }
        let has_changed = self.next != self.text;
        if !has_changed && !always {
            return Ok(None);
        }
        let table = MountTable::parse(&self.next);
        if has_changed && let Some(detector) = &mut self.detector {
            detector.watch(table.filesystems.keys().copied());
        }
        std::mem::swap(&mut self.next, &mut self.text);
        Ok(Some(table))
    }
}

/// Reads a file of procfs from its beginning, with one `pread` for each piece that the kernel returns. (`read_to_end`
/// after `rewind` makes system calls for position and size as well.)
fn read_whole(file: &fs::File, text: &mut Vec<u8>) -> io::Result<()> {
    let mut length = 0;
    loop {
        // The kernel returns a page at a time.
        text.resize(text.capacity().max(length + 4096), 0);
        match file.read_at(&mut text[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(length);
    Ok(())
}
