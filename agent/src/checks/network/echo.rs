//! ICMP echo: asks a gateway whether it is there, over the link that its route names.

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

use super::{netlink::Way, random};
use crate::checks::network::settings;

/// What became of an echo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Echo {
    /// It came back.
    Answered,
    /// It did not, in time; or the kernel had word that it will not.
    Silent,
    /// It could not be sent, for want of a right.
    Forbidden(String),
}

/// Asks them all at once, until one answers.
pub(super) async fn ask(ways: &[Way]) -> Vec<Echo> {
    let deadline = Instant::now() + settings::ECHO_TIMEOUT;
    let mut echoes = vec![Echo::Silent; ways.len()];
    let mut asking = JoinSet::new();
    for (index, way) in ways.iter().enumerate() {
        let Some(gateway) = way.hop.gateway else { continue };
        let (link, name) = (way.hop.link, way.link.as_ref().map(|link| link.name.clone()));
        asking.spawn(async move {
            let echo = exchange(gateway, link, name.as_deref(), deadline).await;
            (index, echo)
        });
    }
    while let Some(joined) = asking.join_next().await {
        // One that panicked has not answered.
        let Ok((index, echo)) = joined else { continue };
        let is_enough = echo == Echo::Answered;
        if let Some(seat) = echoes.get_mut(index) {
            *seat = echo;
        }
        if is_enough {
            break;
        }
    }
    echoes
}

async fn exchange(gateway: IpAddr, link: u32, name: Option<&str>, deadline: Instant) -> Echo {
    let socket = match open(gateway, link, name) {
        Ok(socket) => socket,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Echo::Forbidden(
                "no ICMP echo may be sent (neither CAP_NET_RAW nor net.ipv4.ping_group_range)"
                    .to_owned(),
            );
        }
        // No way to it: not there.
        Err(_) => return Echo::Silent,
    };
    match timeout_at(deadline, talk(socket, gateway)).await {
        Ok(Ok(())) => Echo::Answered,
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            Echo::Forbidden("the ICMP echo was refused by this host's own firewall".to_owned())
        }
        Ok(Err(_)) | Err(_) => Echo::Silent,
    }
}

/// A ping socket where this group may have one, else a raw one.
fn open(gateway: IpAddr, link: u32, name: Option<&str>) -> io::Result<Socket> {
    let (domain, protocol) = match gateway {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let kind = |kind: Type| Socket::new(domain, kind.nonblocking(), Some(protocol));
    let socket = kind(Type::DGRAM).or_else(|_| kind(Type::RAW))?;
    if let Some(name) = name {
        // Where two links lead to one network, the other one would prove nothing. Before 5.7 this took a right.
        let _as_the_routes_have_it = socket.bind_device(Some(name.as_bytes()));
    }
    let to: SocketAddr = match gateway {
        IpAddr::V4(ip) => (ip, 0).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, 0, 0, link).into(),
    };
    socket.connect(&to.into())?;
    Ok(socket)
}

async fn talk(socket: Socket, gateway: IpAddr) -> io::Result<()> {
    let nonce = random();
    let watched = fd::watch(socket, Interest::READABLE)?;
    let mut buffer = vec![0; 1500];
    for number in 1.. {
        watched.get_ref().send(&request(gateway, number, nonce))?;
        let again = Instant::now() + settings::ECHO_AGAIN;
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
        if let Ok(answered) = timeout_at(again, answer).await {
            return answered;
        }
    }
    Ok(())
}

const ECHO_V4: (u8, u8) = (8, 0);
const ECHO_V6: (u8, u8) = (128, 129);

/// Type, code, checksum, identifier, number, and something to know it by. A ping socket puts its own identifier in,
/// and for IPv6 the kernel makes the checksum.
fn request(gateway: IpAddr, number: u16, nonce: [u8; 8]) -> Vec<u8> {
    let (kind, _) = if gateway.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
    let [one, two, ..] = nonce;
    let mut message = vec![kind, 0, 0, 0, one, two];
    message.extend(number.to_be_bytes());
    message.extend(nonce);
    if gateway.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        for (seat, byte) in message.iter_mut().skip(2).zip(sum) {
            *seat = byte;
        }
    }
    message
}

/// RFC 1071.
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

/// Whether these bytes are the answer to what was sent with `nonce`. A raw IPv4 socket gives the IP header too, and
/// every other program's messages.
fn is_answer(gateway: IpAddr, bytes: &[u8], nonce: [u8; 8]) -> bool {
    let (_, answer) = if gateway.is_ipv4() { ECHO_V4 } else { ECHO_V6 };
    let header = match bytes.first() {
        // Type 69 of ICMP does not exist; 4 is the version, 5 and more the header's length in words.
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
    fn an_answer_is_known_by_its_payload() {
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
            // What was sent itself, as a raw socket on loopback sees it.
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
        // Where neither right is there, that is what it says.
        let echo = exchange([127, 0, 0, 1].into(), 0, Some("lo"), deadline).await;
        assert_ne!(echo, Echo::Silent);
    }
}
