//! Members die at every step between the detection of a death and its delivery.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{change, identity, retry, view};
use crate::{
    model::PeerChange,
    peers::webhooks::queue::{Attempt, Queue, Step},
};

const SECOND: Duration = Duration::from_secs(1);

/// Members with their queues, gossip that takes a second, and a receiver.
struct Cluster {
    now: Instant,
    /// By name; the coordinator is the highest.
    members: BTreeMap<&'static str, Queue>,
    sessions: u32,
    /// Keys in the order in which the receiver accepted them.
    received: Vec<Arc<str>>,
    is_receiver_up: bool,
}

impl Cluster {
    fn new(names: &[&'static str]) -> Self {
        let mut cluster = Self {
            now: Instant::now(),
            members: BTreeMap::new(),
            sessions: 0,
            received: Vec::new(),
            is_receiver_up: true,
        };
        for name in names {
            cluster.start(name);
        }
        cluster.gossip();
        cluster
    }

    /// A member starts, with an empty queue.
    fn start(&mut self, name: &'static str) {
        self.sessions += 1;
        self.members.insert(name, Queue::new(retry(5, SECOND), true, self.sessions, self.now));
        self.agree();
    }

    /// A member dies; the others agree on that.
    fn kill(&mut self, name: &'static str) {
        self.members.remove(name);
        self.agree();
    }

    /// Everybody sees who is there.
    fn agree(&mut self) {
        let names: Vec<_> = self.members.keys().copied().collect();
        let coordinator = names.last().copied();
        for (name, queue) in &mut self.members {
            queue.on_view(&view(name, &names, coordinator), self.now);
        }
    }

    /// All see the same change.
    fn change(&mut self, change: &PeerChange) {
        for queue in self.members.values_mut() {
            queue.on_change(change.clone(), self.now);
        }
    }

    /// What everybody says reaches everybody, a second later.
    fn gossip(&mut self) {
        let said: Vec<_> = self
            .members
            .iter()
            .map(|(name, queue)| (identity(name).id, queue.share(self.now).encode()))
            .collect();
        self.now += SECOND;
        for queue in self.members.values_mut() {
            for (origin, bytes) in &said {
                queue.on_share(origin, bytes, self.now);
            }
        }
    }

    /// A member sends what it has to, up to one webhook; gives how that ended.
    fn post(&mut self, name: &str) -> Option<Attempt> {
        let step = self.members.get_mut(name)?.step(self.now);
        let Step::Send(change) = step else { return None };
        if self.is_receiver_up {
            self.received.push(change.key);
        }
        Some(if self.is_receiver_up { Attempt::Accepted } else { Attempt::NotConnected })
    }

    /// Goes on for that many seconds.
    fn run(&mut self, seconds: u32) {
        for _ in 0..seconds {
            let names: Vec<_> = self.members.keys().copied().collect();
            for name in names {
                while let Some(attempt) = self.post(name) {
                    let now = self.now;
                    if let Some(queue) = self.members.get_mut(name) {
                        queue.on_result(attempt, now);
                    }
                }
            }
            self.gossip();
        }
    }

    /// What the receiver has, with its repetitions taken out by their keys.
    fn told(&self) -> Vec<Arc<str>> {
        let mut told = Vec::new();
        for key in &self.received {
            if !told.contains(key) {
                told.push(key.clone());
            }
        }
        told
    }

    #[track_caller]
    fn assert_all_told(&self, expected: &[PeerChange], repeated: usize) {
        let expected: Vec<_> = expected.iter().map(|change| change.key.clone()).collect();
        assert_eq!(self.told(), expected);
        assert_eq!(self.received.len() - expected.len(), repeated, "{:?}", self.received);
        for (name, queue) in &self.members {
            assert_eq!(queue.len(), 0, "{name} still has webhooks");
        }
    }
}

/// Where the coordinator dies.
#[derive(Clone, Copy, Debug)]
enum Dies {
    /// Nobody has agreed on the death yet.
    Undetected,
    /// It alone knows of the death yet.
    Detected,
    /// The others know, and it waits for `SANITY_CHECK_URL`.
    Asking,
    /// All know, and nothing was sent.
    Agreed,
    /// The request was lost on its way.
    Sending,
    /// The receiver has it, and the coordinator does not know.
    Received,
    /// The coordinator knows that the receiver has it, and nobody else does.
    Accepted,
    /// One of the others knows too.
    HalfTold,
    /// All know.
    Told,
}

/// `e` coordinates `a` to `d`. `a` dies, and `e` dies at some step of telling that.
#[test]
fn no_death_is_lost_and_none_is_repeated_but_by_its_key() {
    for (dies, repeated) in [
        (Dies::Undetected, 0),
        (Dies::Detected, 0),
        (Dies::Asking, 0),
        (Dies::Agreed, 0),
        (Dies::Sending, 0),
        (Dies::Received, 1),
        (Dies::Accepted, 1),
        (Dies::HalfTold, 0),
        (Dies::Told, 0),
    ] {
        let mut cluster = Cluster::new(&["a", "b", "c", "d", "e"]);
        let (first, second) = (change("a", false, 1), change("e", false, 1));
        cluster.kill("a");
        let knows = |name: &str| match dies {
            Dies::Undetected => false,
            Dies::Detected => name == "e",
            Dies::Asking => name != "e",
            _ => true,
        };
        for (_, queue) in cluster.members.iter_mut().filter(|(name, _)| knows(name)) {
            queue.on_change(first.clone(), cluster.now);
        }
        cluster.is_receiver_up = !matches!(dies, Dies::Sending);
        if !matches!(dies, Dies::Undetected | Dies::Detected | Dies::Asking | Dies::Agreed) {
            assert!(cluster.post("e").is_some());
        }
        cluster.is_receiver_up = true;
        if matches!(dies, Dies::Accepted | Dies::HalfTold | Dies::Told) {
            let now = cluster.now;
            cluster.members.get_mut("e").unwrap().on_result(Attempt::Accepted, now);
        }
        match dies {
            // The one that hears of it is the successor.
            Dies::HalfTold => {
                let now = cluster.now;
                let bytes = cluster.members["e"].share(now).encode();
                cluster.members.get_mut("d").unwrap().on_share(&identity("e").id, &bytes, now);
            }
            Dies::Told => cluster.gossip(),
            _ => {}
        }
        // The others agree on the death that they have detected themselves, and on the coordinator's.
        cluster.kill("e");
        if matches!(dies, Dies::Undetected | Dies::Detected) {
            cluster.change(&first);
        }
        cluster.change(&second);
        if matches!(dies, Dies::Asking) {
            // The successor asks, too, before it tells.
            let now = cluster.now;
            let successor = cluster.members.get_mut("d").unwrap();
            let mut view = view("d", &["b", "c"], Some("d"));
            view.withheld = [first.peer.id.clone()].into();
            successor.on_view(&view, now);
            assert_eq!(successor.step(now), Step::Wait(None));
            cluster.agree();
        }
        // Nothing is in the way of the successor: it needs no time.
        cluster.run(1);
        assert_eq!(cluster.told(), [first.key.clone(), second.key.clone()], "{dies:?}");
        cluster.run(30);
        cluster.assert_all_told(&[first, second], repeated);
    }
}

/// The member is back before its death could be told, so nobody is to be told, whoever coordinates later.
#[test]
fn a_death_that_is_withdrawn_leaves_every_queue() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d", "e"]);
    let (died, back) = (change("a", false, 1), change("a", true, 2));
    // The coordinator withholds it, and all others keep it.
    cluster.kill("a");
    for (_, queue) in cluster.members.iter_mut().filter(|(name, _)| **name != "e") {
        queue.on_change(died.clone(), cluster.now);
    }
    cluster.run(10);
    cluster.start("a");
    for (_, queue) in cluster.members.iter_mut().filter(|(name, _)| !["a", "e"].contains(*name)) {
        queue.on_change(back.clone(), cluster.now);
    }
    let now = cluster.now;
    for change in [&died, &back] {
        let withdrawn = PeerChange { is_withdrawn: true, ..change.clone() };
        cluster.members.get_mut("e").unwrap().on_change(withdrawn, now);
    }
    cluster.run(5);
    cluster.kill("e");
    cluster.run(200);
    cluster.assert_all_told(&[], 0);
}

