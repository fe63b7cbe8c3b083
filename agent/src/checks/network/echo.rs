//! ICMP echo to gateways, each over the link of its route.

use std::{
    io::{self, ErrorKind, Read},
    net::{IpAddr, SocketAddr, SocketAddrV6},
};

use socket2::{Domain, Protocol, Socket, Type};
use tocsin_runtime::fd;
use tokio::{
    io::Interest,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{netlink::NextHopState, nonce::nonce, settings};

/// The result of an echo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    /// The gateway answered.
    Answered,
    /// The gateway did not answer in time, or the kernel reported that it cannot be reached.
    Silent,
    /// This process may not send an echo, and why.
    Forbidden(String),
}

/// Sends an echo to the gateway of each next hop at the same time, and stops at the first answer.
pub(super) async fn send_to_all(hops: &[NextHopState]) -> Vec<Echo> {
    let deadline = Instant::now() + settings::ECHO_TIMEOUT;
    let mut echoes = vec![Echo::Silent; hops.len()];
    let mut tasks = JoinSet::new();
    for (index, state) in hops.iter().enumerate() {
        let Some(gateway) = state.hop.gateway else { continue };
        let (link, name) = (state.hop.link, state.link.as_ref().map(|link| link.name.clone()));
        tasks.spawn(async move {
            let echo = send_to(gateway, link, name.as_deref(), deadline).await;
            (index, echo)
        });
    }
    while let Some(joined) = tasks.join_next().await {
        // A task that panicked has no answer.
        let Ok((index, echo)) = joined else { continue };
        let is_answered = echo == Echo::Answered;
        if let Some(result) = echoes.get_mut(index) {
            *result = echo;
        }
        if is_answered {
            break;
        }
    }
    echoes
}

async fn send_to(gateway: IpAddr, link: u32, name: Option<&str>, deadline: Instant) -> Echo {
    let socket = match open(gateway, link, name) {
        Ok(socket) => socket,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Echo::Forbidden(
                "no ICMP echo may be sent (neither CAP_NET_RAW nor net.ipv4.ping_group_range)"
                    .to_owned(),
            );
        }
        // There is no route to it.
        Err(_) => return Echo::Silent,
    };
    match timeout_at(deadline, send_until_answered(socket, gateway)).await {
        Ok(Ok(())) => Echo::Answered,
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            Echo::Forbidden("the ICMP echo was refused by this host's own firewall".to_owned())
        }
        Ok(Err(_)) | Err(_) => Echo::Silent,
    }
}

/// Opens a ping socket where the group of this process may, else a raw socket.
fn open(gateway: IpAddr, link: u32, name: Option<&str>) -> io::Result<Socket> {
    let (domain, protocol) = match gateway {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let kind = |kind: Type| Socket::new(domain, kind.nonblocking(), Some(protocol));
    let socket = kind(Type::DGRAM).or_else(|_| kind(Type::RAW))?;
    if let Some(name) = name {
        // Where two links lead to one network, the route could take the other one. Before Linux 5.7 this needs
        // CAP_NET_RAW.
        let _else_as_the_routes_say = socket.bind_device(Some(name.as_bytes()));
    }
    let to: SocketAddr = match gateway {
        IpAddr::V4(ip) => (ip, 0).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, 0, 0, link).into(),
    };
    socket.connect(&to.into())?;
    Ok(socket)
}

/// Sends the echo again and again until the answer comes.
async fn send_until_answered(socket: Socket, gateway: IpAddr) -> io::Result<()> {
    let nonce = nonce();
    let watched = fd::watch(socket, Interest::READABLE)?;
    let mut buffer = vec![0; 1500];
    for number in 1.. {
        watched.get_ref().send(&request(gateway, number, nonce))?;
        let retry = Instant::now() + settings::ECHO_RETRY;
        let answer = async {
            loop {
                let mut ready = watched.readable().await?;
                let received = ready.try_io(|inner| {
                    let mut socket: &Socket = inner.get_ref();
                    socket.read(&mut buffer)
                });
                let Ok(received) = received else { continue };
                if is_answer(gateway, buffer.get(..received?).unwrap_or_default(), nonce) {
                    return io::Result::Ok(());
                }
            }
        };
        if let Ok(answered) = timeout_at(retry, answer).await {
            return answered;
        }
    }
    Ok(())
}

