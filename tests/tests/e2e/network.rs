//! `network`, between real network namespaces: gateways that are cut, and links without carrier.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
use e2e::nameserver::Does;
use e2e::netns::ResolvConf;
use e2e::sandbox::say;
use e2e::{Agent, Nameserver, NetNs, Sandbox};

/// A host, this thread's, with a cable to a router; the agent's view of it. Fields are dropped in their order.
pub(super) struct World {
    pub(super) agent: Agent,
    pub(super) dns: Nameserver,
    pub(super) resolv_conf: ResolvConf,
    pub(super) router: NetNs,
    pub(super) host: NetNs,
}

/// What the world begins with.
pub(super) const RESOLV_CONF: &str = "nameserver 10.77.0.1\n";
/// What the kernel takes at most to be sure that a gateway is gone, with the times set below: 0.75 s until an entry is
/// in doubt, 1 s until it is questioned, three questions of 0.2 s.
const QUICK: [(&str, &str); 3] = [
    ("base_reachable_time_ms", "500"),
    ("delay_first_probe_time", "1"),
    ("retrans_time_ms", "200"),
];

/// `eth0` with 10.77.0.2 and the router's 10.77.0.1 as gateway and nameserver.
fn host_and_router() -> Option<(NetNs, NetNs)> {
    let (host, router) = (NetNs::new()?, NetNs::new()?);
    host.cable("eth0", &router, "lan0");
    host.ip("address add 10.77.0.2/24 dev eth0");
    router.ip("address add 10.77.0.1/24 dev lan0");
    host.ip("route add default via 10.77.0.1 dev eth0");
    Some((host, router))
}

fn configure(command: &mut Command) {
    command.env("DEFAULT_CHECKS", "network").env("PROBE_INTERVAL", "100ms").env("NO_EBPF", "true");
}