/// The receiver is down while one coordinator after the other dies, and one comes back with an empty queue.
#[test]
fn a_coordinator_that_joined_later_leaves_older_webhooks_to_those_that_have_them() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d", "e"]);
    cluster.is_receiver_up = false;
    let changes =
        [change("a", false, 1), change("e", false, 1), change("e", true, 1), change("b", false, 1)];
    cluster.kill("a");
    cluster.change(&changes[0]);
    cluster.run(10);
    cluster.kill("e");
    cluster.change(&changes[1]);
    cluster.run(10);
    // It coordinates again, and knows nothing of its own death.
    cluster.start("e");
    cluster.change(&changes[2]);
    cluster.run(10);
    cluster.kill("b");
    cluster.change(&changes[3]);
    cluster.run(10);
    assert_eq!(cluster.received, []);
    cluster.is_receiver_up = true;
    cluster.run(200);
    cluster.assert_all_told(&changes, 0);
}

/// A restart within a second is no death for the others, and still empties the queue.
#[test]
fn a_restart_that_is_not_noticed_loses_nothing() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    cluster.is_receiver_up = false;
    let death = change("a", false, 1);
    cluster.kill("a");
    cluster.change(&death);
    cluster.run(3);
    cluster.start("c");
    cluster.run(10);
    cluster.is_receiver_up = true;
    cluster.run(200);
    cluster.assert_all_told(&[death], 0);
}

