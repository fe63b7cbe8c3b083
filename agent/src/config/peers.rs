//! The settings of the peers.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{ConfigError, error::within};
use crate::{
    cli::{PeerArgs, Switch},
    model::PeerIdentity,
    peers::{
        settings::{Join, Retries, Settings, Share, WebhookSettings, identifier},
        url::Url,
    },
};

/// The settings of the peers; `None` without `PEERS=on`, and then the other variables are not looked at: they have
/// common names, and may be meant for others.
pub(super) fn settings(
    args: PeerArgs,
    node_name: Option<&str>,
) -> Result<Option<Settings>, ConfigError> {
    if args.peers == Switch::Off {
        return Ok(None);
    }
    let node = node_name.ok_or(ConfigError::PeersNeed("NODE_NAME"))?;
    let ip = args.pod_ip.ok_or(ConfigError::PeersNeed("POD_IP"))?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(ConfigError::PodIp(ip));
    }
    let join = join(&args)?;
    let (least, most) = (Duration::from_millis(100), Duration::from_hours(1));
    for (name, period) in [
        ("CONNECT_COOLDOWN_PERIOD", args.connect_cooldown_period),
        ("SEND_COOLDOWN_PERIOD", args.send_cooldown_period),
        ("ELECTION_COOLDOWN_PERIOD", args.election_cooldown_period),
    ] {
        within(name, period, least, most)?;
    }
    let some = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    let storm_guard = text(args.storm_guard.as_deref()).filter(|text| *text != "off");
    Ok(Some(Settings {
        own: PeerIdentity {
            id: identifier(node, ip),
            node: node.into(),
            address: SocketAddr::new(ip, args.peers_port),
        },
        join,
        key_file: some(args.peers_key_file),
        webhooks: WebhookSettings {
            peer_status_url: url("PEER_STATUS_URL", args.peer_status_url.as_deref())?,
            cluster_status_url: url("CLUSTER_STATUS_URL", args.cluster_status_url.as_deref())?,
            key_file: some(args.webhook_key_file),
            recovery: args.peer_recovery,
            connect: Retries {
                attempts: args.connect_max_retries,
                cooldown: args.connect_cooldown_period,
            },
            send: Retries { attempts: args.send_max_retries, cooldown: args.send_cooldown_period },
            cluster_status_interval: args.election_cooldown_period,
        },
        sanity_check_url: url("SANITY_CHECK_URL", args.sanity_check_url.as_deref())?,
        peers_min: args.peers_min,
        storm_guard: storm_guard.map(str::parse::<Share>).transpose()?,
    }))
}

fn text(value: Option<&str>) -> Option<&str> {
    value.map(str::trim).filter(|text| !text.is_empty())
}

fn url(name: &'static str, value: Option<&str>) -> Result<Option<Url>, ConfigError> {
    let Some(text) = text(value) else { return Ok(None) };
    text.parse().map(Some).map_err(|_| ConfigError::PeersUrl(name, text.to_owned()))
}

fn join(args: &PeerArgs) -> Result<Join, ConfigError> {
    let service = text(args.service_name.as_deref());
    let Some(list) = text(args.peers_join.as_deref()) else {
        let Some(name) = service else { return Ok(Join::Nobody) };
        let namespace = text(args.namespace.as_deref());
        let namespace = namespace.ok_or(ConfigError::ServiceNeeds)?;
        return Ok(Join::Service { namespace: namespace.to_owned(), name: name.to_owned() });
    };
    if service.is_some() {
        return Err(ConfigError::TwoWaysToJoin);
    }
    let bad = || ConfigError::PeersJoin(list.to_owned());
    let peers = || list.split(',').map(str::trim).filter(|peer| !peer.is_empty());
    let port = args.peers_port;
    let addresses: Option<Vec<_>> = peers().map(|peer| address(peer, port)).collect();
    match addresses {
        Some(addresses) if !addresses.is_empty() => Ok(Join::Static(addresses)),
        Some(_) => Err(bad()),
        None => {
            let (host, port) = match list.rsplit_once(':') {
                Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
                None => (list, port),
            };
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if host.is_empty() || port == 0 || !host.chars().all(is_name) {
                return Err(bad());
            }
            Ok(Join::Dns { host: host.to_owned(), port })
        }
    }
}

