//! What an agent tells the members by itself: items of gossip, one member's state, that it is here, and that it leaves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use foca::{Codec, Foca, Member};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{Event, Membership};
use crate::peers::{
    gossip::Topic,
    items::{self, About, Item},
    member::{Node, Wire},
    packet::Kind,
    suspicions::Suspicions,
    swim::{Note, config},
    timers::Timers,
};

/// 1 minute between questions for the items of gossip, in case one was missed.
const ITEMS_PERIOD: Duration = Duration::from_mins(1);

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

    pub(super) fn ask_items(&mut self, now: Instant) {
        self.items_at = Some(now + ITEMS_PERIOD);
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
