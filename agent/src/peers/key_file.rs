//! The file with the keys, read again when it changes.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use super::keys::{BadKeys, Keys};

/// 10 seconds between looks at the file, which changes every few months.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(10);
/// 4 KiB of it: four keys and their comments.
const FILE_BYTES: u64 = 4096;

/// A file that has no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("{path}: {1}", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// What it has are no keys.
    #[error("{path}: {1}", path = .0.display())]
    Keys(PathBuf, #[source] BadKeys),
}

/// Reads the file; gives its text too, by which a change is noticed.
pub fn read(path: &Path) -> Result<(Keys, String), KeyFileError> {
    let mut text = String::new();
    let file = File::open(path).and_then(|file| file.take(FILE_BYTES).read_to_string(&mut text));
    file.map_err(|error| KeyFileError::Read(path.to_owned(), error))?;
    let keys = Keys::parse(&text).map_err(|error| KeyFileError::Keys(path.to_owned(), error))?;
    Ok((keys, text))
}
