//! The latest item of gossip of each topic and origin.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, BufMut};
use foca::{BroadcastHandler, Invalidates};
use rand::{RngExt, rngs::SmallRng};

use super::{
    gossip::Topic,
    links::LINKS,
    member::{Malformed, Node, get_address, put_address},
    settings::GOSSIP_BYTES,
};

/// What an item is about; beside the topics of others, whether its origin leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A topic of the tasks that use the gossip.
    Topic(Topic),
    /// The origin leaves in order; the bytes are its generation.
    Leaves,
}

impl About {
    const ALL: [Self; 4] = [
        Self::Topic(Topic::Status),
        Self::Topic(Topic::Reach),
        Self::Topic(Topic::Delivered),
        Self::Leaves,
    ];

    fn number(self) -> u8 {
        match self {
            Self::Topic(Topic::Status) => 1,
            Self::Topic(Topic::Reach) => 2,
            Self::Topic(Topic::Delivered) => 3,
            Self::Leaves => 4,
        }
    }
}

/// An item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is about.
    pub about: About,
    /// The agent that said it.
    pub origin: SocketAddr,
    /// Greater in each later item of the same topic and origin.
    pub version: u64,
    /// What it says.
    pub bytes: Arc<[u8]>,
}

impl Item {
    /// Its form on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32 + self.bytes.len());
        bytes.put_u8(self.about.number());
        put_address(&mut bytes, self.origin);
        bytes.put_u64(self.version);
        bytes.extend(&*self.bytes);
        bytes
    }

    /// Whether it says that a check fails; see [`status`](super::gossip::status).
    fn says_failing(&self) -> bool {
        self.about == About::Topic(Topic::Status) && self.bytes.first().is_some_and(|c| *c != b';')
    }

    /// Reads what [`Self::encode`] writes.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let number = bytes.try_get_u8().map_err(|_| Malformed)?;
        let about = About::ALL.into_iter().find(|about| about.number() == number);
        let about = about.ok_or(Malformed)?;
        let origin = get_address(&mut bytes)?;
        let version = bytes.try_get_u64().map_err(|_| Malformed)?;
        if bytes.len() > GOSSIP_BYTES {
            return Err(Malformed);
        }
        Ok(Self { about, origin, version, bytes: bytes.into() })
    }
}

/// Which item replaces which in foca's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(About, SocketAddr);

impl Invalidates for Key {
    fn invalidates(&self, other: &Self) -> bool {
        self == other
    }
}

/// The items, shared between foca, which hands over what comes in, and the membership, which reads it. It is locked for
/// single look-ups.
#[derive(Clone, Debug, Default)]
pub struct Items(Arc<Mutex<State>>);

/// What an item says, and in which version.
type Versioned = (u64, Arc<[u8]>);

#[derive(Debug, Default)]
struct State {
    latest: BTreeMap<(About, SocketAddr), Versioned>,
    fresh: Vec<Item>,
}

impl Items {
    /// Takes an item; whether it is news.
    #[must_use]
    pub fn insert(&self, item: Item) -> bool {
        let mut state = self.lock();
        let State { latest, fresh } = &mut *state;
        let key = (item.about, item.origin);
        let is_full = latest.len() >= LINKS * About::ALL.len();
        match latest.get(&key) {
            Some((version, _)) if *version >= item.version => return false,
            None if is_full => return false,
            _ => {}
        }
        latest.insert(key, (item.version, item.bytes.clone()));
        fresh.push(item);
        true
    }

    /// The items that are new since the last call.
    #[must_use]
    pub fn take_fresh(&self) -> Vec<Item> {
        std::mem::take(&mut self.lock().fresh)
    }

