//! A small HTTP client for a running agent.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow, bail};
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// 5 seconds for an answer: an agent answers from memory, within milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);

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
