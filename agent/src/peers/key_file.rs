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
    /// It is longer than any file of keys.
    #[error("{path}: it has more than {FILE_BYTES} bytes", path = .0.display())]
    TooLong(PathBuf),
    /// What it has are no keys.
    #[error("{path}: {1}", path = .0.display())]
    Keys(PathBuf, #[source] BadKeys),
}

/// Reads the file; gives its text too, by which a change is noticed.
pub fn read(path: &Path) -> Result<(Keys, String), KeyFileError> {
    let failed = |error| KeyFileError::Read(path.to_owned(), error);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    // One byte more than there may be: a file that is cut off would lose its last keys, or the end of one.
    let length = file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if length as u64 > FILE_BYTES {
        return Err(KeyFileError::TooLong(path.to_owned()));
    }
    let invalid = |error| failed(io::Error::new(io::ErrorKind::InvalidData, error));
    let text = String::from_utf8(bytes).map_err(invalid)?;
    let keys = Keys::parse(&text).map_err(|error| KeyFileError::Keys(path.to_owned(), error))?;
    Ok((keys, text))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let filled = |bytes: usize| {
            let key = "a key of the peers\n";
            format!("#{}\n{key}", "x".repeat(bytes - key.len() - 2))
        };
        let longest = filled(4096);
        fs::write(file.path(), &longest).unwrap();
        assert_eq!(read(file.path()).unwrap().1, longest);
        fs::write(file.path(), filled(4097)).unwrap();
        let error = read(file.path()).unwrap_err().to_string();
        assert!(error.ends_with(": it has more than 4096 bytes"), "{error}");
        fs::write(file.path(), b"\xff").unwrap();
        assert!(matches!(read(file.path()), Err(KeyFileError::Read(..))));
    }
}
