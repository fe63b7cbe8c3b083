//! What an agent tells the members by itself: items of gossip, one member's state, that it is here, and that it leaves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use foca::{Codec, Foca, Member, State, Timer};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{Event, Membership};
use crate::peers::{
    deaths::{self, End, Ended},
    gossip::Topic,
    items::{self, About, Item},
    member::{Node, Wire},
    packet::{Kind, PAYLOAD_BYTES},
    stats::Rejection,
    suspicions::Suspicions,
    swim::{Note, config},
    timers::Timers,
};

/// 1 second between the first questions for what the others know: items of gossip, of which one answer has a few, and
/// deaths that were agreed on. Each goes to another member.
const ASK_FIRST: Duration = Duration::from_secs(1);
/// 10 such questions. Then the pause doubles, up to [`ASK_LATER`].
const ASK_OFTEN: u32 = 10;
/// 1 minute between later questions, in case something was missed.
const ASK_LATER: Duration = Duration::from_mins(1);
/// 4 packets of items in an answer: half a hundred faults or more.
const ITEM_PACKETS: usize = 4;

/// 64 members are told directly that this agent leaves: gossip does the rest in a larger cluster.
const FAREWELLS: usize = 64;

/// 4 missing members are asked in a round: its cost does not grow with their number.
const ASKED: usize = 4;

impl Membership {
    /// Tells all members something.
    pub fn share(&mut self, now: Instant, topic: Topic, bytes: Arc<[u8]>) {
        self.shared.insert(topic, bytes.clone());
        let _item = self.publish(now, About::Topic(topic), bytes);
    }

    /// Tells the members that this agent leaves; from now on it only gossips.
    pub fn leave(&mut self, now: Instant) {
        let generation = self.own().generation.to_be_bytes();
        let farewell = self.publish(now, About::Leaves, Arc::from(generation));
        // Said directly too: gossip may miss who has to know, and an orderly stop would be reported as a death.
        let packet = items::frame(&farewell);
        let members = self.foca.iter_members().map(|member| member.id().address);
        for address in members.take(FAREWELLS).collect::<Vec<_>>() {
            self.links.send(now, address, Kind::Items, &packet, &mut self.out);
        }
        for _ in 0..3 {
            self.drive(now, |foca, effects| foca.gossip(effects));
        }
        self.has_left = true;
    }

    /// Forgets a dead member, which discovery does not know any more.
    pub fn forget(&mut self, now: Instant, node: Node) {
        let address = node.address;
        self.drive(now, |foca, effects| foca.handle_timer(Timer::RemoveDown(node), effects));
        if self.foca.iter_membership_state().all(|member| member.id().address != address) {
            self.known.remove(&address);
            self.heard.remove(&address);
            self.items.forget(address);
            self.deaths.forget(address);
        }
    }

    /// Asks the others what this agent has missed, often at first.
    pub fn catch_up(&mut self, now: Instant) {
        (self.items_at, self.items_asked) = (Some(now), 0);
    }

    /// What a member that has missed something has to know.
    pub(super) fn tell_items(&mut self, now: Instant, to: SocketAddr) {
        for packet in self.items.packed(PAYLOAD_BYTES, ITEM_PACKETS, &mut self.random) {
            self.links.send(now, to, Kind::Items, &packet, &mut self.out);
        }
        let is_dead = |member: &&Member<Node>| member.state() == State::Down;
        let dead: Vec<_> = self.members().filter(is_dead).map(|m| m.id().address).collect();
        for packet in self.deaths.packed(now, dead.into_iter(), PAYLOAD_BYTES) {
            self.links.send(now, to, Kind::Deaths, &packet, &mut self.out);
        }
    }

    /// Takes in what others say of the end of those that this agent knows.
    pub(super) fn take_ends(&mut self, now: Instant, packet: &[u8]) -> Result<(), Rejection> {
        let ends = deaths::unpack(packet).map_err(|_| Rejection::Malformed)?;
        for ended in ends {
            let Ended { address, generation, end } = ended;
            if !self.known.contains_key(&address) || !self.deaths.hear(now, ended) {
                continue;
            }
            let is_dead = self.members().any(|member| {
                let node = member.id();
                let is_it = node.address == address && node.generation <= generation;
                is_it && member.state() == State::Down
            });
            if is_dead && end == End::Leave {
                self.events.push(Event::Leaves(address));
            }
            self.events.push(Event::Ended);
        }
        Ok(())
    }

    /// The latest items of an agent.
    #[must_use]
    pub fn items_of(&self, origin: SocketAddr) -> Vec<(Topic, Arc<[u8]>)> {
        self.items.of(origin)
    }

    /// This agent has agreed on a death, or was told of a leave.
    pub fn agree_on_end(&mut self, now: Instant, ended: Ended) {
        self.deaths.agree(now, ended);
    }

    /// Whether this agent or another one has agreed on that death.
    #[must_use]
    pub fn is_agreed_death(&self, address: SocketAddr, generation: u32) -> bool {
        self.deaths.get(address, generation) == Some(End::Death)
    }