/// The coordinator is cut off, and back before anybody hears that it was isolated. It has missed what was agreed on
/// meanwhile, and says the same of itself as before.
#[test]
fn a_coordinator_that_was_cut_off_leaves_what_it_missed_to_the_others() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d", "e"]);
    let majority = ["a", "b", "c"];
    for (name, queue) in &mut cluster.members {
        let view = if majority.contains(name) {
            view(name, &majority, Some("c"))
        } else {
            view(name, &["d", "e"], None)
        };
        queue.on_view(&view, cluster.now);
    }
    let changes = ["d", "e"].map(|name| [change(name, false, 1), change(name, true, 1)]);
    let agree_on = |cluster: &mut Cluster, change: &PeerChange| {
        for name in majority {
            cluster.members.get_mut(name).unwrap().on_change(change.clone(), cluster.now);
        }
    };
    let [[d_died, d_back], [e_died, e_back]] = changes;
    for change in [&d_died, &e_died] {
        agree_on(&mut cluster, change);
        let now = cluster.now;
        assert_eq!(cluster.post("c"), Some(Attempt::Accepted));
        cluster.members.get_mut("c").unwrap().on_result(Attempt::Accepted, now);
    }
    cluster.now += SECOND;
    cluster.agree();
    for change in [&d_back, &e_back] {
        agree_on(&mut cluster, change);
    }
    cluster.run(30);
    cluster.assert_all_told(&[d_died, e_died, d_back, e_back], 0);
}

/// A member dies while the coordinator, which was cut off, asks what it has missed: the others tell it that they have
/// agreed on that death, so it does not queue it.
#[test]
fn a_coordinator_that_catches_up_leaves_deaths_to_the_others() {
    let mut cluster = Cluster::new(&["a", "b", "c", "d", "e"]);
    let see = |cluster: &mut Cluster, alive: &[&str], is_catching_up| {
        let mut view = view("e", alive, Some("e").filter(|_| alive.len() > 1));
        view.is_catching_up = is_catching_up;
        let now = cluster.now;
        cluster.members.get_mut("e").unwrap().on_view(&view, now);
    };
    see(&mut cluster, &[], false);
    for name in ["a", "b", "c", "d"] {
        let view = view(name, &["a", "b", "c", "d"], Some("d"));
        cluster.members.get_mut(name).unwrap().on_view(&view, cluster.now);
    }
    cluster.run(10);
    cluster.agree();
    see(&mut cluster, &["a", "b", "c", "d"], true);
    cluster.run(3);
    cluster.kill("a");
    see(&mut cluster, &["b", "c", "d"], true);
    let death = change("a", false, 1);
    for name in ["b", "c", "d"] {
        cluster.members.get_mut(name).unwrap().on_change(death.clone(), cluster.now);
    }
    cluster.run(20);
    cluster.assert_all_told(&[death], 0);
}

/// All are isolated at once, as when a switch restarts.
#[test]
fn an_isolation_of_all_loses_nothing() {
    let mut cluster = Cluster::new(&["a", "b", "c"]);
    let death = change("a", false, 1);
    cluster.kill("a");
    cluster.change(&death);
    for (name, queue) in &mut cluster.members {
        queue.on_view(&view(name, &[], None), cluster.now);
    }
    let now = cluster.now;
    for queue in cluster.members.values_mut() {
        assert_eq!(queue.step(now + Duration::from_mins(10)), Step::Wait(None));
    }
    cluster.agree();
    cluster.run(30);
    cluster.assert_all_told(&[death], 0);
}
