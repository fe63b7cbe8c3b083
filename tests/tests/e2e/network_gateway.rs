//! `network`: default gateways that do not answer and links without carrier, between real network namespaces.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::nameserver::Behaviour;
use e2e::netns::ResolvConf;
use e2e::sandbox::say;
use e2e::{Agent, Nameserver, NetNs, Sandbox};

use crate::answers_do_not_wait;

/// A host, which this thread is in, with a link to a router that is a nameserver too; and the host's agent. Fields are
/// dropped in their order.
pub(super) struct Network {
    pub(super) agent: Agent,
    pub(super) dns: Nameserver,
    pub(super) resolv_conf: ResolvConf,
    pub(super) router: NetNs,
    pub(super) host: NetNs,
}

/// The resolv.conf at the start.
pub(super) const RESOLV_CONF: &str = "nameserver 10.77.0.1\n";
/// Settings with which the kernel takes few seconds to find that a neighbour is gone: at most 0.75 s until an entry is
/// stale, 1 s until the first probe, and three probes of 0.2 s.
const QUICK: [(&str, &str); 3] = [
    ("base_reachable_time_ms", "500"),
    ("delay_first_probe_time", "1"),
    ("retrans_time_ms", "200"),
];

/// A host with 10.77.0.2 on `eth0`, and a router with 10.77.0.1, which is the host's gateway.
fn host_and_router() -> Option<(NetNs, NetNs)> {
    let (host, router) = (NetNs::new()?, NetNs::new()?);
    host.veth("eth0", &router, "lan0");
    host.ip("address add 10.77.0.2/24 dev eth0");
    router.ip("address add 10.77.0.1/24 dev lan0");
    host.ip("route add default via 10.77.0.1 dev eth0");
    Some((host, router))
}

fn configure(command: &mut Command) {
    command.env("DEFAULT_CHECKS", "network").env("PROBE_INTERVAL", "100ms").env("NO_EBPF", "true");
}

