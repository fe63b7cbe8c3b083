//! Whether a default route works, from the states of its next hops before and after an echo to the gateways: pure.

use std::fmt::Display;

use netlink_packet_route::{
    link::LinkFlags,
    neighbour::NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale},
};

use super::{echo::Echo, finding::Finding, netlink::NextHopState};

/// A reason shows this many findings, and the number of the others.
const SHOWN: usize = 4;

/// The judgement before any echo was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BeforeEcho {
    /// No echo is needed.
    Decided(Finding),
    /// The gateways of these next hops have to be sent an echo.
    Ask(Vec<NextHopState>),
}

/// Whether this next hop works, as far as that can be told without an echo. One that works is enough.
pub(super) fn is_enough(state: &NextHopState) -> bool {
    match judge_link(state) {
        Some(finding) => finding == Finding::Good,
        None => is_proven(state),
    }
}

/// Judges the next hops before any echo is sent. Where one of them works, none is sent at all.
pub(super) fn before_echo(states: &[NextHopState]) -> BeforeEcho {
    if states.iter().any(is_enough) {
        return BeforeEcho::Decided(Finding::Good);
    }
    let undecided: Vec<_> =
        states.iter().filter(|state| judge_link(state).is_none()).cloned().collect();
    if undecided.is_empty() {
        return BeforeEcho::Decided(combine(states.iter().filter_map(judge_link).collect()));
    }
    BeforeEcho::Ask(undecided)
}

/// Judges the next hops `after` the gateways of those in `asked` were sent an echo, with these results.
pub(super) fn after_echo(
    after: &[NextHopState],
    asked: &[NextHopState],
    echoes: &[Echo],
) -> Finding {
    let echo_of = |state: &NextHopState| {
        let mut pairs = asked.iter().zip(echoes);
        pairs.find(|(other, _)| other.hop == state.hop).map_or(&Echo::Silent, |(_, echo)| echo)
    };
    let judge = |state| judge_link(state).unwrap_or_else(|| judge_gateway(state, echo_of(state)));
    combine(after.iter().map(judge).collect())
}

/// The finding where netlink gave no answer.
pub(super) fn unread(why: &dyn Display) -> Finding {
    Finding::Unknown(format!("default routes are not known: netlink: {why}"))
}

/// Judges the link; `None` where the link works and it depends on the gateway.
fn judge_link(state: &NextHopState) -> Option<Finding> {
    let Some(link) = &state.link else {
        return Some(if state.hop.link == 0 {
            // This happens only with nexthop objects and net.ipv4.nexthop_compat_mode=0.
            Finding::Unknown(
                "the default route's link is not shown (net.ipv4.nexthop_compat_mode=0)".to_owned(),
            )
        } else {
            Finding::Bad(format!("the default route's link (index {}) is gone", state.hop.link))
        });
    };
    if !link.flags.contains(LinkFlags::Up) {
        return Some(Finding::Bad(format!("{} is down", link.name)));
    }
    if !link.flags.contains(LinkFlags::LowerUp) {
        return Some(Finding::Bad(format!("{} has no carrier", link.name)));
    }
    // Such links have no ARP or neighbour discovery: there is no more to see than the carrier.
    let has_no_neighbours = link.flags.intersects(LinkFlags::Pointopoint | LinkFlags::Noarp);
    (state.hop.gateway.is_none() || has_no_neighbours).then_some(Finding::Good)
}

/// Whether the gateway answered lately (within 30 s, by default), or its entry is set by hand.
fn is_proven(state: &NextHopState) -> bool {
    matches!(state.neighbour, Some(Reachable | Permanent | Noarp))
}

/// Judges the gateway after an echo. Some gateways never answer one, but every gateway has to answer ARP or neighbour
/// discovery, which the echo makes the kernel do: a gateway that answers neither is not there.
fn judge_gateway(state: &NextHopState, echo: &Echo) -> Finding {
    let name = || {
        let gateway = state.hop.gateway.map(|ip| ip.to_string()).unwrap_or_default();
        let link = state.link.as_ref().map_or("", |link| &link.name);
        format!("gateway {gateway} on {link}")
    };
    match (echo, state.neighbour) {
        // Delay and Probe: the gateway was there, and the kernel finds out within 8 s whether it still is.
        (Echo::Answered, _) | (_, Some(Reachable | Permanent | Noarp | Delay | Probe)) => {
            Finding::Good
        }
        (Echo::Forbidden(why), _) => {
            Finding::Unknown(format!("{} is not known to be there: {why}", name()))
        }
        // The echo took another route.
        (Echo::Silent, Some(Stale)) => Finding::Bad(format!("{} does not answer an echo", name())),
        (Echo::Silent, _) => {
            let is_v6 = state.hop.gateway.is_some_and(|ip| ip.is_ipv6());
            let asked = if is_v6 { "neighbour discovery" } else { "ARP" };
            Finding::Bad(format!("{} does not answer {asked}", name()))
        }
    }
}

