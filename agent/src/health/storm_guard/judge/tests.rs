use std::collections::BTreeSet;

use super::*;
use crate::{
    health::storm_guard::count::{Asking, OwnChecks, Tally, count},
    model::{Peer, PeerIdentity, PeerRole, PeerState, PeerView},
    peers::{
        gossip::status::Status,
        probes::confirm::{Answer, Answers},
    },
};

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
        host: Some(identity(number).node),
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

fn answer(failing: &BTreeSet<Arc<str>>, at: Instant) -> Answer {
    Answer { at, status: Status { failing: failing.clone(), passing: None } }
}

/// The answers of peers that all say the same as their gossip.
fn honest(view: &PeerView, now: Instant) -> Answers {
    let peers = view.peers.iter();
    peers.map(|peer| (peer.identity.id.clone(), answer(&peer.failing, now))).collect()
}

fn shares(tallies: Option<BTreeMap<Arc<str>, Tally>>) -> Option<BTreeMap<Arc<str>, Failing>> {
    Some(tallies?.into_iter().map(|(name, tally)| (name, tally.confirmed())).collect())
}

/// The checks that a fresh guard holds up, when those answers are there.
fn held_by(own: &OwnChecks, view: &PeerView, answers: &Answers, now: Instant) -> Vec<String> {
    let (mut guard, counts) = (thirty(), shares(count(own, view, answers, now)));
    guard.update(counts.as_ref(), now, SystemTime::UNIX_EPOCH);
    guard.storms.keys().map(ToString::to_string).collect()
}

