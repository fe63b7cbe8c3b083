//! `HAProxy`'s agent-check: a connection is answered with one line and closed, whether anything is sent on it or not.
//!
//! The line always has the whole set of words: "Parameters which are not advertised by the agent are not changed"
//! (`HAProxy`'s configuration manual, `agent-check`), so that what an earlier answer did is always taken back.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rustix::net::{SendFlags, send};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{accept_failed, health::one_line, stopped};
use crate::{
    health,
    health::{Answer, Board, Changes, Refused},
    serve::settings,
};

/// What a line says, besides what the checks say.
#[derive(Clone, Debug)]
pub struct Words {
    /// Say `maint` instead of `drain`, which also stops `HAProxy`'s checks.
    pub maint: bool,
    /// In percent.
    pub weight: watch::Receiver<u8>,
}

/// The line. Pure.
///
/// No weight beside `drain` and `maint`, where it means nothing: `HAProxy` (2.6, seen) logs "remains in forced drain
/// mode" at every answer that has both. The next `ready` comes with it.
#[must_use]
pub fn line(answer: &Result<Answer, Refused>, maint: bool, weight: u8) -> String {
    let cordoned = if maint { "maint" } else { "drain" };
    match answer {
        Ok(answer) if answer.is_ready() => format!("up ready {weight}%\n"),
        Ok(answer) if answer.is_drain() => format!("up {cordoned}\n"),
        Ok(answer) => {
            let is_cordoned = answer.checks.iter().any(|c| c.name == "schedulable" && !c.passed);
            let why = one_line(&answer.summary().unwrap_or_default());
            if is_cordoned {
                format!("down {cordoned} #{why}\n")
            } else {
                format!("down ready {weight}% #{why}\n")
            }
        }
        Err(refused) => format!("down ready {weight}% #{}\n", one_line(&refused.to_string())),
    }
}

/// The line of this moment, rendered once for as long as it is true.
#[derive(Debug)]
pub struct Line {
    board: Board,
    words: Words,
    kept: Mutex<Kept>,
    /// How often it was given.
    pub answered: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Kept {
    changes: Changes,
    made: Option<Instant>,
    line: Arc<str>,
}

impl Line {
    /// Of what `board` says.
    #[must_use]
    pub fn new(board: Board, words: Words, answered: Arc<AtomicU64>) -> Self {
        let kept = Kept { changes: board.changes(), made: None, line: Arc::from("") };
        Self { board, words, kept: Mutex::new(kept), answered }
    }

    /// What to say, unless a probe has no result yet.
    fn now(&self) -> Option<Arc<str>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_old = |made| now.saturating_duration_since(made) >= health::ANSWER_AGE;
        if kept.changes.any() || kept.made.is_none_or(is_old) {
            kept.made = None;
            let answer = self.board.ask_now(&self.board.with_drain())?;
            kept.line = self.line(&answer).into();
            kept.made = Some(now);
        }
        Some(kept.line.clone())
    }

    fn line(&self, answer: &Result<Answer, Refused>) -> String {
        line(answer, self.words.maint, *self.words.weight.borrow())
    }

    /// Says it.
    fn give(&self, stream: &TcpStream, text: &str) -> bool {
        self.answered.fetch_add(1, Relaxed);
        // Not by way of the runtime, which would first ask epoll: a line always fits into an empty socket.
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(stream, text.as_bytes(), flags).is_ok()
    }
}

/// Answers until `stop`.
pub async fn run(listener: TcpListener, line: Arc<Line>, stop: watch::Receiver<bool>) {
    let seats = Arc::new(Semaphore::new(settings::AGENT_CHECKS));
    let mut stopped = std::pin::pin!(stopped(stop));
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
        // Who finds no seat is answered too, but not waited for.
        let seat = seats.clone().try_acquire_owned().ok();
        let text = line.now();
        if let Some(text) = &text
            && !line.give(&stream, text)
        {
            continue;
        }
        let Some(seat) = seat else { continue };
        let line = line.clone();
        tokio::spawn(async move {
            if text.is_none() {
                // `HAProxy` takes a slow answer for none, and none changes nothing.
                let answer = line.board.ask(&line.board.with_drain()).await;
                let text = line.line(&answer);
                line.give(&stream, &text);
            }
            farewell(stream).await;
            drop(seat);
        });
    }
}

/// What is sent with `agent-send` must not be there unread when the connection is closed: that would reset it, and
/// take the line with it.
async fn farewell(mut stream: TcpStream) {
    let read_on = async {
        if stream.shutdown().await.is_ok() {
            let (mut sunk, mut rest) = ([0; 256], 4096_usize);
            while let Ok(read @ 1..) = stream.read(&mut sunk).await {
                rest = rest.saturating_sub(read);
                if rest == 0 {
                    break;
                }
            }
        }
    };
    let _gone_either_way = timeout(FAREWELL, read_on).await;
}

/// A round trip, and what a busy load balancer needs to read a line.
const FAREWELL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::CheckAnswer;

    #[test]
    fn always_the_whole_set_of_words() {
        let check = |name: &str, reason: Option<&str>| CheckAnswer {
            name: name.into(),
            passed: reason.is_none(),
            reason: reason.map(str::to_owned),
            degraded: None,
            duration_ms: 0,
        };
        let answer = |checks: Vec<CheckAnswer>| {
            let ready = checks.iter().all(|check| check.passed);
            let status = if ready { "ready" } else { "not-ready" };
            Ok(Answer { status, checks, total_duration_ms: 0 })
        };
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