/// The finding about all next hops: one that works is enough, and one that is not known might be it.
fn combine(findings: Vec<Finding>) -> Finding {
    if findings.is_empty() {
        return Finding::Bad("there is no default route, neither IPv4 nor IPv6".to_owned());
    }
    let is_unknown = findings.iter().any(|finding| matches!(finding, Finding::Unknown(_)));
    let mut texts: Vec<String> = Vec::new();
    for finding in findings {
        match finding {
            Finding::Good => return Finding::Good,
            Finding::Bad(why) | Finding::Unknown(why) if !texts.contains(&why) => texts.push(why),
            Finding::Bad(_) | Finding::Unknown(_) => {}
        }
    }
    let more = match texts.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    texts.truncate(SHOWN);
    let text = format!("no default route works: {}{more}", texts.join(", "));
    if is_unknown { Finding::Unknown(text) } else { Finding::Bad(text) }
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use netlink_packet_route::neighbour::NeighbourState::{self, Failed, Incomplete};

    use super::*;
    use crate::checks::network::message::{Link, NextHop};

    const ETHER: u32 = 0x1_1043;
    const NO_CARRIER: u32 = 0x1003;
    const DOWN: u32 = 0x1002;
    const TUNNEL: u32 = 0x1_10d1;

    fn next_hop(gateway: &str, flags: u32, neighbour: Option<NeighbourState>) -> NextHopState {
        let flags = LinkFlags::from_bits_retain(flags);
        let link = Some(Link { name: "eth0".into(), flags });
        NextHopState { hop: NextHop { gateway: gateway.parse().ok(), link: 2 }, link, neighbour }
    }

    fn on(name: &str, state: NextHopState) -> NextHopState {
        let link = state.link.map(|link| Link { name: name.into(), ..link });
        let index = name.bytes().map(u32::from).sum();
        NextHopState { hop: NextHop { link: index, ..state.hop }, link, ..state }
    }

    fn bad(findings: &str) -> Finding {
        Finding::Bad(format!("no default route works: {findings}"))
    }

    #[test]
    fn some_states_need_no_echo() {
        let decided = |finding: Finding| Some(finding);
        let v4 = |neighbour| next_hop("10.0.0.1", ETHER, neighbour);
        let gone = |link| NextHopState {
            link: None,
            hop: NextHop { link, gateway: None },
            neighbour: None,
        };
        let unseen = "no default route works: the default route's link is not shown (net.ipv4.nexthop_compat_mode=0)";
        for (states, expected) in [
            (
                vec![],
                decided(Finding::Bad("there is no default route, neither IPv4 nor IPv6".into())),
            ),
            (vec![v4(Some(Reachable))], decided(Finding::Good)),
            (vec![v4(Some(Permanent))], decided(Finding::Good)),
            (vec![v4(Some(Noarp))], decided(Finding::Good)),
            (vec![v4(Some(Stale))], None),
            (vec![v4(Some(Delay))], None),
            (vec![v4(Some(Probe))], None),
            (vec![v4(Some(Incomplete))], None),
            (vec![v4(Some(Failed))], None),
            (vec![v4(Some(NeighbourState::None))], None),
            (vec![v4(None)], None),
            // Without a carrier the neighbour entry is out of date.
            (
                vec![next_hop("10.0.0.1", NO_CARRIER, Some(Reachable))],
                decided(bad("eth0 has no carrier")),
            ),
            (vec![next_hop("10.0.0.1", DOWN, Some(Permanent))], decided(bad("eth0 is down"))),
            (vec![next_hop("", NO_CARRIER, None)], decided(bad("eth0 has no carrier"))),
            (vec![next_hop("", ETHER, None)], decided(Finding::Good)),
            (vec![next_hop("10.0.0.1", TUNNEL, None)], decided(Finding::Good)),
            (vec![gone(7)], decided(bad("the default route's link (index 7) is gone"))),
            (vec![gone(0)], decided(Finding::Unknown(unseen.into()))),
            // One next hop that works is enough, wherever it stands.
            (
                vec![next_hop("10.0.0.1", NO_CARRIER, None), on("eth1", v4(Some(Reachable)))],
                decided(Finding::Good),
            ),
            (vec![v4(Some(Failed)), on("eth1", v4(Some(Reachable)))], decided(Finding::Good)),
            (vec![on("eth1", v4(Some(Reachable))), v4(None)], decided(Finding::Good)),
            (vec![gone(0), v4(Some(Reachable))], decided(Finding::Good)),
            (
                vec![
                    next_hop("10.0.0.1", NO_CARRIER, None),
                    on("eth1", next_hop("fe80::1", DOWN, None)),
                ],
                decided(bad("eth0 has no carrier, eth1 is down")),
            ),
            // Two routes over one link are one reason.
            (
                vec![next_hop("10.0.0.1", NO_CARRIER, None), next_hop("fe80::1", NO_CARRIER, None)],
                decided(bad("eth0 has no carrier")),
            ),
        ] {
            let asked = match before_echo(&states) {
                BeforeEcho::Decided(finding) => Some(finding),
                BeforeEcho::Ask(asked) => {
                    assert_eq!(asked, states, "all of them are undecided");
                    None
                }
            };
            assert_eq!(asked, expected, "{states:?}");
        }
        let states = [next_hop("10.0.0.1", NO_CARRIER, None), on("eth1", v4(Some(Stale)))];
        assert_eq!(before_echo(&states), BeforeEcho::Ask(vec![states[1].clone()]));
    }

    #[test]
    fn a_gateway_without_an_echo_is_judged_by_its_neighbour_entry() {
        let arp = || bad("gateway 10.0.0.1 on eth0 does not answer ARP");
        let forbidden = || Echo::Forbidden("no right".into());
        let unknown = || {
            let text = "no default route works: gateway 10.0.0.1 on eth0 is not known to be there: no right";
            Finding::Unknown(text.into())
        };
        for (echo, after, expected) in [
            (Echo::Answered, None, Finding::Good),
            (Echo::Answered, Some(Stale), Finding::Good),
            (Echo::Silent, Some(Reachable), Finding::Good),
            (Echo::Silent, Some(Permanent), Finding::Good),
            (Echo::Silent, Some(Delay), Finding::Good),
            (Echo::Silent, Some(Probe), Finding::Good),
            (Echo::Silent, Some(Stale), bad("gateway 10.0.0.1 on eth0 does not answer an echo")),
            (Echo::Silent, Some(Incomplete), arp()),
            (Echo::Silent, Some(Failed), arp()),
            (Echo::Silent, None, arp()),
            (forbidden(), Some(Reachable), Finding::Good),
            (forbidden(), Some(Delay), Finding::Good),
            (forbidden(), Some(Stale), unknown()),
            (forbidden(), Some(Failed), unknown()),
            (forbidden(), None, unknown()),
        ] {
            let (before, after) =
                (next_hop("10.0.0.1", ETHER, None), next_hop("10.0.0.1", ETHER, after));
            let found = after_echo(from_ref(&after), &[before], from_ref(&echo));
            assert_eq!(found, expected, "{echo:?} {after:?}");
        }
        // A link that lost its carrier meanwhile; a next hop that was sent no echo.
        let (v6, lost) = (
            next_hop("fe80::1", ETHER, Some(Failed)),
            next_hop("fe80::1", NO_CARRIER, Some(Failed)),
        );
        let judge = |after: &NextHopState, asked: &[NextHopState]| {
            after_echo(from_ref(after), asked, &[Echo::Silent])
        };
        assert_eq!(judge(&lost, from_ref(&v6)), bad("eth0 has no carrier"));
        assert_eq!(
            judge(&v6, &[]),
            bad("gateway fe80::1 on eth0 does not answer neighbour discovery")
        );
        let both = [v6, on("eth1", next_hop("10.0.0.1", ETHER, None))];
        let found = after_echo(&both, &both, &[Echo::Silent, forbidden()]);
        assert!(
            matches!(&found, Finding::Unknown(why) if why.contains("fe80::1 on eth0") && why.contains("on eth1")),
            "{found:?}"
        );
    }

    #[test]
    fn many_reasons_are_counted() {
        let states: Vec<_> =
            (0..7).map(|n| on(&format!("eth{n}"), next_hop("", NO_CARRIER, None))).collect();
        let expected = "eth0 has no carrier, eth1 has no carrier, eth2 has no carrier, eth3 has no carrier (and 3 more)";
        assert_eq!(before_echo(&states), BeforeEcho::Decided(bad(expected)));
    }
}