    /// The items, in as many packets of `room` bytes as `most`. Those that say that checks fail come first: a storm is
    /// many of them. The rest, and these among themselves, come in any order, so that who asks again gets others.
    #[must_use]
    pub fn packed(&self, room: usize, most: usize, random: &mut SmallRng) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = (self.lock().latest.iter())
            .map(|(&(about, origin), (version, bytes))| {
                let (version, bytes) = (*version, bytes.clone());
                Item { about, origin, version, bytes }
            })
            .collect();
        all.sort_by_cached_key(|item| (!item.says_failing(), random.random::<u32>()));
        let mut packets = vec![Vec::new()];
        for item in all {
            let bytes = item.encode();
            if packets.last().is_none_or(|packet| packet.len() + bytes.len() + 2 > room) {
                if packets.len() == most {
                    break;
                }
                packets.push(Vec::new());
            }
            if let Some(packet) = packets.last_mut() {
                packet.extend(frame(&bytes));
            }
        }
        packets.retain(|packet| !packet.is_empty());
        packets
    }

    /// Takes the items of a packet of [`Self::packed`].
    pub fn unpack(&self, mut packet: &[u8]) -> Result<(), Malformed> {
        while !packet.is_empty() {
            let length = usize::from(packet.try_get_u16().map_err(|_| Malformed)?);
            let item = packet.get(..length).ok_or(Malformed)?;
            packet.advance(length);
            let _is_news = self.insert(Item::decode(item)?);
        }
        Ok(())
    }

    /// The latest items of an agent.
    #[must_use]
    pub fn of(&self, origin: SocketAddr) -> Vec<(Topic, Arc<[u8]>)> {
        let state = self.lock();
        let latest = |about: &About| match about {
            About::Topic(topic) => {
                state.latest.get(&(*about, origin)).map(|(_, bytes)| (*topic, bytes.clone()))
            }
            About::Leaves => None,
        };
        About::ALL.iter().filter_map(latest).collect()
    }

    /// Forgets the items of an agent.
    pub fn forget(&self, origin: SocketAddr) {
        self.lock().latest.retain(|(_, of), _| *of != origin);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BroadcastHandler<Node> for Items {
    type Key = Key;
    type Error = Malformed;

    fn receive_item(&mut self, data: &[u8], _: Option<&Node>) -> Result<Option<Key>, Malformed> {
        let item = Item::decode(data)?;
        let key = Key(item.about, item.origin);
        Ok(self.insert(item).then_some(key))
    }
}

/// An encoded item as it stands in a packet: its length in two bytes, then itself.
#[must_use]
pub fn frame(item: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + item.len());
    bytes.put_u16(u16::try_from(item.len()).unwrap_or_default());
    bytes.extend(item);
    bytes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn item(origin: &str, version: u64, bytes: &[u8]) -> Item {
        let about = About::Topic(Topic::Status);
        Item { about, origin: origin.parse().unwrap(), version, bytes: bytes.into() }
    }

    #[test]
    fn the_latest_of_each_origin_counts() {
        let items = Items::default();
        assert!(items.insert(item("10.0.0.1:1", 2, b"two")));
        assert!(!items.insert(item("10.0.0.1:1", 2, b"again")));
        assert!(!items.insert(item("10.0.0.1:1", 1, b"one")));
        assert!(items.insert(item("10.0.0.2:1", 1, b"")));
        let fresh: Vec<_> = items.take_fresh().iter().map(|item| item.version).collect();
        assert_eq!(fresh, [2, 1]);
        assert!(items.take_fresh().is_empty());
    }

    #[test]
    fn items_fit_into_packets_and_failing_checks_come_first() {
        let items = Items::default();
        let mut random = SmallRng::seed_from_u64(1);
        // Twelve fit into a packet. The failing ones are old, and more than two packets hold.
        for n in 1..=200 {
            let bytes = if n <= 30 { [b'x'; 100] } else { [b';'; 100] };
            let _news = items.insert(item(&format!("10.0.0.{n}:1"), n, &bytes));
        }
        let mut known = std::collections::BTreeSet::new();
        for _ in 0..10 {
            let other = Items::default();
            let packets = items.packed(1362, 3, &mut random);
            assert!(packets.len() == 3 && packets.iter().all(|packet| packet.len() <= 1362));
            for packet in &packets {
                other.unpack(packet).unwrap();
            }
            let found: Vec<_> = other.take_fresh().iter().map(|item| item.version).collect();
            assert!((1..=30).all(|n| found.contains(&n)), "{found:?}");
            known.extend(found);
        }
        // Six others at a time, and not always the same ones.
        assert!(known.len() > 30 + 6 * 4, "{}", known.len());
        let packets = items.packed(1362, 1, &mut random);
        assert_eq!(items.unpack(&packets[0][..5]), Err(Malformed));
        assert_eq!(Item::decode(&item("[::1]:1", 1, &[0; 257]).encode()), Err(Malformed));
        let origin = "10.0.0.7:1".parse().unwrap();
        assert_eq!(items.of(origin), [(Topic::Status, Arc::from([b'x'; 100]))]);
        items.forget(origin);
        assert!(items.of(origin).is_empty());
    }
}
