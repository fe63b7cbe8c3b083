//! Files of sysfs that stay open between two snapshots.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Small files of sysfs that are read again and again, kept open: a reading is one `pread` instead of three calls.
#[derive(Debug, Default)]
pub struct KeptFiles {
    files: HashMap<PathBuf, fs::File>,
}

impl KeptFiles {
    /// Reads the whole file, up to 1 KiB. The second value is true if the file that was kept open was dead and the path
    /// had to be opened again: an open file of a removed sysfs directory gives ENODEV for ever, so the directory was
    /// removed and made again. For the directory of a filesystem this means that it was mounted again.
    pub fn read(&mut self, path: &Path) -> io::Result<(String, bool)> {
        let mut died = false;
        if let Some(file) = self.files.get(path) {
            match pread(file) {
                Ok(text) => return Ok((text, false)),
                Err(_) => died = self.files.remove(path).is_some(),
            }
        }
        let file = fs::File::open(path)?;
        let text = pread(&file)?;
        self.files.insert(path.to_owned(), file);
        Ok((text, died))
    }

    /// Closes the files whose directories are gone for good.
    pub fn prune(&mut self) {
        self.files.retain(|_, file| pread(file).is_ok());
    }
}

fn pread(file: &fs::File) -> io::Result<String> {
    let mut buffer = [0; 1024];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
