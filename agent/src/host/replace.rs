//! Replacing a file as a whole.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

/// Replaces a file: a reader of `path` finds either the old contents or the new ones. The directory is made if it is
/// missing. The call may block for as long as the filesystem does.
///
/// The file is not synced: after a crash its writer writes it again, and a sync could hang with its disk.
pub fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let beside = path.with_file_name(format!(".{}.new", name.to_string_lossy()));
    // A leftover of a killed run, or a link or a pipe that another process made, is removed and never written to.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
    file.write_all(text.as_bytes())?;
    // Whatever the service's umask is.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/tocsin/state");
        replace(&path, "0\n", 0o644).unwrap();
        let old = fs::File::open(&path).unwrap();
        replace(&path, "1\n", 0o644).unwrap();
        assert_eq!(io::read_to_string(old).unwrap(), "0\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // A link or a pipe in the place of the temporary file is not written to, and does not make it wait.
        let beside = path.with_file_name(".state.new");
        let precious = dir.path().join("precious");
        fs::write(&precious, "as it was").unwrap();
        std::os::unix::fs::symlink(&precious, &beside).unwrap();
        replace(&path, "0\n", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "as it was");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, &beside, rustix::fs::Mode::RUSR).unwrap();
        replace(&path, "1\n", 0o644).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert!(replace(Path::new("/"), "", 0o644).is_err());
        assert!(replace(&path.join("below"), "", 0o644).is_err());
    }
}
