use super::*;
use crate::model::{Peer, PeerIdentity};

fn names(list: &str) -> BTreeSet<Arc<str>> {
    list.split(',').filter(|name| !name.is_empty()).map(Arc::from).collect()
}

fn identity(number: u8) -> PeerIdentity {
    PeerIdentity {
        id: format!("n{number}@10000{number}").into(),
        node: format!("n{number}").into(),
        address: ([10, 0, 0, number], 25004).into(),
    }
}

/// An alive peer of which these checks fail, and which says nothing of the others.
fn peer(number: u8, failing: &str) -> Peer {
    Peer {
        identity: identity(number),
        state: PeerState::Alive,
        since: Instant::now(),
        failing: names(failing),
        passing: None,
        probe: None,
        reaches: Vec::new(),
    }
}

fn view(peers: Vec<Peer>) -> PeerView {
    let own = Some(identity(1));
    PeerView { own, role: PeerRole::Coordinator, peers, ..PeerView::default() }
}

fn own(failing: &str, passing: &str) -> OwnChecks {
    OwnChecks { failing: names(failing), passing: names(passing) }
}

/// Peers numbered from 2, one for each text.
fn peers(failing: &[&str]) -> Vec<Peer> {
    (2..).zip(failing).map(|(number, failing)| peer(number, failing)).collect()
}

fn thirty() -> GuardView {
    GuardView::new(Some("30%".parse().unwrap()))
}

/// The checks that a fresh guard holds up.
fn held(own: &OwnChecks, view: &PeerView) -> Vec<String> {
    let mut guard = thirty();
    guard.update(count(own, view).as_ref(), Instant::now(), SystemTime::UNIX_EPOCH);
    guard.storms.keys().map(ToString::to_string).collect()
}

#[test]
fn a_check_that_fails_on_many_nodes_is_held_up_and_one_that_fails_on_few_is_not() {
    let none: &[&str] = &[];
    // (own failing, what the peers say fails, held up)
    for (failing, others, expected) in [
        ("", &["", "", "", ""][..], none),
        ("a", &["", "", "", ""], none),
        ("a", &["a", "", "", ""], none),
        ("a", &["a", "a", "", ""], &["a"]),
        // The others' storm is known here too, before it arrives.
        ("", &["a", "a", "a", ""], &["a"]),
        ("", &["a", "a", "", ""], none),
        // Each check counts for itself.
        ("a", &["b", "c", "a", "b"], none),
        ("a,b", &["b", "a", "a", "b"], &["a", "b"]),
        // Three nodes: all of them; two nodes: never.
        ("a", &["a", "a"], &["a"]),
        ("a", &["a", ""], none),
        ("a", &["a"], none),
        ("a", &[], none),
        // Beyond the threshold, not at it: 3 of 10, 4 of 13.
        ("a", &["a", "a", "", "", "", "", "", "", ""], none),
        ("a", &["a", "a", "a", "", "", "", "", "", "", "", "", ""], &["a"]),
    ] {
        let found = held(&own(failing, "a,b"), &view(peers(others)));
        assert_eq!(found, expected, "{failing:?} {others:?}");
    }
}

#[test]
fn the_share_is_of_the_nodes_that_run_the_check() {
    // 3 of 12 nodes run the check, and it fails on all of them.
    let mut others = peers(&["a", "a", "", "", "", "", "", "", "", "", ""]);
    assert!(held(&own("a", ""), &view(others.clone())).is_empty());
    for peer in &mut others {
        peer.passing = Some(names("b"));
    }
    assert_eq!(held(&own("a", ""), &view(others.clone())), ["a"]);
    // Eight more of them say that they run it and that it passes.
    for peer in others.iter_mut().skip(2).take(8) {
        peer.passing = Some(names("a,b"));
    }
    assert!(held(&own("a", ""), &view(others)).is_empty());
}