/// All of it, with changes to the agent.
pub(super) fn world(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Option<World> {
    let (host, router) = host_and_router()?;
    let resolv_conf = ResolvConf::new(sandbox, RESOLV_CONF)?;
    let dns = Nameserver::new(&router, "10.77.0.1", Does::Answers);
    host.enter();
    let agent = Agent::start_with(sandbox, |command| {
        configure(command);
        change(command);
    });
    Some(World { agent, dns, resolv_conf, router, host })
}

impl World {
    pub(super) fn passes(&self, why: &str) {
        let took = waits(&self.agent, why, |found| found.is_none());
        say(&format!("MEASURED network passes after {took:?}: {why}"));
    }

    /// Fails for exactly this reason.
    pub(super) fn fails(&self, reason: &str) {
        let took = waits(&self.agent, reason, |found| found == Some(reason));
        say(&format!("MEASURED network fails after {took:?}: {reason}"));
    }

    /// A reason that lasts is the same text every time.
    pub(super) fn stays(&self, reason: Option<&str>, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            let health = self.agent.health("?check=network");
            assert_eq!(health.failure("network"), reason);
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Waits until its failure, or none, is right.
pub(super) fn waits(agent: &Agent, what: &str, right: impl Fn(Option<&str>) -> bool) -> Duration {
    let began = Instant::now();
    let mut last = None;
    while began.elapsed() < PATIENCE {
        let health = agent.health("?check=network");
        last = health.failure("network").map(str::to_owned);
        if right(last.as_deref()) {
            return began.elapsed();
        }
        thread::sleep(Duration::from_millis(5));
    }
    agent.fail(&format!("not within {PATIENCE:?}: {what}; last: {last:?}"));
}

#[test]
fn a_gateway_that_is_cut() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(world) = world(&sandbox, |_| {}) else { return };
    // The nameserver is this host's, so that only the gateway is cut.
    let _local = Nameserver::new(&world.host, "127.0.0.1", Does::Answers);
    world.resolv_conf.write("nameserver 127.0.0.1\n");
    world.passes("at the start");
    let silent = "no default route works: gateway 10.77.0.1 on eth0 does not answer ARP";

    // Its address goes, and nothing is known of it here.
    world.router.ip("address del 10.77.0.1/24 dev lan0");
    world.host.ip("neighbour flush dev eth0");
    world.fails(silent);
    world.stays(Some(silent), Duration::from_secs(3));
    world.router.ip("address add 10.77.0.1/24 dev lan0");
    world.passes("the address is back");

    // It answers no echo, and is there all the same.
    world.router.set("ipv4/icmp_echo_ignore_all", "1");
    // These count for entries that are made from now on.
    for (name, value) in QUICK {
        world.host.set(&format!("ipv4/neigh/eth0/{name}"), value);
    }
    world.host.ip("neighbour flush dev eth0");
    world.stays(None, Duration::from_millis(1500));
    // Through every state that the kernel's entry goes through.
    world.stays(None, Duration::from_secs(5));
    // It goes without a word, while the entry here still says that it is there.
    world.router.ip("address del 10.77.0.1/24 dev lan0");
    world.fails(silent);
    world.router.ip("address add 10.77.0.1/24 dev lan0");
    world.passes("the silent one is back");
    world.router.set("ipv4/icmp_echo_ignore_all", "0");
    world.router.ip("address del 10.77.0.1/24 dev lan0");
    world.fails(silent);
    world.router.ip("address add 10.77.0.1/24 dev lan0");
    world.passes("back again");

    // Its side of the cable, and then this one.
    world.router.ip("link set lan0 down");
    world.fails("no default route works: eth0 has no carrier");
    world.stays(Some("no default route works: eth0 has no carrier"), Duration::from_millis(500));
    world.router.ip("link set lan0 up");
    world.passes("carrier again");
    world.host.ip("link set eth0 down");
    world.fails("there is no default route, neither IPv4 nor IPv6");
    world.host.ip("link set eth0 up");
    world.fails("there is no default route, neither IPv4 nor IPv6");
    world.host.ip("route add unreachable default metric 1");
    world.host.ip("route add default via 10.77.0.1 dev eth0 table 1000");
    world.stays(
        Some("there is no default route, neither IPv4 nor IPv6"),
        Duration::from_millis(500),
    );
    world.host.ip("route add default via 10.77.0.1 dev eth0 metric 100");
    world.passes("a route again");
    // Straight into the link: no gateway, so its carrier is all there is.
    world.host.ip("route del default via 10.77.0.1 dev eth0 metric 100");
    world.fails("there is no default route, neither IPv4 nor IPv6");
    world.host.ip("route add default dev eth0 metric 100");
    world.passes("a route without gateway");
    world.router.ip("link set lan0 down");
    world.fails("no default route works: eth0 has no carrier");
    // Both parts at once, each with its reason.
    world.resolv_conf.write("nameserver 127.0.0.2\n");
    world.fails(
        "no nameserver answers . NS: 127.0.0.2: connection refused; no default route works: eth0 has no carrier",
    );
}

#[test]
fn one_good_default_route_is_enough() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(world) = world(&sandbox, |_| {}) else { return };
    let _local = Nameserver::new(&world.host, "127.0.0.1", Does::Answers);
    world.resolv_conf.write("nameserver 127.0.0.1\n");
    let Some(other) = NetNs::new() else { return };
    world.host.cable("eth1", &other, "lan1");
    world.host.ip("address add 10.78.0.2/24 dev eth1");
    other.ip("address add 10.78.0.1/24 dev lan1");
    world.host.ip("route add default via 10.78.0.1 dev eth1 metric 200");
    world.passes("both");
    // The first is cut, then the second too, then the first is back.
    world.router.ip("link set lan0 down");
    thread::sleep(Duration::from_millis(300));
    world.stays(None, Duration::from_secs(1));
    other.ip("address del 10.78.0.1/24 dev lan1");
    world.host.ip("neighbour flush dev eth1");
    world.fails(
        "no default route works: eth0 has no carrier, gateway 10.78.0.1 on eth1 does not answer ARP",
    );
    world.router.ip("link set lan0 up");
    world.passes("the first is back");
    // Two legs of one route.
    world.host.ip("route del default via 10.77.0.1 dev eth0");
    world.host.ip("route del default via 10.78.0.1 dev eth1 metric 200");
    world.fails("there is no default route, neither IPv4 nor IPv6");
    world
        .host
        .ip("route add default nexthop via 10.78.0.1 dev eth1 nexthop via 10.77.0.1 dev eth0");
    world.passes("one leg of two");
    world.router.ip("address del 10.77.0.1/24 dev lan0");
    world.host.ip("neighbour flush dev eth0");
    world.fails(
        "no default route works: gateway 10.78.0.1 on eth1 does not answer ARP, gateway 10.77.0.1 on eth0 does not \
         answer ARP",
    );
    other.ip("address add 10.78.0.1/24 dev lan1");
    world.passes("the other leg");
    // The same with nexthop objects.
    world.host.ip("route del default");
    world.host.ip("nexthop add id 1 via 10.78.0.1 dev eth1");
    world.host.ip("route add default nhid 1");
    world.passes("a nexthop object");
    // Then the kernel shows the object's number alone, and this agent does not look it up.
    world.host.set("ipv4/nexthop_compat_mode", "0");
    world.fails(
        "no default route works: the default route's link is not shown (net.ipv4.nexthop_compat_mode=0)",
    );
    world.host.ip("route add default via 10.78.0.1 dev eth1 metric 300");
    world.passes("another route beside it");
}

#[test]
fn routes_that_go_and_come_are_seen_at_the_next_sample() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(world) = world(&sandbox, |_| {}) else { return };
    world.passes("the beginning");
    // Long enough for the agent to have read them, and not again.
    let began = Instant::now();
    for round in 0..5 {
        world.host.ip("route del default");
        world.fails("there is no default route, neither IPv4 nor IPv6");
        world.host.ip("route add default via 10.77.0.1 dev eth0");
        world.passes("a route again");
        // With its link it goes without a word of its own.
        world.host.ip("link set eth0 down");
        world.fails(
            "no nameserver answers . NS: 10.77.0.1: network unreachable; there is no default route, neither IPv4 nor \
             IPv6",
        );
        world.host.ip("link set eth0 up");
        world.host.ip("route add default via 10.77.0.1 dev eth0");
        world.passes(&format!("round {round} is over"));
    }
    // Sooner than it is read again for no reason, which is after 5 s.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn a_host_with_nothing_but_ipv6() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (Some(host), Some(router)) = (NetNs::new(), NetNs::new()) else { return };
    // Their link-local addresses are of use at once.
    for namespace in [&host, &router] {
        namespace.set("ipv6/conf/default/accept_dad", "0");
    }
    host.cable("eth0", &router, "lan0");
    router.ip("address add fe80::1/64 dev lan0 nodad");
    router.ip("address add fd77::1/64 dev lan0 nodad");
    host.ip("address add fd77::2/64 dev eth0 nodad");
    host.ip("-6 route add default via fe80::1 dev eth0");
    let Some(resolv_conf) = ResolvConf::new(&sandbox, "nameserver fe80::1%eth0\n") else { return };
    let dns = router.run(|| Nameserver::new(&router, "::", Does::Answers));
    host.enter();
    let agent = Agent::start_with(&sandbox, configure);
    let world = World { agent, dns, resolv_conf, router, host };
    world.passes("a scoped nameserver and a link-local gateway");
    world.resolv_conf.write("nameserver fd77::1\n");
    world.stays(None, Duration::from_millis(500));
    world.dns.does(Does::Truncates);
    world.stays(None, Duration::from_millis(500));
    world.router.ip("address del fe80::1/64 dev lan0");
    world.host.ip("neighbour flush dev eth0");
    world.fails(
        "no default route works: gateway fe80::1 on eth0 does not answer neighbour discovery",
    );
    world.router.ip("address add fe80::1/64 dev lan0 nodad");
    world.passes("the gateway is back");
    world.resolv_conf.write("nameserver fe80::1%gone\n");
    world.fails("every nameserver is on a link that is not there");
    world.resolv_conf.write("nameserver fd77::9\n");
    world.fails("no nameserver answers . NS: fd77::9 does not answer within 1 s");
    world.router.ip("link set lan0 down");
    world.fails(
        "no nameserver answers . NS: fd77::9 does not answer within 1 s; no default route works: eth0 has no carrier",
    );
}

