//! `tocsin peers`: the mesh, as a running agent knows it.

mod matrix;

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::bail;
use rustix::termios::tcgetwinsize;
use tocsin_api::peers::{Peer, PeersResponse, Probe, Reach};

use self::matrix::{Member, Path, render};
use super::{client, print, printable};
use crate::cli::PeersArgs;

/// Runs the command.
pub async fn run(args: &PeersArgs) -> anyhow::Result<()> {
    let answer = client::ask::<PeersResponse>(&args.admin_url, "/peers", args.output).await?;
    let Some(response) = answer else { return Ok(()) };
    if response.role == "off" {
        bail!("this agent has no peers (PEERS=on turns them on)");
    }
    let is_terminal = io::stdout().is_terminal();
    // A terminal that does not tell its width has 80 columns, as the first ones had.
    let columns = || tcgetwinsize(io::stdout()).map_or(80, |size| size.ws_col);
    let width = is_terminal.then(|| match columns() {
        0 => 80,
        columns => usize::from(columns),
    });
    // https://no-color.org
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    print(&text(&response, width, is_terminal && !is_plain));
    Ok(())
}

/// All that the command prints.
fn text(response: &PeersResponse, width: Option<usize>, is_coloured: bool) -> String {
    let members = members(response);
    let mut text = format!("{}\n\n{}", headline(response), render(&members, width, is_coloured));
    for storm in &response.storms {
        text.push_str(&format!(
            "\nstorm guard: {} fails on {} of {} nodes, and takes none of them out since {}\n",
            printable(&storm.check),
            storm.failing,
            storm.of,
            printable(&storm.since)
        ));
    }
    if response.webhooks_queued > 0 {
        text.push_str(&format!("\nwebhooks not delivered yet: {}\n", response.webhooks_queued));
    }
    for why in &response.degraded {
        text.push_str(&format!("\ndegraded: {}\n", printable(why)));
    }
    text
}

/// A member's identifier, node, state, failing checks, and what it reaches.
type Row<'a> = (&'a str, &'a str, &'a str, &'a [String], BTreeMap<&'a str, Probe>);

/// Who this is, and who speaks for the mesh.
fn headline(response: &PeersResponse) -> String {
    let own = response.own.as_ref().map_or("this node", |own| own.node.as_str());
    let alive = response.peers.iter().filter(|peer| peer.state == "alive").count();
    let known = response.peers.iter().filter(|peer| peer.state != "left").count();
    let role = match (response.role.as_str(), &response.coordinator) {
        ("coordinator", _) => "coordinator: it reports to the outside".to_owned(),
        ("follower", Some(coordinator)) => format!("{coordinator} reports to the outside"),
        ("isolated", _) => "isolated: it reports nothing".to_owned(),
        ("undecided", _) => "it has not found a majority yet, and reports nothing".to_owned(),
        (other, _) => other.to_owned(),
    };
    printable(&format!("{own}: {role}; {alive} of {known} peers are alive"))
}

/// This agent and its peers by name, each with its row.
fn members(response: &PeersResponse) -> Vec<Member> {
    let own = response.own.clone().unwrap_or_default();
    let own_row: BTreeMap<&str, Probe> = response
        .peers
        .iter()
        .filter_map(|peer| Some((peer.identity.id.as_str(), peer.probe?)))
        .collect();
    let is_there = |peer: &&Peer| peer.state != "left";
    let mut rows: Vec<Row> = response
        .peers
        .iter()
        .filter(is_there)
        .map(|peer| {
            // What an agent said before it died is old.
            let said = peer.reaches.iter().filter(|_| ["alive", "suspect"].contains(&&*peer.state));
            let row = said.map(|Reach { id, probe }| (id.as_str(), *probe));
            let Peer { identity, state, failing, .. } = peer;
            (&*identity.id, &*identity.node, &**state, failing.as_slice(), row.collect())
        })
        .collect();
    rows.push((&own.id, &own.node, "alive", &[], own_row));
    rows.sort_by_key(|(id, ..)| *id);
    let ids: Vec<&str> = rows.iter().map(|(id, ..)| *id).collect();
    let member = |(id, node, state, failing, row): &Row| Member {
        node: (*node).to_owned(),
        state: (*state).to_owned(),
        note: note(id, failing, response),
        paths: ids.iter().map(|other| path(id, other, row)).collect(),
    };
    rows.iter().map(member).collect()
}

fn path(id: &str, other: &str, row: &BTreeMap<&str, Probe>) -> Path {
    match row.get(other) {
        _ if id == other => Path::Own,
        None => Path::Unknown,
        Some(Probe { round_trip_seconds: None, .. }) => Path::Unreached,
        Some(Probe { round_trip_seconds: Some(seconds), loss, .. }) => Path::Reached {
            round_trip: Duration::try_from_secs_f64(*seconds).unwrap_or_default(),
            loss: *loss,
        },
    }
}

/// That the member coordinates, and which of its checks fail.
fn note(id: &str, failing: &[String], response: &PeersResponse) -> String {
    let is_own = response.own.as_ref().is_some_and(|own| own.id == id);
    let coordinates =
        response.coordinator.as_deref() == Some(id) || (is_own && response.role == "coordinator");
    let role = coordinates.then(|| "coordinator".to_owned());
    let failing = (!failing.is_empty()).then(|| format!("fails {}", failing.join(", ")));
    role.into_iter().chain(failing).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use tocsin_api::peers::{Identity, Storm};

    use super::*;

    fn identity(number: usize) -> Identity {
        let (id, node) = (format!("n{number}@{number}"), format!("n{number}"));
        Identity { id, node, address: format!("10.0.0.{number}:25004") }
    }

    fn probe(round_trip_seconds: Option<f64>) -> Probe {
        Probe { round_trip_seconds, ..Probe::default() }
    }

    #[test]
    fn the_mesh_is_shown_with_who_speaks_and_what_is_wrong() {
        let reach = |number: usize, time| Reach { id: identity(number).id, probe: probe(time) };
        let peer = |number, state: &str, reaches, own| Peer {
            identity: identity(number),
            state: state.to_owned(),
            reaches,
            probe: own,
            ..Peer::default()
        };
        let mut response = PeersResponse {
            role: "follower".to_owned(),
            coordinator: Some("n3@3".to_owned()),
            own: Some(identity(2)),
            peers: vec![
                peer(1, "dead", vec![reach(3, Some(0.001))], Some(probe(None))),
                peer(3, "alive", vec![reach(2, Some(0.001))], Some(probe(Some(0.0004)))),
                peer(4, "left", vec![], None),
            ],
            degraded: vec!["no key".to_owned()],
            ..PeersResponse::default()
        };
        response.peers[1].failing = vec!["node_ready".to_owned()];
        response.storms = vec![Storm {
            check: "node_ready".to_owned(),
            failing: 3,
            of: 5,
            since: "2026-01-01T00:00:00Z".to_owned(),
        }];
        let text = text(&response, None, false);
        for line in [
            "n2: n3@3 reports to the outside; 1 of 2 peers are alive",
            "      1     2      3",
            "1 n1  .     ?      ?      dead",
            "2 n2  LOST  .      0.4ms",
            "3 n3  ?     1.0ms  .      coordinator, fails node_ready",
            "storm guard: node_ready fails on 3 of 5 nodes, and takes none of them out since 2026-01-01T00:00:00Z",
            "degraded: no key",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?}\n{text}");
        }
        assert!(!text.contains("n4"), "who left is no member\n{text}");
    }
}