/// The checks that a fresh guard holds up, when everybody says the truth.
fn held(own: &OwnChecks, view: &PeerView) -> Vec<String> {
    let now = Instant::now();
    held_by(own, view, &honest(view, now), now)
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

/// A compromised node has the key and as many addresses as it likes, and answers for each of them.
#[test]
fn who_a_host_is_discovery_says() {
    let liars = || peers(&["a", "a", "a", "a"]);
    let by_discovery = |host: &dyn Fn(usize) -> Option<Arc<str>>| {
        let mut liars = liars();
        for (number, liar) in liars.iter_mut().enumerate() {
            liar.host = host(number);
        }
        held(&own("a", ""), &view(liars))
    };
    assert_eq!(by_discovery(&|number| Some(format!("10.0.0.{number}").into())), ["a"]);
    // Discovery names none of the addresses, or one of them.
    assert!(by_discovery(&|_| None).is_empty());
    assert!(by_discovery(&|number| (number == 0).then(|| "n2".into())).is_empty());
    // All are on its node, or on this one.
    assert!(by_discovery(&|_| Some("n2".into())).is_empty());
    assert!(by_discovery(&|number| Some(if number == 0 { "n2" } else { "n1" }.into())).is_empty());
    // Those that do not count are no nodes on which it passes, either.
    let mut some = peers(&["a", "a", "", "", "", "", "", "", ""]);
    some.iter_mut().skip(2).for_each(|peer| peer.host = None);
    assert_eq!(held(&own("a", ""), &view(some)), ["a"]);
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
    let (now, view) = (Instant::now(), view(peers(&["a", "a", "", ""])));
    let storm = shares(count(&own("a", ""), &view, &honest(&view, now), now));
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

/// One compromised node forges what all others say by gossip, and lies when it is asked itself.
#[test]
fn what_one_node_says_in_the_name_of_others_counts_for_nothing() {
    let (now, own) = (Instant::now(), own("a", "b"));
    for nodes in [4, 9, 200] {
        let forged = view(peers(&vec!["a"; nodes]));
        let mut answers: Answers = honest(&forged, now);
        // Nobody was asked yet.
        assert!(held_by(&own, &forged, &Answers::new(), now).is_empty(), "{nodes}");
        // All but the liar say that it passes, or do not answer.
        answers.values_mut().skip(1).for_each(|one| one.status.failing.clear());
        assert!(held_by(&own, &forged, &answers, now).is_empty(), "{nodes}");
        let liar = answers.first_key_value().map(|(id, one)| (id.clone(), one.clone()));
        assert!(held_by(&own, &forged, &liar.into_iter().collect(), now).is_empty(), "{nodes}");
        // Another failing check confirms nothing of this one.
        for one in answers.values_mut() {
            one.status.failing = names("b");
        }
        assert!(!held_by(&own, &forged, &answers, now).contains(&"a".to_owned()), "{nodes}");
    }
    // What was true is not for ever.
    let storm = view(peers(&["a", "a", "", ""]));
    for (age, expected) in [(0, true), (9_999, true), (10_000, false)] {
        let then = now + Duration::from_millis(age);
        let found = held_by(&own, &storm, &honest(&storm, now), then);
        assert_eq!(!found.is_empty(), expected, "{age} ms");
    }
}

#[test]
fn a_sample_of_many_claimants_stands_for_all_unless_it_contradicts_them() {
    let (now, own) = (Instant::now(), own("a", ""));
    let storm = view(peers(&["a"; 200]));
    // (answers, of them that say it fails, where it fails then)
    for (answered, confirmed, failing) in
        [(23, 23, 24), (24, 24, 201), (24, 18, 151), (24, 17, 18), (40, 13, 14), (200, 60, 61)]
    {
        let mut answers: Answers = honest(&storm, now).into_iter().take(answered).collect();
        answers.values_mut().skip(confirmed).for_each(|one| one.status.failing.clear());
        let tallies = count(&own, &storm, &answers, now).unwrap();
        let expected = Failing { failing, of: 201 };
        assert_eq!(tallies["a"].confirmed(), expected, "{confirmed} of {answered}");
    }
}

#[test]
fn those_who_matter_are_asked_a_few_at_a_time_and_again() {
    let threshold: Share = "30%".parse().unwrap();
    let (start, own) = (Instant::now(), own("a", "b"));
    let never = |_: &str| false;
    let asked = |view: &PeerView, answers: &Answers, ms: u64, asking: &mut Asking| {
        let now = start + Duration::from_millis(ms);
        asking.next(&count(&own, view, answers, now).unwrap(), threshold, never, now)
    };
    // No storm, if all of it is true: nobody is asked.
    let (few, none) = (view(peers(&["a", "", "", ""])), Answers::new());
    assert!(asked(&few, &none, 0, &mut Asking::default()).is_empty());
    // The claimants are, at once; who does not confirm each second, who confirms every four.
    let (storm, mut asking) = (view(peers(&["a", "a", "", ""])), Asking::default());
    assert_eq!(asked(&storm, &none, 0, &mut asking).len(), 2);
    assert!(asked(&storm, &none, 900, &mut asking).is_empty());
    let one: Answers = honest(&storm, start).into_iter().take(1).collect();
    assert_eq!(asked(&storm, &one, 1000, &mut asking), [identity(3).id]);
    assert_eq!(asked(&storm, &honest(&storm, start), 4000, &mut asking), [identity(2).id]);
    // Many are asked in turns, until those that have answered are enough.
    let (storm, mut asking) = (view(peers(&["a"; 200])), Asking::default());
    let mut answers = Answers::new();
    for round in 0..4 {
        let whom = asked(&storm, &answers, round * 200, &mut asking);
        assert_eq!(whom.len(), if round < 3 { 8 } else { 0 }, "{round}");
        answers.extend(whom.into_iter().map(|id| (id, answer(&names("a"), start))));
    }
    assert_eq!(answers.len(), 24);
    // A check that is held up is asked for until the guard lets go.
    let (calm, mut asking) = (view(peers(&["a", "", "", ""])), Asking::default());
    let tallies = count(&own, &calm, &none, start).unwrap();
    assert_eq!(asking.next(&tallies, threshold, |name| name == "a", start), [identity(2).id]);
}