/// Starts all of it, with changes to the agent's settings.
pub(super) fn start(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Option<Network> {
    let (host, router) = host_and_router()?;
    let resolv_conf = ResolvConf::new(sandbox, RESOLV_CONF)?;
    let dns = Nameserver::new(&router, "10.77.0.1", Behaviour::Answers);
    host.enter();
    let agent = Agent::start_with(sandbox, |command| {
        configure(command);
        change(command);
    });
    Some(Network { agent, dns, resolv_conf, router, host })
}

impl Network {
    /// Waits until the check passes.
    pub(super) fn passes(&self, why: &str) {
        let took = waits(&self.agent, why, |found| found.is_none());
        say(&format!("MEASURED network passes after {took:?}: {why}"));
    }

    /// Waits until the check fails for exactly this reason.
    pub(super) fn fails(&self, reason: &str) {
        let took = waits(&self.agent, reason, |found| found == Some(reason));
        say(&format!("MEASURED network fails after {took:?}: {reason}"));
    }

    /// Checks that the verdict and its text stay the same for a time.
    pub(super) fn stays(&self, reason: Option<&str>, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let is_last = Instant::now() >= until;
            let health = self.agent.health("?check=network");
            assert_eq!(health.failure("network"), reason);
            if is_last {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits until a condition holds for the reason of the failure, or for none.
pub(super) fn waits(agent: &Agent, what: &str, holds: impl Fn(Option<&str>) -> bool) -> Duration {
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < TIMEOUT {
        let health = agent.health("?check=network");
        last = health.failure("network").map(str::to_owned);
        if holds(last.as_deref()) {
            return began.elapsed();
        }
        thread::sleep(Duration::from_millis(5));
    }
    agent.fail(&format!("not within {TIMEOUT:?}: {what}; last: {last:?}"));
}

#[test]
fn a_gateway_that_does_not_answer_fails() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(network) = start(&sandbox, |_| {}) else { return };
    // The nameserver is on this host, so that only the gateway is gone.
    let _local = Nameserver::new(&network.host, "127.0.0.1", Behaviour::Answers);
    network.resolv_conf.write("nameserver 127.0.0.1\n");
    network.passes("at the start");
    let silent = "no default route works: gateway 10.77.0.1 on eth0 does not answer ARP";

    // The gateway has lost its address, and the host has no neighbour entry.
    network.router.ip("address del 10.77.0.1/24 dev lan0");
    network.host.ip("neighbour flush dev eth0");
    network.fails(silent);
    network.stays(Some(silent), Duration::from_secs(3));
    network.router.ip("address add 10.77.0.1/24 dev lan0");
    network.passes("the address is back");

    // A gateway that does not answer ICMP echo is there all the same.
    network.router.set("ipv4/icmp_echo_ignore_all", "1");
    // The settings are for entries that are made from now on.
    for (name, value) in QUICK {
        network.host.set(&format!("ipv4/neigh/eth0/{name}"), value);
    }
    network.host.ip("neighbour flush dev eth0");
    network.stays(None, Duration::from_millis(1500));
    // Through all states of the kernel's neighbour entry.
    network.stays(None, Duration::from_secs(5));
    // The gateway has lost its address while the host's neighbour entry is still valid.
    network.router.ip("address del 10.77.0.1/24 dev lan0");
    network.fails(silent);
    network.router.ip("address add 10.77.0.1/24 dev lan0");
    network.passes("the gateway without echo is back");
    network.router.set("ipv4/icmp_echo_ignore_all", "0");
    network.router.ip("address del 10.77.0.1/24 dev lan0");
    network.fails(silent);
    network.router.ip("address add 10.77.0.1/24 dev lan0");
    network.passes("back again");

    // The router's end of the link is down, and then the host's.
    network.router.ip("link set lan0 down");
    network.fails("no default route works: eth0 has no carrier");
    network.stays(Some("no default route works: eth0 has no carrier"), Duration::from_millis(500));
    network.router.ip("link set lan0 up");
    network.passes("carrier again");
    network.host.ip("link set eth0 down");
    network.fails("there is no default route, neither IPv4 nor IPv6");
    network.host.ip("link set eth0 up");
    network.fails("there is no default route, neither IPv4 nor IPv6");
    network.host.ip("route add unreachable default metric 1");
    network.host.ip("route add default via 10.77.0.1 dev eth0 table 1000");
    network.stays(
        Some("there is no default route, neither IPv4 nor IPv6"),
        Duration::from_millis(500),
    );
    network.host.ip("route add default via 10.77.0.1 dev eth0 metric 100");
    network.passes("a route again");
    // A route without gateway: its link's carrier is all that counts.
    network.host.ip("route del default via 10.77.0.1 dev eth0 metric 100");
    network.fails("there is no default route, neither IPv4 nor IPv6");
    network.host.ip("route add default dev eth0 metric 100");
    network.passes("a route without gateway");
    network.router.ip("link set lan0 down");
    network.fails("no default route works: eth0 has no carrier");
    // The nameserver and the route fail at once, each with its reason.
    network.resolv_conf.write("nameserver 127.0.0.2\n");
    network.fails(
        "no nameserver answers . NS: 127.0.0.2: connection refused; no default route works: eth0 has no carrier",
    );
}

#[test]
fn one_good_default_route_is_enough() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(network) = start(&sandbox, |_| {}) else { return };
    let _local = Nameserver::new(&network.host, "127.0.0.1", Behaviour::Answers);
    network.resolv_conf.write("nameserver 127.0.0.1\n");
    let Some(other) = NetNs::new() else { return };
    network.host.veth("eth1", &other, "lan1");
    network.host.ip("address add 10.78.0.2/24 dev eth1");
    other.ip("address add 10.78.0.1/24 dev lan1");
    network.host.ip("route add default via 10.78.0.1 dev eth1 metric 200");
    network.passes("both");
    // The first fails, then the second too, then the first is back.
    network.router.ip("link set lan0 down");
    thread::sleep(Duration::from_millis(300));
    network.stays(None, Duration::from_secs(1));
    other.ip("address del 10.78.0.1/24 dev lan1");
    network.host.ip("neighbour flush dev eth1");
    network.fails(
        "no default route works: eth0 has no carrier, gateway 10.78.0.1 on eth1 does not answer ARP",
    );
    network.router.ip("link set lan0 up");
    network.passes("the first is back");
    // Two nexthops of one route.
    network.host.ip("route del default via 10.77.0.1 dev eth0");
    network.host.ip("route del default via 10.78.0.1 dev eth1 metric 200");
    network.fails("there is no default route, neither IPv4 nor IPv6");
    network
        .host
        .ip("route add default nexthop via 10.78.0.1 dev eth1 nexthop via 10.77.0.1 dev eth0");
    network.passes("one nexthop of two");
    network.router.ip("address del 10.77.0.1/24 dev lan0");
    network.host.ip("neighbour flush dev eth0");
    network.fails(
        "no default route works: gateway 10.78.0.1 on eth1 does not answer ARP, gateway 10.77.0.1 on eth0 does not \
         answer ARP",
    );
    other.ip("address add 10.78.0.1/24 dev lan1");
    network.passes("the other nexthop");
    // The same with nexthop objects.
    network.host.ip("route del default");
    network.host.ip("nexthop add id 1 via 10.78.0.1 dev eth1");
    network.host.ip("route add default nhid 1");
    network.passes("a nexthop object");
    // The kernel now shows the object's number alone, which the agent does not look up.
    network.host.set("ipv4/nexthop_compat_mode", "0");
    network.fails(
        "no default route works: the default route's link is not shown (net.ipv4.nexthop_compat_mode=0)",
    );
    network.host.ip("route add default via 10.78.0.1 dev eth1 metric 300");
    network.passes("another route beside it");
}

#[test]
fn routes_that_go_and_come_are_seen_at_the_next_sample() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(network) = start(&sandbox, |_| {}) else { return };
    network.passes("the beginning");
    let began = Instant::now();
    for round in 0..5 {
        network.host.ip("route del default");
        network.fails("there is no default route, neither IPv4 nor IPv6");
        network.host.ip("route add default via 10.77.0.1 dev eth0");
        network.passes("a route again");
        // The route goes with its link, without a notification of its own.
        network.host.ip("link set eth0 down");
        network.fails(
            "no nameserver answers . NS: 10.77.0.1: network unreachable; there is no default route, neither IPv4 nor \
             IPv6",
        );
        network.host.ip("link set eth0 up");
        network.host.ip("route add default via 10.77.0.1 dev eth0");
        network.passes(&format!("round {round} is over"));
    }
    // Twenty changes. Without notifications, the agent would see each of them when it reads the routes again, every 5 s.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn a_host_with_ipv6_alone() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (Some(host), Some(router)) = (NetNs::new(), NetNs::new()) else { return };
    // Without duplicate address detection, addresses can be used at once.
    for namespace in [&host, &router] {
        namespace.set("ipv6/conf/default/accept_dad", "0");
    }
    host.veth("eth0", &router, "lan0");
    router.ip("address add fe80::1/64 dev lan0 nodad");
    router.ip("address add fd77::1/64 dev lan0 nodad");
    host.ip("address add fd77::2/64 dev eth0 nodad");
    host.ip("-6 route add default via fe80::1 dev eth0");
    let Some(resolv_conf) = ResolvConf::new(&sandbox, "nameserver fe80::1%eth0\n") else { return };
    let dns = router.run(|| Nameserver::new(&router, "::", Behaviour::Answers));
    host.enter();
    let agent = Agent::start_with(&sandbox, configure);
    let network = Network { agent, dns, resolv_conf, router, host };
    network.passes("a scoped nameserver and a link-local gateway");
    network.resolv_conf.write("nameserver fd77::1\n");
    network.stays(None, Duration::from_millis(500));
    network.dns.set(Behaviour::Truncates);
    network.stays(None, Duration::from_millis(500));
    network.router.ip("address del fe80::1/64 dev lan0");
    network.host.ip("neighbour flush dev eth0");
    network.fails(
        "no default route works: gateway fe80::1 on eth0 does not answer neighbour discovery",
    );
    network.router.ip("address add fe80::1/64 dev lan0 nodad");
    network.passes("the gateway is back");
    network.resolv_conf.write("nameserver fe80::1%gone\n");
    network.fails("every nameserver is on a link that is not there");
    network.resolv_conf.write("nameserver fd77::9\n");
    network.fails("no nameserver answers . NS: fd77::9 does not answer within 1 s");
    network.router.ip("link set lan0 down");
    network.fails(
        "no nameserver answers . NS: fd77::9 does not answer within 1 s; no default route works: eth0 has no carrier",
    );
}

#[test]
fn an_agent_without_the_right_to_ping_relies_on_the_kernels_neighbour_entry() {
    const NOBODY: u32 = 65534;
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(network) = start(&sandbox, |command| {
        command.uid(NOBODY).gid(NOBODY);
    }) else {
        return;
    };
    // Reading the kernel's neighbour entry takes no right.
    network.host.ip("neighbour replace 10.77.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
    let local = Nameserver::new(&network.host, "127.0.0.1", Behaviour::Answers);
    network.resolv_conf.write("nameserver 127.0.0.1\n");
    network.passes("a permanent entry");
    network.host.ip("neighbour del 10.77.0.1 dev eth0");
    network.fails(
        "no default route works: gateway 10.77.0.1 on eth0 is not known to be there: no ICMP echo may be \
         sent (neither CAP_NET_RAW nor net.ipv4.ping_group_range)",
    );
    // A ping socket takes this sysctl and no other right.
    network.host.set("ipv4/ping_group_range", "0 2147483647");
    network.passes("ping sockets");
    drop(local);
}

#[test]
fn no_answer_waits_while_the_network_hangs() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(network) = start(&sandbox, |_| {}) else { return };
    network.passes("at the start");
    network.dns.set(Behaviour::TruncatesAndHangs);
    network.router.set("ipv4/icmp_echo_ignore_all", "1");
    network.fails("no nameserver answers . NS: 10.77.0.1 does not answer over TCP within 1 s");
    network.router.ip("address del 10.77.0.1/24 dev lan0");
    network.host.ip("neighbour flush dev eth0");
    network
        .resolv_conf
        .write("nameserver 10.77.0.98\nnameserver 10.77.0.99\nnameserver 10.77.0.1\n");
    let reason = "no nameserver answers . NS: 10.77.0.98 does not answer within 1 s, 10.77.0.99 does not answer within \
                  1 s, 10.77.0.1 does not answer within 1 s; no default route works: gateway 10.77.0.1 on eth0 does \
                  not answer ARP";
    network.fails(reason);
    answers_do_not_wait("/health while the network hangs", 300, || {
        let health = network.agent.health("?check=network");
        assert_eq!(health.failure("network"), Some(reason));
        assert_eq!(network.agent.get("/livez").status, 200);
    });
}

#[test]
fn a_namespace_is_removed_with_its_links() {
    let Some(_sandbox) = Sandbox::new() else { return };
    let Some((host, router)) = host_and_router() else { return };
    assert!(host.ip("-o link show").contains("eth0@"));
    assert!(
        router
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))
            .unwrap()
            .contains("lan0:")
    );
    let outside = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert!(!outside.contains("lan0:"));
    drop(router);
    // The kernel removes a namespace some time after its last user, and with it both ends of the link.
    let began = Instant::now();
    while host.ip("-o link show").contains("eth0@") {
        assert!(began.elapsed() < TIMEOUT, "the link is still there");
        thread::sleep(Duration::from_millis(5));
    }
}
