//! Small items that every member tells all others: the latest of each kind and origin counts.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use tokio::sync::{broadcast, mpsc, watch};

use super::settings;
use crate::model::Peer;

/// 64 items beyond those of the peers are kept: a peer that is forgotten and found again soon still has its own.
const SPARE_ITEMS: usize = 64;

/// What an item is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The names of the origin's checks that fail, and of those that pass; see [`status`].
    Status,
    /// The origin's own row of the mesh, as [`Prober`](super::Prober) encodes it.
    Reach,
    /// The keys of webhooks that were acknowledged to the origin.
    Delivered,
}

impl Topic {
    /// The number of topics.
    const COUNT: usize = 3;
}

/// An item from a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipItem {
    /// What it is about.
    pub topic: Topic,
    /// The identifier of the peer that said it.
    pub origin: Arc<str>,
    /// What it says, at most [`settings::GOSSIP_BYTES`].
    pub bytes: Arc<[u8]>,
}

/// The latest item of each topic and origin.
pub type Items = BTreeMap<(Topic, Arc<str>), Arc<[u8]>>;

/// Forgets the items of those that are no peers any more, once there are more items than `peers` can have said by far. A
/// peer that was restarted has another identifier where its address is new.
pub(super) fn prune(items: &mut Arc<Items>, peers: &[Peer]) {
    if items.len() > peers.len() * Topic::COUNT + SPARE_ITEMS {
        let ids: HashSet<_> = peers.iter().map(|peer| &peer.identity.id).collect();
        Arc::make_mut(items).retain(|(_, origin), _| ids.contains(origin));
    }
}

/// The handle of the tasks that tell other agents something.
#[derive(Clone, Debug)]
pub struct Gossip {
    pub(super) shared: mpsc::Sender<(Topic, Vec<u8>)>,
    pub(super) received: broadcast::WeakSender<GossipItem>,
    pub(super) latest: watch::Receiver<Arc<Items>>,
    /// This agent's own latest [`Topic::Status`], for whoever asks it directly.
    pub(super) status: watch::Sender<Arc<[u8]>>,
}

/// An item has more than [`settings::GOSSIP_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are more than an item may have")]
pub struct TooLong(pub usize);

impl Gossip {
    /// Tells all members; what was told of this topic before is replaced. Waits while the peers task has other items to
    /// read.
    pub async fn share(&self, topic: Topic, bytes: Vec<u8>) -> Result<(), TooLong> {
        if bytes.len() > settings::GOSSIP_BYTES {
            return Err(TooLong(bytes.len()));
        }
        if topic == Topic::Status {
            self.status.send_replace(Arc::from(&*bytes));
        }
        // Without the peers task there is nobody to tell.
        let _no_peers = self.shared.send((topic, bytes)).await.is_err();
        Ok(())
    }

    /// A receiver of the items of others from now on. One that falls [`settings::GOSSIP_ITEMS`] behind loses the oldest
    /// (`RecvError::Lagged`), and has to begin again with [`Self::latest`]. It ends with the peers task.
    #[must_use]
    pub fn received(&self) -> broadcast::Receiver<GossipItem> {
        let ended = || broadcast::channel(1).1;
        self.received.upgrade().map_or_else(ended, |sender| sender.subscribe())
    }

    /// The latest item of each topic and origin.
    #[must_use]
    pub fn latest(&self) -> Arc<Items> {
        self.latest.borrow().clone()
    }
}

/// What [`Topic::Status`] says.
pub mod status {
    use std::{collections::BTreeSet, sync::Arc};

    use crate::peers::settings::GOSSIP_BYTES;

    /// Stands for the checks that have no room.
    const MORE: &str = "+";

