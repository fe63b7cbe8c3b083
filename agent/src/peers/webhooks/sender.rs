//! Posts the bodies, signed where a key is configured.

use std::{fmt, fs, io, path::PathBuf, time::Duration};

use hyper::{
    body::Bytes,
    header::{self, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue},
};
use ring::hmac;

use super::queue::Attempt;
use crate::{
    host::{Bounded, Stuck},
    peers::{
        http_client::{HttpClient, RequestError, in_turn},
        url::Url,
    },
};

/// The header that is the same for the same death or recovery, whichever coordinator sends it.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header with the HMAC-SHA256 of the body, in the form of GitHub's webhooks: `sha256=` and 64 hexadecimal digits.
const SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");
/// 1 second to read the key, which is a file of some bytes.
const KEY_DEADLINE: Duration = Duration::from_secs(1);

/// Posts to one URL.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) client: HttpClient,
    pub(super) url: Url,
    /// Read for each webhook, so that it can be replaced.
    pub(super) key_file: Option<PathBuf>,
    pub(super) bounded: Bounded,
}

/// Why a webhook was not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("WEBHOOK_KEY_FILE: {0}")]
    Key(io::Error),
    #[error("WEBHOOK_KEY_FILE: {0}")]
    KeyStuck(Stuck),
    #[error("WEBHOOK_KEY_FILE: it is empty")]
    NoKey,
    #[error("a header: {0}")]
    Header(#[from] InvalidHeaderValue),
    #[error("{0}")]
    Request(#[from] RequestError),
}

impl SendError {
    /// What it means for the queue.
    pub(super) fn attempt(&self) -> Attempt {
        match self {
            Self::Request(
                RequestError::Name(_) | RequestError::Stuck(..) | RequestError::Connect(_),
            ) => Attempt::NotConnected,
            _ => Attempt::NotAccepted,
        }
    }
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl Sender {
    /// Posts a body once.
    pub(super) async fn post(&self, body: String, key: Option<&str>) -> Result<(), SendError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = key {
            headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key)?);
        }
        if let Some(secret) = self.secret().await? {
            headers.insert(SIGNATURE, HeaderValue::from_str(&signature(&secret, body.as_bytes()))?);
        }
        Ok(self.client.post(&self.url, headers, Bytes::from(body)).await?)
    }

    /// The key for signatures, without white space around it.
    async fn secret(&self) -> Result<Option<Vec<u8>>, SendError> {
        let Some(path) = self.key_file.clone() else { return Ok(None) };
        let name = format!("webhook key {}", path.display());
        let limits = (KEY_DEADLINE, KEY_DEADLINE);
        let read = in_turn(&self.bounded, name, limits, move || fs::read(path)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(SendError::Key(error)),
            Err(stuck) => return Err(SendError::KeyStuck(stuck)),
        };
        let secret = bytes.trim_ascii();
        if secret.is_empty() {
            return Err(SendError::NoKey);
        }
        Ok(Some(secret.to_vec()))
    }
}

fn signature(secret: &[u8], body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), body);
    let hex = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256={}", hex.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_rfc() {
        // RFC 4231, test case 2.
        let found = signature(b"Jefe", b"what do ya want for nothing?");
        let expected = "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(found, expected);
    }
}