/// The ICMP types of an echo request and its reply.
const ECHO_V4: (u8, u8) = (8, 0);
/// The same for IPv6.
const ECHO_V6: (u8, u8) = (128, 129);

/// An echo request: type, code, checksum, identifier, sequence number and the nonce. A ping socket replaces the
/// identifier, and for IPv6 the kernel computes the checksum.
fn request(gateway: IpAddr, number: u16, nonce: [u8; 8]) -> Vec<u8> {
    let (kind, _) = if gateway.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
    let [one, two, ..] = nonce;
    let mut message = vec![kind, 0, 0, 0, one, two];
    message.extend(number.to_be_bytes());
    message.extend(nonce);
    if gateway.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        for (place, byte) in message.iter_mut().skip(2).zip(sum) {
            *place = byte;
        }
    }
    message
}

/// The Internet checksum (RFC 1071).
fn checksum(message: &[u8]) -> u16 {
    let words = message.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// Whether these bytes are the reply to the echo with that nonce. A raw IPv4 socket receives the IP header too, and the
/// messages of every other program.
fn is_answer(gateway: IpAddr, bytes: &[u8], nonce: [u8; 8]) -> bool {
    let (_, answer) = if gateway.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
    let header = match bytes.first() {
        // An IPv4 header begins with version 4 and its length in words, 5 or more. No ICMP type is that large.
        Some(first) if gateway.is_ipv4() && first >> 4 == 4 => usize::from(first & 15) * 4,
        _ => 0,
    };
    let Some(message) = bytes.get(header..) else { return false };
    message.first() == Some(&answer) && message.get(8..16) == Some(&nonce[..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    #[test]
    fn an_answer_is_known_by_its_nonce() {
        let (v4, v6): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), "fe80::1".parse().unwrap());
        let message = |kind: u8| [&[kind, 0, 9, 9, 9, 9, 0, 1][..], &NONCE].concat();
        let with_header = |words: u8, message: &[u8]| {
            let mut bytes = vec![0; usize::from(words) * 4];
            bytes[0] = 4 << 4 | words;
            bytes.extend(message);
            bytes
        };
        for (gateway, bytes, expected) in [
            (v4, message(0), true),
            (v4, with_header(5, &message(0)), true),
            (v4, with_header(6, &message(0)), true),
            // The request itself, as a raw socket on loopback receives it.
            (v4, message(8), false),
            (v4, with_header(5, &message(8)), false),
            (v4, message(129), false),
            (v6, message(129), true),
            (v6, message(128), false),
            (v6, message(0), false),
            (v4, message(0)[..15].to_vec(), false),
            (v4, vec![0x4f], false),
            (v4, Vec::new(), false),
            (v6, Vec::new(), false),
        ] {
            assert_eq!(is_answer(gateway, &bytes, NONCE), expected, "{gateway} {bytes:?}");
        }
        let mut others = message(0);
        others[8] = 0;
        assert!(!is_answer(v4, &others, NONCE));
    }

    #[test]
    fn a_request_has_a_checksum_for_ipv4() {
        let v4 = request([10, 0, 0, 1].into(), 1, NONCE);
        assert_eq!(v4[0], 8);
        assert_eq!(checksum(&v4), 0);
        let v6 = request("fe80::1".parse().unwrap(), 1, NONCE);
        assert_eq!(v6[..4], [128, 0, 0, 0]);
        assert_eq!(checksum(&[0xff, 0xff, 1]), !0x100);
    }

    #[tokio::test]
    async fn this_host_answers_itself() {
        let deadline = Instant::now() + std::time::Duration::from_secs(10);
        let echo = send_to([127, 0, 0, 1].into(), 0, Some("lo"), deadline).await;
        if Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).is_ok() {
            assert_eq!(echo, Echo::Answered);
        } else {
            // A ping socket may be allowed all the same (net.ipv4.ping_group_range).
            assert_ne!(echo, Echo::Silent);
        }
    }
}
