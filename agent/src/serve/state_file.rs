//! The verdict as a file, for keepalived's `track_file` and for anything else that reads files. Whenever the verdict or
//! its reason changes, the file is replaced as a whole.
//!
//! The first line is a number: 0 for ready, 1 for not ready. The second line says it in words.

use std::{
    io,
    path::PathBuf,
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
    host::{Bounded, replace},
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
            // Readable for everybody: nothing in it is secret.
            let call = move || replace(&to, &text, 0o644);
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
}
