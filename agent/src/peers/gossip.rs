//! Small items that every member tells all others: the latest of each kind and origin counts.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::{broadcast, mpsc, watch};

use super::settings;

/// What an item is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The names of the origin's default checks that fail, with commas between them; see [`status`].
    Status,
    /// The origin's own row of the mesh, as [`Prober`](super::Prober) encodes it.
    Reach,
    /// The keys of webhooks that were acknowledged to the origin.
    Delivered,
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

/// The handle of the tasks that tell other agents something.
#[derive(Clone, Debug)]
pub struct Gossip {
    pub(super) shared: mpsc::Sender<(Topic, Vec<u8>)>,
    pub(super) received: broadcast::WeakSender<GossipItem>,
    pub(super) latest: watch::Receiver<Arc<Items>>,
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

    /// Encodes the names of the checks that fail. If there are more than fit, the last ones are left out.
    #[must_use]
    pub fn encode<'a>(failing: impl IntoIterator<Item = &'a str>) -> Vec<u8> {
        let mut text = String::new();
        for name in failing {
            if text.len() + name.len() + MORE.len() + 2 > GOSSIP_BYTES {
                text.push(',');
                text.push_str(MORE);
                break;
            }
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
        }
        text.into_bytes()
    }

    /// Decodes the names of the checks that fail; `None` if they are not what [`encode`] makes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<BTreeSet<Arc<str>>> {
        let is_name = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-_,+".contains(&c);
        let text = str::from_utf8(bytes).ok().filter(|text| text.bytes().all(is_name))?;
        let names = text.split(',').filter(|name| !name.is_empty() && *name != MORE);
        Some(names.map(Arc::from).collect())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn names_of_checks_survive_the_wire() {
            let round = |names: &[&str]| decode(&encode(names.iter().copied())).unwrap();
            assert!(round(&[]).is_empty());
            let names: Vec<_> = round(&["io_errors", "io_stall"]).into_iter().collect();
            assert_eq!(names, ["io_errors".into(), "io_stall".into()]);
            let many: Vec<_> = (0..100).map(|i| format!("check_{i}")).collect();
            let bytes = encode(many.iter().map(String::as_str));
            assert!(bytes.len() <= GOSSIP_BYTES && decode(&bytes).unwrap().len() > 20);
            assert_eq!(decode(b"A"), None);
            assert_eq!(decode(&[0xff]), None);
        }
    }
}