    /// What a peer says of its checks.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Status {
        /// The names of those that fail.
        pub failing: BTreeSet<Arc<str>>,
        /// The names of those that pass; none where they did not all fit.
        pub passing: Option<BTreeSet<Arc<str>>>,
    }

    /// Encodes the names of the checks that fail, and after `;` of those that pass. If there are more than fit, the last
    /// ones are left out.
    #[must_use]
    pub fn encode<'a>(
        failing: impl IntoIterator<Item = &'a str>,
        passing: impl IntoIterator<Item = &'a str>,
    ) -> Vec<u8> {
        let mut text = String::new();
        // Room for `,+;+`.
        let room = GOSSIP_BYTES - 4;
        append(&mut text, failing, room);
        text.push(';');
        append(&mut text, passing, room + 2);
        text.into_bytes()
    }

    fn append<'a>(text: &mut String, names: impl IntoIterator<Item = &'a str>, room: usize) {
        let mut comma = "";
        for name in names {
            let is_full = text.len() + comma.len() + name.len() > room;
            text.push_str(comma);
            text.push_str(if is_full { MORE } else { name });
            if is_full {
                return;
            }
            comma = ",";
        }
    }

    /// Decodes what [`encode`] makes; `None` if it is something else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Status> {
        let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_,+".contains(&c);
        let (failing, passing) = str::from_utf8(bytes).ok()?.split_once(';')?;
        let set = |text: &str| -> Option<BTreeSet<Arc<str>>> {
            let names = text.split(',').filter(|name| !name.is_empty() && *name != MORE);
            text.bytes().all(is_name).then(|| names.map(Arc::from).collect())
        };
        let is_cut_off = passing.split(',').any(|name| name == MORE);
        Some(Status {
            failing: set(failing)?,
            passing: set(passing).map(|names| (!is_cut_off).then_some(names))?,
        })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn names(list: &[&str]) -> BTreeSet<Arc<str>> {
            list.iter().copied().map(Arc::from).collect()
        }

        #[test]
        fn names_of_checks_survive_the_wire() {
            for (failing, passing) in [
                (&[][..], &[][..]),
                (&["io_errors", "io_stall"], &[]),
                (&[], &["node_ready"]),
                (&["io_errors"], &["io_stall", "node_ready"]),
            ] {
                let bytes = encode(failing.iter().copied(), passing.iter().copied());
                let expected = Status { failing: names(failing), passing: Some(names(passing)) };
                assert_eq!(decode(&bytes), Some(expected), "{failing:?} {passing:?}");
            }
        }

        #[test]
        fn what_does_not_fit_is_left_out_and_that_is_said() {
            let many: Vec<_> = (0..100).map(|i| format!("check_{i}")).collect();
            let many = || many.iter().map(String::as_str);
            let failing = encode(many(), many());
            let status = decode(&failing).unwrap();
            assert!(failing.len() <= GOSSIP_BYTES && status.failing.len() > 20);
            assert_eq!(status.passing, None);
            let passing = encode(["a"], many());
            let status = decode(&passing).unwrap();
            assert!(passing.len() <= GOSSIP_BYTES);
            assert_eq!(status, Status { failing: names(&["a"]), passing: None });
            for length in 200..GOSSIP_BYTES {
                let name = "x".repeat(length);
                assert!(encode([&*name], [&*name]).len() <= GOSSIP_BYTES, "{length}");
            }
        }

        #[test]
        fn what_encode_does_not_make_is_nothing() {
            for bytes in [&b""[..], b"a", b"A;", b";a b", b"a;b;c", &[0xff, b';']] {
                assert_eq!(decode(bytes), None, "{bytes:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::Instant;

    use super::*;
    use crate::model::{PeerIdentity, PeerState};

    #[test]
    fn items_of_former_peers_do_not_pile_up() {
        let id = |n: u8| Arc::<str>::from(format!("n@1000{n}"));
        let peer = |n: u8| Peer {
            identity: PeerIdentity {
                id: id(n),
                node: "n".into(),
                address: ([10, 0, 0, n], 25004).into(),
            },
            state: PeerState::Dead,
            since: Instant::now(),
            host: None,
            failing: BTreeSet::new(),
            passing: None,
            probe: None,
            reaches: Vec::new(),
        };
        let of = |ids: std::ops::Range<u8>| -> Arc<Items> {
            Arc::new(ids.map(|n| ((Topic::Reach, id(n)), Arc::from([n]))).collect())
        };
        let peers = [peer(1), peer(2)];
        let mut few = of(0..70);
        prune(&mut few, &peers);
        assert_eq!(few.len(), 70);
        let mut many = of(0..71);
        prune(&mut many, &peers);
        assert_eq!(many, of(1..3));
    }
}
