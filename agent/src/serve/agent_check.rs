//! `HAProxy`'s agent-check: a listener that answers every connection with one line and closes it, whether the other
//! side sends anything or not.
//!
//! The line always has the whole set of words: "Parameters which are not advertised by the agent are not changed"
//! (`HAProxy`'s configuration manual, `agent-check`), so each line takes back what an earlier one did.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::net::{SendFlags, send};
use tocsin_api::health::HealthResponse;
use tocsin_runtime::{http::accept_failed, tasks::Stop};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};

use super::reason::printable_reason;
use crate::{
    health,
    health::{Board, Changes, Refused},
    serve::settings,
};

/// What the line says besides the verdict.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Say `maint` instead of `drain`, which also stops `HAProxy`'s checks.
    pub maint: bool,
    /// The weight of this host, in percent.
    pub weight: watch::Receiver<u8>,
}

/// Renders the line. Pure.
///
/// There is no weight beside `drain` and `maint`, where it means nothing: `HAProxy` (2.6, seen) logs "remains in forced
/// drain mode" at every line that has both. The next `ready` brings the weight back.
#[must_use]
pub fn line(answer: &Result<HealthResponse, Refused>, maint: bool, weight: u8) -> String {
    let cordoned = if maint { "maint" } else { "drain" };
    match answer {
        Ok(answer) if answer.is_ready() => format!("up ready {weight}%\n"),
        Ok(answer) if health::is_only_cordoned(answer) => format!("up {cordoned}\n"),
        Ok(answer) => {
            let is_cordoned = answer.checks.iter().any(|c| c.name == "schedulable" && !c.passed);
            let reason = printable_reason(&answer.summary().unwrap_or_default());
            if is_cordoned {
                format!("down {cordoned} #{reason}\n")
            } else {
                format!("down ready {weight}% #{reason}\n")
            }
        }
        Err(refused) => {
            format!("down ready {weight}% #{}\n", printable_reason(&refused.to_string()))
        }
    }
}

/// The agent-check's answers. The line is rendered once per change, and shared by all threads.
#[derive(Debug)]
pub struct AgentCheck {
    board: Board,
    settings: Settings,
    cache: Mutex<Cache>,
    /// Lines sent, for metrics.
    pub answered: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Cache {
    changes: Changes,
    /// When the line was rendered; `None` before the first time.
    rendered: Option<Instant>,
    line: Arc<str>,
}

impl AgentCheck {
    /// Answers from `board`; counts the lines in `answered`.
    #[must_use]
    pub fn new(board: Board, settings: Settings, answered: Arc<AtomicU64>) -> Self {
        let cache = Cache { changes: board.changes(), rendered: None, line: Arc::from("") };
        Self { board, settings, cache: Mutex::new(cache), answered }
    }

    /// The current line; `None` while a probe has no result yet.
    fn now(&self) -> Option<Arc<str>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_old = |rendered| now.saturating_duration_since(rendered) >= health::ANSWER_AGE;
        if cache.changes.any() || cache.rendered.is_none_or(is_old) {
            cache.rendered = None;
            let answer = self.board.ask_now(&self.board.with_drain())?;
            cache.line = self.render(&answer).into();
            cache.rendered = Some(now);
        }
        Some(cache.line.clone())
    }

    /// The line, once every probe has a result.
    async fn wait(&self) -> String {
        self.render(&self.board.ask(&self.board.with_drain()).await)
    }

    fn render(&self, answer: &Result<HealthResponse, Refused>) -> String {
        line(answer, self.settings.maint, *self.settings.weight.borrow())
    }

    /// Sends a line and counts it; false where the connection is gone.
    fn send(&self, stream: &TcpStream, line: &str) -> bool {
        self.answered.fetch_add(1, Relaxed);
        // Without the runtime, which would wait for epoll first: a line always fits into an empty socket buffer.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(stream, line.as_bytes(), flags).is_ok()
    }
}

/// Serves the agent-check until `stop`.
pub async fn run(listener: TcpListener, agent_check: Arc<AgentCheck>, stop: Stop) {
    let closing = Arc::new(Semaphore::new(settings::AGENT_CHECKS));
    let mut stopped = std::pin::pin!(stop.requested());
    loop {
        let stream = tokio::select! {
            biased;
            () = stopped.as_mut() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    accept_failed("agent-check", &error).await;
                    continue;
                }
            },
        };
        // Without a permit the line is sent too, but neither a probe nor the other side's end is waited for.
        let permit = closing.clone().try_acquire_owned().ok();
        let line = agent_check.now();
        if let Some(line) = &line
            && !agent_check.send(&stream, line)
        {
            continue;
        }
        let Some(permit) = permit else { continue };
        let agent_check = agent_check.clone();
        tokio::spawn(async move {
            if line.is_none() {
                // `HAProxy` ignores an agent-check that answers too late: nothing changes then.
                let line = agent_check.wait().await;
                agent_check.send(&stream, &line);
            }
            lingering_close(stream).await;
            drop(permit);
        });
    }
}

/// Ends our half of the connection and reads what the other side sent (`agent-send`): closing a socket with unread
/// bytes resets the connection, and the reset would discard the line.
async fn lingering_close(mut stream: TcpStream) {
    let read_on = async {
        if stream.shutdown().await.is_ok() {
            let (mut discarded, mut rest) = ([0; 256], LINGER_BYTES);
            while let Ok(read @ 1..) = stream.read(&mut discarded).await {
                rest = rest.saturating_sub(read);
                if rest == 0 {
                    break;
                }
            }
        }
    };
    let _closed_either_way = timeout(LINGER, read_on).await;
}

/// 1 second for the lingering close: a round trip, and what a busy load balancer needs to read a line.
const LINGER: Duration = Duration::from_secs(1);
/// 4 KiB read in it at most: `agent-send` is some words.
const LINGER_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use tocsin_api::health::CheckResult;

    use super::*;

    #[test]
    fn every_line_has_the_whole_set_of_words() {
        let check = |name: &str, reason: Option<&str>| CheckResult {
            name: name.into(),
            passed: reason.is_none(),
            reason: reason.map(str::to_owned),
            degraded: None,
            duration_ms: 0,
        };
        let answer = |checks: Vec<CheckResult>| Ok(HealthResponse::new(checks));
        let (ro, cordon) =
            (check("filesystem_ro", Some("sda1\r\nup")), check("schedulable", Some("c")));
        // (answer, maint, weight, line)
        for (answer, maint, weight, expected) in [
            (answer(vec![check("io_stall", None)]), false, 100, "up ready 100%\n"),
            (answer(vec![]), false, 40, "up ready 40%\n"),
            (answer(vec![cordon.clone()]), false, 100, "up drain\n"),
            (answer(vec![cordon.clone()]), true, 100, "up maint\n"),
            (answer(vec![ro.clone()]), true, 50, "down ready 50% #filesystem_ro: sda1??up\n"),
            (
                answer(vec![ro, cordon]),
                false,
                100,
                "down drain #filesystem_ro: sda1??up; schedulable: c\n",
            ),
            (
                Err(Refused::NoNodeName("node_ready".into())),
                false,
                100,
                "down ready 100% #NODE_NAME is not set, and node_ready needs it\n",
            ),
        ] {
            assert_eq!(line(&answer, maint, weight), expected);
        }
    }
}