#[test]
fn who_may_not_ask_does_not_know() {
    const NOBODY: u32 = 65534;
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(world) = world(&sandbox, |command| {
        command.uid(NOBODY).gid(NOBODY);
    }) else {
        return;
    };
    // The kernel's own word needs no right.
    world.host.ip("neighbour replace 10.77.0.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent");
    let local = Nameserver::new(&world.host, "127.0.0.1", Does::Answers);
    world.resolv_conf.write("nameserver 127.0.0.1\n");
    world.passes("a permanent entry");
    world.host.ip("neighbour del 10.77.0.1 dev eth0");
    world.fails(
        "no default route works: gateway 10.77.0.1 on eth0 is not known to be there: no ICMP echo may be \
         sent (neither CAP_NET_RAW nor net.ipv4.ping_group_range)",
    );
    // A ping socket needs no right but this.
    world.host.set("ipv4/ping_group_range", "0 2147483647");
    world.passes("ping sockets");
    drop(local);
}

#[test]
fn while_it_all_hangs_answers_do_not() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(world) = world(&sandbox, |_| {}) else { return };
    world.passes("at the start");
    world.dns.does(Does::TruncatesAndHangs);
    world.router.set("ipv4/icmp_echo_ignore_all", "1");
    world.fails("no nameserver answers . NS: 10.77.0.1 does not answer over TCP within 1 s");
    world.router.ip("address del 10.77.0.1/24 dev lan0");
    world.host.ip("neighbour flush dev eth0");
    world.resolv_conf.write("nameserver 10.77.0.98\nnameserver 10.77.0.99\nnameserver 10.77.0.1\n");
    let reason = "no nameserver answers . NS: 10.77.0.98 does not answer within 1 s, 10.77.0.99 does not answer within \
                  1 s, 10.77.0.1 does not answer within 1 s; no default route works: gateway 10.77.0.1 on eth0 does \
                  not answer ARP";
    world.fails(reason);
    let mut times: Vec<_> = (0..400)
        .map(|_| {
            let began = Instant::now();
            let health = world.agent.health("?check=network");
            let took = began.elapsed();
            assert_eq!(health.failure("network"), Some(reason));
            assert_eq!(world.agent.get("/livez").status, 200);
            thread::sleep(Duration::from_millis(5));
            took
        })
        .collect();
    times.sort();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    say(&format!("MEASURED /health while the network hangs: median {median:?}, most {most:?}"));
    assert!(median < Duration::from_millis(5), "{median:?}");
}

#[test]
fn namespaces_leave_nothing_behind() {
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
    // The far end went with its namespace, and took this one along; the kernel does it when it has time.
    let began = Instant::now();
    while host.ip("-o link show").contains("eth0@") {
        assert!(began.elapsed() < PATIENCE, "the cable is still there");
        thread::sleep(Duration::from_millis(5));
    }
}