    pub(super) fn ask_items(&mut self, now: Instant) {
        let doublings = (self.items_asked + 1).saturating_sub(ASK_OFTEN).min(6);
        self.items_asked = self.items_asked.saturating_add(1);
        self.items_at = Some(now + (ASK_FIRST * 2_u32.pow(doublings)).min(ASK_LATER));
        let count = self.foca.num_members();
        if count > 0 {
            let which = self.random.random_range(0..count);
            if let Some(address) = self.foca.iter_members().nth(which).map(|m| m.id().address) {
                self.links.send(now, address, Kind::AskItems, &[0; 12], &mut self.out);
            }
        }
    }

    fn publish(&mut self, now: Instant, about: About, bytes: Arc<[u8]>) -> Vec<u8> {
        let Node { address: origin, generation, .. } = *self.own();
        self.item_count += 1;
        let version = u64::from(generation) << 32 | u64::from(self.item_count);
        let item = Item { about, origin, version, bytes }.encode();
        self.drive(now, |foca, _| foca.add_broadcast(&item).map(|_| ()));
        // The own item is fresh now; what others said in the same packet may be too.
        self.take_items(now);
        item
    }

    /// In a new life, what was shared before has to have a newer version than what others may know.
    pub(super) fn share_again(&mut self, now: Instant) {
        for (topic, bytes) in self.shared.clone() {
            let _item = self.publish(now, About::Topic(topic), bytes);
        }
    }

    pub(super) fn take_items(&mut self, now: Instant) {
        for Item { about, origin, bytes, .. } in self.items.take_fresh() {
            if origin == self.own().address {
                continue;
            }
            match about {
                About::Topic(topic) => self.events.push(Event::Item(topic, origin, bytes)),
                About::Leaves => self.left(now, origin, &bytes),
            }
        }
    }

    fn left(&mut self, now: Instant, origin: SocketAddr, bytes: &[u8]) {
        let Ok(generation) = <[u8; 4]>::try_from(bytes).map(u32::from_be_bytes) else { return };
        let is_it = |member: &&Member<Node>| {
            member.id().address == origin && member.id().generation == generation
        };
        let Some(node) = self.foca.iter_members().find(is_it).map(|m| m.id().clone()) else {
            return;
        };
        self.events.push(Event::Leaves(origin));
        let down = std::iter::once(Member::down(node));
        self.drive(now, |foca, effects| foca.apply_many(down, false, effects));
    }

    /// Begins anew with what is known of the members: what foca had to say about others is what this agent believed
    /// while it could not reach them, and would look like deaths to those who could.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        let known: Vec<_> = self.members().cloned().collect();
        let own = self.own().clone();
        let random = SmallRng::from_rng(&mut self.random);
        let config = config(known.len());
        self.foca = Foca::with_custom_broadcast(own, config, random, Wire, self.items.clone());
        (self.timers, self.suspicions) = (Timers::default(), Suspicions::default());
        self.incarnation = 0;
        self.drive(now, |foca, effects| foca.apply_many(known.into_iter(), false, effects));
        self.drive(now, |foca, effects| foca.gossip(effects));
        self.ask_at = now;
    }

    /// One member's state, straight to whom it matters most.
    pub(super) fn update(&mut self, now: Instant, to: SocketAddr, member: &Member<Node>) {
        let mut bytes = Vec::new();
        if Wire.encode_member(member, &mut bytes).is_ok() {
            self.links.send(now, to, Kind::Update, &bytes, &mut self.out);
        }
    }

    /// Tells who reports deaths of those that were just found.
    pub(super) fn tell_reporter(&mut self, now: Instant) {
        let Some(reporter) = self.reporter.filter(|address| *address != self.own().address) else {
            return;
        };
        let died = self.events.iter().filter_map(|event| match event {
            Event::Member(Note::Down(node)) if node.address != reporter => Some(node.clone()),
            _ => None,
        });
        for node in died.collect::<Vec<_>>() {
            self.update(now, reporter, &Member::down(node));
        }
    }

    pub(super) fn ask_missing(&mut self, now: Instant) {
        for _ in 0..ASKED.min(self.missing.len()) {
            let address = self.missing[self.random.random_range(0..self.missing.len())];
            let node = Node { address, generation: 0, name: Arc::from("") };
            self.drive(now, |foca, effects| foca.announce(node, effects));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::keys::Keys;

    #[test]
    fn an_own_item_does_not_swallow_those_of_others() {
        let now = Instant::now();
        let own = Node { address: ([10, 0, 0, 1], 1).into(), generation: 1, name: "a".into() };
        let mut membership = Membership::new(now, own, Keys::public(), &[7; 32]);
        let (about, origin) = (About::Topic(Topic::Status), ([10, 0, 0, 2], 1).into());
        let bytes: Arc<[u8]> = Arc::from(*b"io_errors;");
        let of_another = Item { about, origin, version: 1, bytes: bytes.clone() };
        assert!(membership.items.insert(of_another));
        membership.share(now, Topic::Status, Arc::from(*b";io_errors"));
        let events = membership.take_events();
        assert!(
            matches!(&events[..], [Event::Item(Topic::Status, from, said)] if *from == origin && *said == bytes)
        );
    }
}