/// `ip:port`, or an address with the own port.
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let ip = || text.parse().map(|ip| SocketAddr::new(ip, port));
    text.parse().or_else(|_| ip()).ok().filter(|address| address.port() != 0)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Agent {
        #[command(flatten)]
        args: PeerArgs,
    }

    fn parse(flags: &[&str]) -> Result<Option<Settings>, String> {
        let given = ["tocsin", "--peers=on", "--pod-ip=10.32.0.5"];
        let args = Agent::parse_from(given.iter().chain(flags)).args;
        settings(args, Some("my-node1")).map_err(|error| error.to_string())
    }

    #[test]
    fn identifiers_are_those_of_the_replaced_daemon_set() {
        let own = parse(&[]).unwrap().unwrap().own;
        assert_eq!(
            (&*own.id, own.address.to_string().as_str()),
            ("my-node1@103205", "10.32.0.5:25004")
        );
        assert_eq!(&*identifier("n", "fd00::1".parse().unwrap()), "n@fd00::1");
    }

    #[test]
    fn peers_are_off_by_default_and_need_a_name_and_an_address() {
        let args = |flags: &[&str]| Agent::parse_from(["tocsin"].iter().chain(flags)).args;
        assert_eq!(settings(args(&["--storm-guard=x"]), None).unwrap(), None);
        let error = |flags, node| settings(args(flags), node).unwrap_err().to_string();
        assert_eq!(error(&["--peers=on"], None), "PEERS=on needs NODE_NAME");
        assert_eq!(error(&["--peers=on"], Some("n")), "PEERS=on needs POD_IP");
        assert!(error(&["--peers=on", "--pod-ip=0.0.0.0"], Some("n")).starts_with("POD_IP: "));
    }

    #[test]
    fn ways_to_join() {
        let join = |flags: &[&str]| parse(flags).map(|settings| settings.unwrap().join);
        let addresses = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(join(&[]), Ok(Join::Nobody));
        let list = "--peers-join=10.0.0.1:7, [fd00::1]:8 ,10.0.0.2,";
        let expected = addresses(&["10.0.0.1:7", "[fd00::1]:8", "10.0.0.2:25004"]);
        assert_eq!(join(&[list]), Ok(Join::Static(expected)));
        let dns = |host: &str, port| Ok(Join::Dns { host: host.to_owned(), port });
        assert_eq!(join(&["--peers-join=agents.ns.svc"]), dns("agents.ns.svc", 25004));
        assert_eq!(join(&["--peers-join=agents.:9"]), dns("agents.", 9));
        let service = ["--service-name=agents", "--namespace=ns"];
        let expected = Join::Service { namespace: "ns".to_owned(), name: "agents".to_owned() };
        assert_eq!(join(&service), Ok(expected));
        assert_eq!(join(&["--service-name=a"]).unwrap_err(), "SERVICE_NAME needs NAMESPACE");
        for bad in [",", "a b", "name:x", "10.0.0.1:0", ":1", "name:0", "a,b"] {
            assert!(join(&[&format!("--peers-join={bad}")]).is_err(), "{bad}");
        }
        assert!(join(&["--peers-join=a", "--service-name=b", "--namespace=c"]).is_err());
    }

    #[test]
    fn urls_times_and_shares_are_checked() {
        let all = parse(&[
            "--peer-status-url=https://x/y",
            "--send-cooldown-period=3",
            "--storm-guard=30%",
            "--peers-min=40%",
        ]);
        let all = all.unwrap().unwrap();
        assert_eq!(all.webhooks.send.cooldown, Duration::from_secs(3));
        assert_eq!(all.storm_guard.map(Share::get), Some(0.3));
        assert_eq!(format!("{}", all.peers_min.get()), "0.4");
        assert_eq!(parse(&["--storm-guard=off"]).unwrap().unwrap().storm_guard, None);
        for (flag, begins) in [
            ("--peer-status-url=ftp://x", "PEER_STATUS_URL: "),
            ("--cluster-status-url=x", "CLUSTER_STATUS_URL: "),
            ("--sanity-check-url=http://", "SANITY_CHECK_URL: "),
            ("--storm-guard=0%", "STORM_GUARD: "),
            ("--send-cooldown-period=0", "SEND_COOLDOWN_PERIOD: "),
        ] {
            let error = parse(&[flag]).unwrap_err();
            assert!(error.starts_with(begins), "{error}");
        }
    }
}