#[test]
fn one_node_has_one_voice() {
    // A compromised node invents agents: on its own address, or under the name of one node.
    let mut liars = peers(&["a", "a", "a", "a"]);
    for liar in &mut liars {
        liar.identity.address = ([10, 0, 0, 2], liar.identity.address.port() + 1).into();
    }
    assert!(held(&own("a", ""), &view(liars.clone())).is_empty());
    let mut liars = peers(&["a", "a", "a", "a"]);
    for liar in &mut liars {
        liar.identity.node = "n2".into();
    }
    assert!(held(&own("a", ""), &view(liars)).is_empty());
    // Neither may it speak for this node.
    let mut liars = peers(&["a", "a"]);
    liars[0].identity.node = "n1".into();
    liars[1].identity.address = ([10, 0, 0, 1], 1).into();
    assert!(held(&own("a", ""), &view(liars)).is_empty());
}

#[test]
fn only_the_majority_and_those_who_are_there_count() {
    let storm = || view(peers(&["a", "a", "a", "a"]));
    for (role, expected) in [
        (PeerRole::Coordinator, true),
        (PeerRole::Follower { coordinator: "n5@100005".into() }, true),
        (PeerRole::Undecided, false),
        (PeerRole::Isolated, false),
    ] {
        let found = held(&own("a", ""), &PeerView { role: role.clone(), ..storm() });
        assert_eq!(!found.is_empty(), expected, "{role:?}");
    }
    for (state, expected) in [
        (PeerState::Alive, true),
        (PeerState::Suspect, true),
        (PeerState::Dead, false),
        (PeerState::Left, false),
        (PeerState::Unseen, false),
    ] {
        let mut view = storm();
        for peer in &mut view.peers {
            peer.state = state;
        }
        assert_eq!(!held(&own("a", ""), &view).is_empty(), expected, "{state:?}");
    }
}

#[test]
fn it_begins_at_once_and_ends_when_it_has_been_over_for_some_time() {
    let start = Instant::now();
    let mut guard = thirty();
    let mut changes_at = |seconds: u64, share: Option<(usize, usize)>| {
        let counts =
            share.map(|(failing, of)| BTreeMap::from([(Arc::from("a"), Failing { failing, of })]));
        let time = Duration::from_secs(seconds);
        let changes = guard.update(counts.as_ref(), start + time, SystemTime::UNIX_EPOCH + time);
        let facts = changes.iter().map(|change| (change.is_held, change.held_for.as_secs()));
        facts.collect::<Vec<_>>()
    };
    let silence: Vec<(bool, u64)> = Vec::new();
    for (seconds, share, expected) in [
        (0, Some((1, 5)), silence.clone()),
        (1, Some((3, 5)), vec![(true, 0)]),
        // It swings about the threshold, is not known for a while, and comes back.
        (20, Some((1, 5)), silence.clone()),
        (30, Some((3, 5)), silence.clone()),
        (40, None, silence.clone()),
        (59, Some((5, 5)), silence.clone()),
        (60, Some((1, 5)), silence.clone()),
        (88, Some((1, 5)), silence.clone()),
        (89, Some((1, 5)), vec![(false, 88)]),
        (90, Some((1, 5)), silence.clone()),
        // An isolated agent lets go as well.
        (100, Some((3, 5)), vec![(true, 0)]),
        (129, None, silence.clone()),
        (130, None, vec![(false, 30)]),
        // A check that nobody has any more.
        (131, Some((3, 5)), vec![(true, 0)]),
    ] {
        assert_eq!(changes_at(seconds, share), expected, "after {seconds} s");
    }
    assert_eq!(guard.begun, 3);
    let changes = guard.update(
        Some(&BTreeMap::new()),
        start + Duration::from_secs(161),
        SystemTime::UNIX_EPOCH + Duration::from_secs(161),
    );
    assert!(matches!(changes.as_slice(), [GuardChange { is_held: false, share: None, .. }]));
}

#[test]
fn off_means_off_and_the_words_say_why() {
    let storm = count(&own("a", ""), &view(peers(&["a", "a", "", ""])));
    let mut off = GuardView::new(None);
    assert!(off.update(storm.as_ref(), Instant::now(), SystemTime::UNIX_EPOCH).is_empty());
    assert_eq!(off.holds("a", "why"), None);
    let mut guard = thirty();
    guard.update(storm.as_ref(), Instant::now(), SystemTime::UNIX_EPOCH);
    assert_eq!(
        guard.holds("a", "loop3: EIO").unwrap(),
        "storm guard: fails on 3 of 5 nodes, more than 30%, so this node stays in: loop3: EIO"
    );
    assert_eq!(guard.holds("b", "why"), None);
}
