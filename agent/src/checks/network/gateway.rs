//! Whether a way out works: PURE, from what the kernel says before and after the gateway was asked.

use std::fmt::Display;

use netlink_packet_route::{
    link::LinkFlags,
    neighbour::NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale},
};

use super::{Part, echo::Echo, netlink::Way};

/// Beyond this many, a reason counts the rest.
const SHOWN: usize = 4;

/// What the first look says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// All there is to say.
    Part(Part),
    /// The gateways of these have to be asked.
    Ask(Vec<Way>),
}

/// What is known of one way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Is {
    Good,
    Bad(String),
    Unknown(String),
}

/// Whether that way alone is enough, without anybody being asked.
pub(super) fn is_enough(way: &Way) -> bool {
    match link(way) {
        Some(is) => is == Is::Good,
        None => is_proven(way),
    }
}

/// Before anybody is asked. One way that is good is enough, and then nothing is sent at all.
pub(super) fn first_look(ways: &[Way]) -> First {
    if ways.iter().any(is_enough) {
        return First::Part(Part::Good);
    }
    let looks: Vec<_> = ways.iter().map(|way| (way, link(way))).collect();
    let open: Vec<_> =
        looks.iter().filter(|(_, is)| is.is_none()).map(|(way, _)| (*way).clone()).collect();
    if open.is_empty() {
        let known = looks.into_iter().filter_map(|(_, is)| is);
        return First::Part(sum(known.collect()));
    }
    First::Ask(open)
}

/// After those in `asked` were sent an echo, with what became of it.
pub(super) fn second_look(after: &[Way], asked: &[Way], echoes: &[Echo]) -> Part {
    let of = |way: &Way| {
        let mut pairs = asked.iter().zip(echoes);
        pairs.find(|(other, _)| other.hop == way.hop).map(|(_, echo)| echo)
    };
    let silent = Echo::Silent;
    sum(after
        .iter()
        .map(|way| link(way).unwrap_or_else(|| neighbour(way, of(way).unwrap_or(&silent))))
        .collect())
}

/// What the kernel could not say.
pub(super) fn unread(why: &dyn Display) -> Part {
    Part::Unknown(format!("default routes are not known: netlink: {why}"))
}

/// What the link alone decides; None where there is a gateway to look for.
fn link(way: &Way) -> Option<Is> {
    let Some(link) = &way.link else {
        return Some(if way.hop.link == 0 {
            // Only with nexthop objects and net.ipv4.nexthop_compat_mode=0.
            Is::Unknown(
                "the default route's link is not shown (net.ipv4.nexthop_compat_mode=0)".to_owned(),
            )
        } else {
            Is::Bad(format!("the default route's link (index {}) is gone", way.hop.link))
        });
    };
    if !link.flags.contains(LinkFlags::Up) {
        return Some(Is::Bad(format!("{} is down", link.name)));
    }
    if !link.flags.contains(LinkFlags::LowerUp) {
        return Some(Is::Bad(format!("{} has no carrier", link.name)));
    }
    // Nobody is asked for an address there: the carrier is all there is.
    let is_alone = link.flags.intersects(LinkFlags::Pointopoint | LinkFlags::Noarp);
    (way.hop.gateway.is_none() || is_alone).then_some(Is::Good)
}

/// The gateway has proven to be there lately (30 s, as most hosts have it), or needs no proof.
fn is_proven(way: &Way) -> bool {
    matches!(way.neighbour, Some(Reachable | Permanent | Noarp))
}

/// What an echo without an answer means: some gateways never answer one, but none can be silent about its address
/// (ARP, neighbour discovery). Who did not answer that either is not there.
fn neighbour(way: &Way, echo: &Echo) -> Is {
    let who = || {
        let gateway = way.hop.gateway.map(|ip| ip.to_string()).unwrap_or_default();
        let link = way.link.as_ref().map_or("", |link| &link.name);
        format!("gateway {gateway} on {link}")
    };
    match (echo, way.neighbour) {
        // Delay and Probe: it was there, and the kernel is finding out whether it still is, for 8 s at most.
        (Echo::Answered, _) | (_, Some(Reachable | Permanent | Noarp | Delay | Probe)) => Is::Good,
        (Echo::Forbidden(why), _) => {
            Is::Unknown(format!("{} is not known to be there: {why}", who()))
        }
        // The echo went another way.
        (Echo::Silent, Some(Stale)) => Is::Bad(format!("{} does not answer an echo", who())),
        (Echo::Silent, _) => {
            let is_v6 = way.hop.gateway.is_some_and(|ip| ip.is_ipv6());
            let asked = if is_v6 { "neighbour discovery" } else { "ARP" };
            Is::Bad(format!("{} does not answer {asked}", who()))
        }
    }
}

