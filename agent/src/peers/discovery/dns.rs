//! Peers by a DNS name that has the addresses of all.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Duration,
};

use tocsin_runtime::jitter;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    host::Bounded,
    peers::channels::{Discovered, DiscoveredPeer},
};

/// 5 seconds for an answer, after which a resolver has asked a second nameserver.
const DEADLINE: Duration = Duration::from_secs(5);
/// 2 seconds between attempts while the name has never had an address: the agents of a cluster start together.
const EAGER: Duration = Duration::from_secs(2);
/// 30 seconds between attempts after that, the usual time to live of a cluster's names; gossip is faster.
const CALM: Duration = Duration::from_secs(30);
/// 1 hour that an address is kept which the name does not have any more. A Service's name has the addresses of ready
/// pods only, so that an agent that died leaves it before anybody has looked after it.
const KEPT: Duration = Duration::from_hours(1);

/// The addresses that a name has had: PURE.
#[derive(Debug, Default)]
struct Addresses {
    last_seen: BTreeMap<IpAddr, Instant>,
    first_answer: Option<Instant>,
}

impl Addresses {
    /// Takes in an answer.
    fn on_answer(&mut self, addresses: impl IntoIterator<Item = IpAddr>, now: Instant) {
        for address in addresses {
            self.last_seen.insert(address.to_canonical(), now);
        }
        if !self.last_seen.is_empty() {
            self.first_answer.get_or_insert(now);
        }
        self.last_seen.retain(|_, seen| now.saturating_duration_since(*seen) < KEPT);
    }

    /// What membership is told.
    fn discovered(&self, port: u16, degraded: Option<String>, now: Instant) -> Discovered {
        let peer = |ip: &IpAddr| DiscoveredPeer { address: SocketAddr::new(*ip, port), node: None };
        Discovered {
            peers: self.last_seen.keys().map(peer).collect(),
            is_complete: degraded.is_none()
                && self.first_answer.is_some_and(|first| first + KEPT <= now),
            degraded,
        }
    }
}

/// Resolves the name again and again.
pub(super) async fn follow(
    host: String,
    port: u16,
    bounded: Bounded,
    found: watch::Sender<Discovered>,
) {
    let mut addresses = Addresses::default();
    loop {
        let name = host.clone();
        let resolve = move || -> io::Result<Vec<IpAddr>> {
            Ok((name.as_str(), port).to_socket_addrs()?.map(|address| address.ip()).collect())
        };
        let answer = bounded.run(format!("PEERS_JOIN {host}"), DEADLINE, resolve).await;
        let why = match answer {
            Ok(Ok(answer)) => {
                addresses.on_answer(answer, Instant::now());
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(stuck) => Some(stuck.to_string()),
        };
        let degraded = why.map(|why| format!("PEERS_JOIN: {host} cannot be resolved: {why}"));
        let discovered = addresses.discovered(port, degraded, Instant::now());
        found.send_if_modified(|old| {
            let is_new = *old != discovered;
            *old = discovered;
            is_new
        });
        let pause = if addresses.first_answer.is_none() { EAGER } else { CALM };
        sleep(pause + jitter::up_to(pause / 10)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[test]
    fn an_address_is_kept_for_an_hour() {
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let start = Instant::now();
        let mut addresses = Addresses::default();
        let found = |addresses: &Addresses, now| {
            let found = addresses.discovered(9, None, now);
            let peers = found.peers.iter().map(|peer| peer.address.to_string());
            (peers.collect::<Vec<_>>(), found.is_complete)
        };
        addresses.on_answer([], start);
        assert_eq!(found(&addresses, start), (vec![], false));
        addresses.on_answer([ip(1), ip(2)], start);
        let both = vec!["10.0.0.1:9".to_owned(), "10.0.0.2:9".to_owned()];
        assert_eq!(found(&addresses, start), (both.clone(), false));
        addresses.on_answer([ip(1)], start + KEPT / 2);
        assert_eq!(found(&addresses, start + KEPT / 2), (both.clone(), false));
        addresses.on_answer([ip(1)], start + KEPT);
        assert_eq!(found(&addresses, start + KEPT), (both[..1].to_vec(), true));
        // A failure forgets nobody.
        let failed = addresses.discovered(9, Some("no".into()), start + KEPT);
        assert!(!failed.is_complete && failed.peers.len() == 1);
    }

    #[tokio::test]
    async fn names_are_resolved_and_failures_are_told() {
        for (host, is_there) in [("localhost", true), ("does-not-exist.invalid", false)] {
            let (sender, mut found) = watch::channel(Discovered::default());
            let task = tokio::spawn(follow(host.into(), 7, Bounded::default(), sender));
            timeout(Duration::from_mins(1), found.changed()).await.unwrap().unwrap();
            let found = found.borrow().clone();
            task.abort();
            assert_eq!(found.degraded.is_none(), is_there, "{found:?}");
            let is_local =
                |peer: &DiscoveredPeer| peer.address.ip().is_loopback() && peer.address.port() == 7;
            assert_eq!(found.peers.iter().any(is_local), is_there, "{found:?}");
        }
    }
}
