//! The token file: read at the start, and again when it changes.

use std::{
    io::{self, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Context;
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{
    settings::{TOKEN_BYTES, TOKEN_INTERVAL, TokenSource},
    tokens::{BadTokens, Tokens},
};

/// Readings of the token file.
#[derive(Debug, Default)]
pub struct TokenReloads {
    /// Those that failed.
    pub failures: AtomicU64,
}

/// Why a token file cannot be used; the text has nothing of what is in it.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("longer than {} KiB", TOKEN_BYTES / 1024)]
    TooLong,
    #[error("not UTF-8")]
    NotText,
    #[error("{0}")]
    Tokens(#[from] BadTokens),
}

/// The tokens of now, and the task that keeps them current.
///
/// Fails where the file cannot be used at the start: later the tokens from before stay.
pub fn start(
    source: TokenSource,
    reloads: &Arc<TokenReloads>,
) -> anyhow::Result<(watch::Receiver<Arc<Tokens>>, Option<Follower>)> {
    let fixed = source.fixed.unwrap_or_default();
    let Some(path) = source.file else { return Ok((watch::channel(Arc::new(fixed)).1, None)) };
    let first = read(&path).with_context(|| format!("AUTH_TOKEN_FILE {}", path.display()))?;
    let (sender, receiver) = watch::channel(Arc::new(fixed.clone().with(first)));
    Ok((receiver, Some(Follower { path, fixed, sender, reloads: reloads.clone() })))
}

/// Keeps the tokens of a file current.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    fixed: Tokens,
    sender: watch::Sender<Arc<Tokens>>,
    reloads: Arc<TokenReloads>,
}

impl Follower {
    /// Looks at the file every [`TOKEN_INTERVAL`], for ever. A Secret's volume changes by a link that is moved, so the
    /// content is compared and no time.
    pub async fn run(self) {
        let Self { path, fixed, sender, reloads } = self;
        let mut is_failing = false;
        loop {
            sleep(TOKEN_INTERVAL).await;
            let file = path.clone();
            // The file may be on a disk that hangs.
            let tokens = match tokio::task::spawn_blocking(move || read(&file)).await {
                Ok(read) => read,
                Err(error) => Err(FileError::Read(io::Error::other(error))),
            };
            match tokens {
                Ok(tokens) => {
                    is_failing = false;
                    let tokens = fixed.clone().with(tokens);
                    if **sender.borrow() != tokens {
                        info!(path = %path.display(), ?tokens, "the token file has changed");
                        sender.send_replace(Arc::new(tokens));
                    }
                }
                Err(error) => {
                    reloads.failures.fetch_add(1, Relaxed);
                    if !is_failing {
                        warn!(path = %path.display(), %error, "the token file cannot be used: the tokens from before stay");
                    }
                    is_failing = true;
                }
            }
        }
    }
}

fn read(path: &PathBuf) -> Result<Tokens, FileError> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(TOKEN_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > TOKEN_BYTES {
        return Err(FileError::TooLong);
    }
    let text = String::from_utf8(bytes).map_err(|_| FileError::NotText)?;
    Ok(Tokens::parse(&text)?)
}
