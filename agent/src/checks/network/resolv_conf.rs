//! resolv.conf: the nameservers that the programs of this host use.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    path::Path,
};

use resolv_conf::{Config, ScopedIp};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};

use super::settings;

/// The port of DNS.
const PORT: u16 = 53;
/// 64 KiB: the file has a few lines, and the rest of a longer one is not read.
const MAX_LENGTH: u64 = 64 << 10;

/// What the check needs of resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// The nameservers, in the order of the file.
    pub(super) servers: Vec<SocketAddr>,
    /// The domain of the cluster, if the search list shows one.
    pub(super) domain: Option<String>,
    /// `options use-vc`: queries go over TCP only.
    pub(super) tcp_only: bool,
}

/// Reads the file. A file that does not exist is the same as an empty one.
pub(super) fn read(path: &Path) -> io::Result<ResolvConf> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => drop(file.take(MAX_LENGTH).read_to_end(&mut text)?),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(parse(&text, index_of))
}

/// Parses as the C libraries do: unknown lines are skipped, the first three nameservers count, and without any the
/// nameserver is on this host (resolv.conf(5)).
fn parse(text: &[u8], index_of: impl Fn(&str) -> Option<u32>) -> ResolvConf {
    let (config, _skipped) = Config::parse_with_errors(text);
    let address = |server: &ScopedIp| {
        Some(match server {
            ScopedIp::V4(ip) => SocketAddr::from((*ip, PORT)),
            ScopedIp::V6(ip, None) => SocketAddr::from((*ip, PORT)),
            ScopedIp::V6(ip, Some(link)) => {
                let index = link.parse().ok().or_else(|| index_of(link))?;
                SocketAddrV6::new(*ip, PORT, 0, index).into()
            }
        })
    };
    // A server on a link that does not exist cannot be queried, but it counts as one of the three.
    let listed = config.nameservers.iter().take(settings::NAMESERVERS);
    let mut servers: Vec<SocketAddr> = listed.filter_map(address).collect();
    if config.nameservers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, PORT).into());
    }
    let search = config.get_last_search_or_domain().cloned().collect::<Vec<_>>();
    ResolvConf { servers, domain: cluster_domain(&search), tcp_only: config.use_vc }
}

/// The domain in a search list of the kubelet (`NAMESPACE.svc.DOMAIN svc.DOMAIN DOMAIN ...`), or the default domain if
/// the list has it.
fn cluster_domain(search: &[String]) -> Option<String> {
    let bare = |entry: &String| entry.trim_end_matches('.').to_ascii_lowercase();
    let mut entries = search.iter().map(bare);
    let of_services = entries.clone().find_map(|entry| {
        entry.strip_prefix("svc.").filter(|domain| !domain.is_empty()).map(str::to_owned)
    });
    of_services.or_else(|| entries.find(|entry| entry == settings::CLUSTER_DOMAIN))
}

/// The index of the link of that name, for `nameserver fe80::1%eth0`.
fn index_of(link: &str) -> Option<u32> {
    let any = socket(AddressFamily::INET6, SocketType::DGRAM, None).ok()?;
    name_to_index(&any, link).ok()
}

/// A nameserver for reasons: without the port, which is always 53.
pub(super) fn display(server: &SocketAddr) -> String {
    match (server.ip(), server) {
        (IpAddr::V6(ip), SocketAddr::V6(v6)) if v6.scope_id() != 0 => {
            format!("{ip}%{}", v6.scope_id())
        }
        (IpAddr::V6(Ipv6Addr::LOCALHOST), _) => "::1".to_owned(),
        (ip, _) => ip.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> ResolvConf {
        parse(text.as_bytes(), |link| (link == "eth0").then_some(7))
    }

    fn servers(text: &str) -> Vec<String> {
        of(text).servers.iter().map(display).collect()
    }

    #[test]
    fn nameservers_are_those_that_programs_use() {
        for (text, expected) in [
            ("", &["127.0.0.1"][..]),
            ("# nameserver 10.0.0.1\n;nameserver 10.0.0.1\noptions ndots:5\n", &["127.0.0.1"]),
            ("nameserver 10.0.0.1\n", &["10.0.0.1"]),
            ("nameserver\t10.0.0.1 # the first\r\nnameserver ::1", &["10.0.0.1", "::1"]),
            ("nameserver fe80::1%eth0\nnameserver fe80::1%3", &["fe80::1%7", "fe80::1%3"]),
            ("nameserver fe80::1%gone\nnameserver 10.0.0.2", &["10.0.0.2"]),
            // A line without an address is skipped, and so is a fourth nameserver.
            ("nameserver one\nbogus line\noptions bogus:x\nnameserver 10.0.0.2", &["10.0.0.2"]),
            (
                "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4",
                &["10.0.0.1", "10.0.0.2", "10.0.0.3"],
            ),
            ("\u{feff}nameserver 10.0.0.1", &["127.0.0.1"]),
        ] {
            assert_eq!(servers(text), expected, "{text:?}");
        }
        assert!(of("nameserver 10.0.0.1\noptions use-vc").tcp_only);
        assert!(!of("nameserver 10.0.0.1\noptions edns0 trust-ad").tcp_only);
    }

    #[test]
    fn the_cluster_domain_is_in_the_search_list() {
        for (search, expected) in [
            (
                "search default.svc.cluster.local svc.cluster.local cluster.local",
                Some("cluster.local"),
            ),
            (
                "search kube-system.svc.k8s.example svc.k8s.example k8s.example corp",
                Some("k8s.example"),
            ),
            ("search SVC.Cluster.Local. corp", Some("cluster.local")),
            ("search corp cluster.local", Some("cluster.local")),
            ("domain cluster.local", Some("cluster.local")),
            ("search corp example.com", None),
            ("search svc. svc", None),
            // The last one counts.
            ("search svc.cluster.local\nsearch corp", None),
            ("", None),
        ] {
            assert_eq!(of(search).domain.as_deref(), expected, "{search:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        assert_eq!(read(&path).unwrap(), of(""));
        std::fs::write(&path, "nameserver 10.0.0.9\n").unwrap();
        assert_eq!(read(&path).unwrap(), of("nameserver 10.0.0.9"));
        assert!(read(directory.path()).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            parse(&text, |_| None);
        }

        #[test]
        fn nor_does_one_that_looks_right(text in "((nameserver|search|domain|options|sortlist)[ \t]+[a-z0-9.:%/#-]{0,20}\n){0,6}") {
            let found = parse(text.as_bytes(), |_| None);
            prop_assert!(found.servers.len() <= settings::NAMESERVERS);
        }
    }
}