/// One good one is enough; one that is not known could be it.
fn sum(ways: Vec<Is>) -> Part {
    if ways.is_empty() {
        return Part::Bad("there is no default route, neither IPv4 nor IPv6".to_owned());
    }
    let is_unknown = ways.iter().any(|is| matches!(is, Is::Unknown(_)));
    let mut texts: Vec<String> = Vec::new();
    for is in ways {
        match is {
            Is::Good => return Part::Good,
            Is::Bad(why) | Is::Unknown(why) if !texts.contains(&why) => texts.push(why),
            Is::Bad(_) | Is::Unknown(_) => {}
        }
    }
    let more = match texts.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    texts.truncate(SHOWN);
    let text = format!("no default route works: {}{more}", texts.join(", "));
    if is_unknown { Part::Unknown(text) } else { Part::Bad(text) }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use netlink_packet_route::neighbour::NeighbourState::{self, Failed, Incomplete};

    use super::*;
    use crate::checks::network::message::{Hop, Link};

    const ETHER: u32 = 0x1_1043;
    const NO_CARRIER: u32 = 0x1003;
    const DOWN: u32 = 0x1002;
    const TUNNEL: u32 = 0x1_10d1;

    fn way(gateway: &str, flags: u32, neighbour: Option<NeighbourState>) -> Way {
        let flags = LinkFlags::from_bits_retain(flags);
        let link = Some(Link { name: "eth0".into(), flags });
        Way { hop: Hop { gateway: gateway.parse().ok(), link: 2 }, link, neighbour }
    }

    fn on(name: &str, way: Way) -> Way {
        let link = way.link.map(|link| Link { name: name.into(), ..link });
        let index = name.bytes().map(u32::from).sum();
        Way { hop: Hop { link: index, ..way.hop }, link, ..way }
    }

    fn bad(ways: &str) -> Part {
        Part::Bad(format!("no default route works: {ways}"))
    }

    #[test]
    fn what_needs_no_echo() {
        let part = |part: Part| Some(part);
        let v4 = |neighbour| way("10.0.0.1", ETHER, neighbour);
        let gone = |link| Way { link: None, hop: Hop { link, gateway: None }, neighbour: None };
        let unseen = "no default route works: the default route's link is not shown (net.ipv4.nexthop_compat_mode=0)";
        for (ways, expected) in [
            (vec![], part(Part::Bad("there is no default route, neither IPv4 nor IPv6".into()))),
            (vec![v4(Some(Reachable))], part(Part::Good)),
            (vec![v4(Some(Permanent))], part(Part::Good)),
            (vec![v4(Some(Noarp))], part(Part::Good)),
            (vec![v4(Some(Stale))], None),
            (vec![v4(Some(Delay))], None),
            (vec![v4(Some(Probe))], None),
            (vec![v4(Some(Incomplete))], None),
            (vec![v4(Some(Failed))], None),
            (vec![v4(Some(NeighbourState::None))], None),
            (vec![v4(None)], None),
            // Without carrier, the entry is of yesterday.
            (vec![way("10.0.0.1", NO_CARRIER, Some(Reachable))], part(bad("eth0 has no carrier"))),
            (vec![way("10.0.0.1", DOWN, Some(Permanent))], part(bad("eth0 is down"))),
            (vec![way("", NO_CARRIER, None)], part(bad("eth0 has no carrier"))),
            (vec![way("", ETHER, None)], part(Part::Good)),
            (vec![way("10.0.0.1", TUNNEL, None)], part(Part::Good)),
            (vec![gone(7)], part(bad("the default route's link (index 7) is gone"))),
            (vec![gone(0)], part(Part::Unknown(unseen.into()))),
            // One good one is enough, wherever it stands.
            (
                vec![way("10.0.0.1", NO_CARRIER, None), on("eth1", v4(Some(Reachable)))],
                part(Part::Good),
            ),
            (vec![v4(Some(Failed)), on("eth1", v4(Some(Reachable)))], part(Part::Good)),
            (vec![on("eth1", v4(Some(Reachable))), v4(None)], part(Part::Good)),
            (vec![gone(0), v4(Some(Reachable))], part(Part::Good)),
            (
                vec![way("10.0.0.1", NO_CARRIER, None), on("eth1", way("fe80::1", DOWN, None))],
                part(bad("eth0 has no carrier, eth1 is down")),
            ),
            // Two routes over one link are one reason.
            (
                vec![way("10.0.0.1", NO_CARRIER, None), way("fe80::1", NO_CARRIER, None)],
                part(bad("eth0 has no carrier")),
            ),
        ] {
            let asked = match first_look(&ways) {
                First::Part(part) => Some(part),
                First::Ask(asked) => {
                    assert_eq!(asked, ways, "all of them are open");
                    None
                }
            };
            assert_eq!(asked, expected, "{ways:?}");
        }
        let ways = [way("10.0.0.1", NO_CARRIER, None), on("eth1", v4(Some(Stale)))];
        assert_eq!(first_look(&ways), First::Ask(vec![ways[1].clone()]));
    }

    #[test]
    fn what_an_echo_without_an_answer_means() {
        let arp = || bad("gateway 10.0.0.1 on eth0 does not answer ARP");
        let forbidden = || Echo::Forbidden("no right".into());
        let unknown = || {
            let text = "no default route works: gateway 10.0.0.1 on eth0 is not known to be there: no right";
            Part::Unknown(text.into())
        };
        for (echo, after, expected) in [
            (Echo::Answered, None, Part::Good),
            (Echo::Answered, Some(Stale), Part::Good),
            (Echo::Silent, Some(Reachable), Part::Good),
            (Echo::Silent, Some(Permanent), Part::Good),
            (Echo::Silent, Some(Delay), Part::Good),
            (Echo::Silent, Some(Probe), Part::Good),
            (Echo::Silent, Some(Stale), bad("gateway 10.0.0.1 on eth0 does not answer an echo")),
            (Echo::Silent, Some(Incomplete), arp()),
            (Echo::Silent, Some(Failed), arp()),
            (Echo::Silent, None, arp()),
            (forbidden(), Some(Reachable), Part::Good),
            (forbidden(), Some(Delay), Part::Good),
            (forbidden(), Some(Stale), unknown()),
            (forbidden(), Some(Failed), unknown()),
            (forbidden(), None, unknown()),
        ] {
            let (before, after) = (way("10.0.0.1", ETHER, None), way("10.0.0.1", ETHER, after));
            let part = second_look(from_ref(&after), &[before], from_ref(&echo));
            assert_eq!(part, expected, "{echo:?} {after:?}");
        }
        // A link that went meanwhile; a route that was not asked for.
        let (v6, lost) =
            (way("fe80::1", ETHER, Some(Failed)), way("fe80::1", NO_CARRIER, Some(Failed)));
        let part =
            |after: &Way, asked: &[Way]| second_look(from_ref(after), asked, &[Echo::Silent]);
        assert_eq!(part(&lost, from_ref(&v6)), bad("eth0 has no carrier"));
        assert_eq!(
            part(&v6, &[]),
            bad("gateway fe80::1 on eth0 does not answer neighbour discovery")
        );
        let both = [v6, on("eth1", way("10.0.0.1", ETHER, None))];
        let part = second_look(&both, &both, &[Echo::Silent, forbidden()]);
        assert!(
            matches!(&part, Part::Unknown(why) if why.contains("fe80::1 on eth0") && why.contains("on eth1")),
            "{part:?}"
        );
    }

    #[test]
    fn many_reasons_are_counted() {
        let ways: Vec<_> =
            (0..7).map(|n| on(&format!("eth{n}"), way("", NO_CARRIER, None))).collect();
        let expected = "eth0 has no carrier, eth1 has no carrier, eth2 has no carrier, eth3 has no carrier (and 3 more)";
        assert_eq!(first_look(&ways), First::Part(bad(expected)));
    }
}
