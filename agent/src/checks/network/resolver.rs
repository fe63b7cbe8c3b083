//! Queries nameservers, over UDP and TCP.

use std::{
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::{
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    dns::{Question, Reply, judge},
    finding::Finding,
    nonce::nonce,
    resolv_conf::{ResolvConf, display},
    settings,
};

/// 4 KiB for a datagram. An answer without EDNS has 512 bytes at most; a longer message is no answer.
const DATAGRAM: usize = 4096;

/// Queries all nameservers, each [`settings::DNS_STAGGER`] after the one before. The first answer is enough.
pub(super) async fn query(resolv_conf: &ResolvConf, question: &Question) -> Finding {
    let began = Instant::now();
    let deadline = began + settings::DNS_TIMEOUT;
    let mut queries = JoinSet::new();
    for (index, &server) in (0..).zip(&resolv_conf.servers) {
        let (question, tcp_only) = (question.clone(), resolv_conf.tcp_only);
        queries.spawn(async move {
            // Not for the first one: even a timer that is due already takes until the next millisecond.
            if index > 0 {
                sleep_until(began + settings::DNS_STAGGER * index).await;
            }
            (index, query_one(server, &question, tcp_only, deadline).await)
        });
    }
    let mut refusals = Vec::new();
    while let Some(joined) = queries.join_next().await {
        match joined {
            Ok((_, Ok(()))) => return Finding::Good,
            Ok((index, Err(why))) => refusals.push((index, why)),
            Err(panicked) => refusals.push((u32::MAX, panicked.to_string())),
        }
    }
    // In the order of the file.
    refusals.sort();
    let refusals: Vec<_> = refusals.into_iter().map(|(_, why)| why).collect();
    if refusals.is_empty() {
        return Finding::Bad("every nameserver is on a link that is not there".to_owned());
    }
    Finding::Bad(format!("no nameserver answers {question}: {}", refusals.join(", ")))
}

async fn query_one(
    server: SocketAddr,
    question: &Question,
    tcp_only: bool,
    deadline: Instant,
) -> Result<(), String> {
    let [high, low, ..] = nonce();
    let id = u16::from_be_bytes([high, low]);
    let who = display(&server);
    let message = question.message(id).ok_or("the question cannot be written")?;
    // The last message that was no answer, for the reason.
    let mut unrelated = None;
    if !tcp_only {
        let reply = until(deadline, by_udp(server, &message, question, id, &mut unrelated)).await;
        match reply {
            Some(Ok(Reply::Refusal(code))) => return Err(format!("{who} says {code}")),
            Some(Ok(Reply::Truncated)) => {}
            Some(Ok(Reply::Answer | Reply::Unrelated(_))) => return Ok(()),
            Some(Err(error)) => return Err(format!("{who}: {}", plain(&error))),
            None => {
                return Err(match unrelated {
                    Some(what) => format!("{who} sends {what}"),
                    None => format!("{who} does not answer within {} s", limit()),
                });
            }
        }
    }
    match until(deadline, by_tcp(server, &message)).await {
        Some(Ok(bytes)) => match judge(question, id, &bytes) {
            // The flag has no meaning over TCP.
            Reply::Answer | Reply::Truncated => Ok(()),
            Reply::Refusal(code) => Err(format!("{who} says {code} over TCP")),
            Reply::Unrelated(what) => Err(format!("{who} sends {what} over TCP")),
        },
        Some(Err(error)) => Err(format!("{who} over TCP: {}", plain(&error))),
        None => Err(format!("{who} does not answer over TCP within {} s", limit())),
    }
}

/// The deadline in seconds, for reasons.
fn limit() -> f64 {
    settings::DNS_TIMEOUT.as_secs_f64()
}

async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    timeout_at(deadline, future).await.ok()
}

/// The error without its number.
fn plain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(_) => error.kind().to_string(),
        None => error.to_string(),
    }
}

/// Sends the query, and sends it again if nothing comes, because packets get lost. A message that is no answer is
/// skipped, since anyone can send one.
async fn by_udp(
    server: SocketAddr,
    message: &[u8],
    question: &Question,
    id: u16,
    unrelated: &mut Option<&'static str>,
) -> io::Result<Reply> {
    let own: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = std::net::UdpSocket::bind(own)?;
    socket.set_nonblocking(true)?;
    // A connected socket receives from this server only, and reports its ICMP errors.
    socket.connect(server)?;
    // Sent by the standard library: tokio would wait for the socket to become writable first.
    socket.send(message)?;
    let socket = UdpSocket::from_std(socket)?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let retry = Instant::now() + settings::DNS_RETRY;
        while let Some(received) = until(retry, socket.recv(&mut buffer)).await {
            match judge(question, id, buffer.get(..received?).unwrap_or_default()) {
                Reply::Unrelated(what) => *unrelated = Some(what),
                reply => return Ok(reply),
            }
        }
        socket.send(message).await?;
    }
}

/// Sends the query and reads the answer, each with its length before it (RFC 1035, 4.2.2).
async fn by_tcp(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let stream = TcpStream::connect(server).await?;
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let out = [&length.to_be_bytes()[..], message].concat();
    let mut sent = 0;
    while let Some(rest) = out.get(sent..).filter(|rest| !rest.is_empty()) {
        stream.writable().await?;
        match stream.try_write(rest) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    let length = read_exact(&stream, 2).await?;
    let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    read_exact(&stream, length).await
}

async fn read_exact(stream: &TcpStream, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut got = 0;
    while let Some(rest) = bytes.get_mut(got..).filter(|rest| !rest.is_empty()) {
        stream.readable().await?;
        match stream.try_read(rest) {
            Ok(0) => return Err(io::Error::other("closed before the answer was complete")),
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
