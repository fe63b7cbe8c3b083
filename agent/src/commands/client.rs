//! A small HTTP client for a running agent.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::print;
use crate::cli::Output;

/// 5 seconds for an answer: an agent answers from memory, within milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);

/// What a running agent answers on its admin listener. As JSON, it is printed as it came, and `None`.
pub(super) async fn ask<T: DeserializeOwned>(
    base: &str,
    path: &str,
    output: Output,
) -> anyhow::Result<Option<T>> {
    let (status, body) = get(base, path)
        .await
        .context("no agent answered; is it running? (--admin-url says where)")?;
    if !status.is_success() {
        bail!("the agent answered {status}");
    }
    if output == Output::Json {
        print(&format!("{}\n", String::from_utf8_lossy(&body)));
        return Ok(None);
    }
    serde_json::from_slice(&body).map(Some).context("the answer is not that of an agent")
}

/// `GET <base><path>`
pub(super) async fn get(base: &str, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    // `http://host:port`, `host:port`, with or without a path behind it.
    let host = base.strip_prefix("http://").unwrap_or(base);
    let host = host.split('/').next().unwrap_or_default();
    if base.starts_with("https://") || !host.contains(':') {
        bail!(
            "{base:?} is not an address like http://127.0.0.1:{}",
            crate::serve::settings::LISTEN_PORT
        );
    }
    let ask = async {
        let stream =
            TcpStream::connect(host).await.with_context(|| format!("connect to {host}"))?;
        exchange(stream, Method::GET, host, path).await
    };
    timeout(DEADLINE, ask).await.map_err(|_| anyhow!("{host} does not answer"))?
}

/// `POST <path>` on a unix socket.
pub(super) async fn post(socket: &Path, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let ask = async {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("connect to {}", socket.display()))?;
        exchange(stream, Method::POST, "localhost", path).await
    };
    timeout(DEADLINE, ask).await.map_err(|_| anyhow!("{} does not answer", socket.display()))?
}

async fn exchange<S>(
    stream: S,
    method: Method,
    host: &str,
    path: &str,
) -> anyhow::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .body(Empty::<Bytes>::new())
        .with_context(|| format!("not a path: {path:?}"))?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let (parts, body) = response.into_parts();
        anyhow::Ok((parts.status, body.collect().await?.to_bytes()))
    };
    tokio::select! {
        answer = answer => answer,
        ended = connection => match ended {
            Ok(()) => bail!("the connection ended without an answer"),
            Err(error) => Err(error.into()),
        },
    }
}
