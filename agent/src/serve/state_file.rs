//! The verdict as a file, for keepalived's `track_file` and for anything else that reads files. Whenever the verdict or
//! its reason changes, the file is replaced as a whole.
//!
//! The first line is a number: 0 for ready, 1 for not ready. The second line says it in words.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tocsin_api::health::HealthResponse;
use tocsin_runtime::tasks::Stop;
use tracing::warn;

use super::reason::printable_reason;
use crate::{
    health::{Board, HealthQuery, Refused},
    host::Bounded,
    serve::settings,
};

/// The file's contents for a verdict. Pure.
#[must_use]
pub fn contents(answer: &Result<HealthResponse, Refused>) -> String {
    match answer {
        Ok(answer) if answer.is_ready() => "0\nready\n".to_owned(),
        Ok(answer) => {
            let reason = printable_reason(&answer.summary().unwrap_or_default());
            format!("1\nnot-ready {reason}\n")
        }
        Err(refused) => format!("1\nnot-ready {}\n", printable_reason(&refused.to_string())),
    }
}

/// Keeps the file current until `stop`. The last contents stay: a stop of the agent says nothing about the host.
pub async fn run(path: PathBuf, board: Board, failures: Arc<AtomicU64>, stop: Stop) {
    tokio::select! {
        () = keep_current(path, board, failures) => {}
        () = stop.requested() => {}
    }
}

async fn keep_current(path: PathBuf, board: Board, failures: Arc<AtomicU64>) {
    let bounded = Bounded::default();
    let mut changes = board.changes();
    let (mut written, mut failed) = (None, None);
    loop {
        // Changes are marked as seen before the verdict is read, so that none is lost between the two.
        let _any = changes.any();
        let now = contents(&board.ask(&HealthQuery::default()).await);
        if written.as_ref() != Some(&now) {
            let (to, text) = (path.clone(), now.clone());
            let call = move || replace(&to, &text);
            let result = bounded.run("state".to_owned(), settings::STATE_FILE_DEADLINE, call).await;
            match result.unwrap_or_else(|stuck| Err(io::Error::other(stuck))) {
                Ok(()) => (written, failed) = (Some(now), None),
                Err(error) => {
                    failures.fetch_add(1, Relaxed);
                    let error = error.to_string();
                    if failed.as_ref() != Some(&error) {
                        warn!(path = %path.display(), error, "the state file could not be written");
                    }
                    failed = Some(error);
                }
            }
        }
        // A second at most, after which a file that could not be written is tried again.
        changes.wait().await;
    }
}

/// Replaces the file: a reader of `path` finds either the old contents or the new ones.
fn replace(path: &Path, text: &str) -> io::Result<()> {
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
    // Not synced: after a crash the agent writes the file again, and a sync could hang with its disk.
    file.write_all(text.as_bytes())?;
    // Readable for everybody, whatever the service's umask is: nothing in it is secret.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use tocsin_api::health::CheckResult;

    use super::*;

    #[test]
    fn the_contents_are_a_number_and_words() {
        let answer = |passed: bool| {
            let check = CheckResult {
                name: "io_errors".into(),
                passed,
                reason: (!passed).then(|| "sda\nfailed".into()),
                degraded: None,
                duration_ms: 0,
            };
            Ok(HealthResponse::new(vec![check]))
        };
        assert_eq!(contents(&answer(true)), "0\nready\n");
        assert_eq!(contents(&answer(false)), "1\nnot-ready io_errors: sda?failed\n");
        let refused = Err(Refused::NoNodeName("node_ready".into()));
        assert!(contents(&refused).starts_with("1\nnot-ready NODE_NAME is not set"));
    }

    #[test]
    fn the_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/tocsin/state");
        replace(&path, "0\n").unwrap();
        let old = fs::File::open(&path).unwrap();
        replace(&path, "1\n").unwrap();
        assert_eq!(io::read_to_string(old).unwrap(), "0\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        // A link or a pipe in the place of the temporary file is not written to, and does not make it wait.
        let beside = path.with_file_name(".state.new");
        let precious = dir.path().join("precious");
        fs::write(&precious, "as it was").unwrap();
        std::os::unix::fs::symlink(&precious, &beside).unwrap();
        replace(&path, "0\n").unwrap();
        assert_eq!(fs::read_to_string(&precious).unwrap(), "as it was");
        rustix::fs::mkfifoat(rustix::fs::CWD, &beside, rustix::fs::Mode::RUSR).unwrap();
        replace(&path, "1\n").unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
        assert!(replace(Path::new("/"), "").is_err());
        assert!(replace(&path.join("below"), "").is_err());
    }
}
