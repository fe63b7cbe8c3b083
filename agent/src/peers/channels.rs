//! The channels between the peers task and the rest of the agent. They are made before any task, so that tasks can be
//! started in any order.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    gossip::{Gossip, GossipItem, Items, Topic},
    probes::confirm::Answers,
    settings,
    stats::PeerStats,
};
use crate::model::{PeerChange, PeerProbe, PeerView};

/// The ends of all channels.
#[derive(Debug)]
pub struct Channels {
    /// For the peers task.
    pub task: TaskChannels,
    /// For the tasks that read what the peers task publishes.
    pub published: Published,
    /// For discovery, which alone writes it.
    pub discovered: watch::Sender<Discovered>,
    /// For the prober of the mesh.
    pub prober: Prober,
    /// For the task that asks `SANITY_CHECK_URL`.
    pub sanity: SanityQuestions,
}

/// What the peers task publishes.
#[derive(Clone, Debug)]
pub struct Published {
    /// The peers, as this agent sees them.
    pub view: watch::Receiver<Arc<PeerView>>,
    /// Tells the other agents something, and receives what they tell.
    pub gossip: Gossip,
    /// Asks the other agents themselves.
    pub questions: PeerQuestions,
    /// Counters.
    pub stats: Arc<PeerStats>,
    changes: broadcast::WeakSender<PeerChange>,
}

impl Published {
    /// A receiver of the deaths and recoveries from now on, as the majority side of this agent agreed on them. Every
    /// member of that side has the same ones with the same keys. A receiver that falls [`settings::CHANGES`] behind
    /// loses the oldest and gets their number (`RecvError::Lagged`). It ends with the peers task.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<PeerChange> {
        let ended = || broadcast::channel(1).1;
        self.changes.upgrade().map_or_else(ended, |sender| sender.subscribe())
    }
}

/// Asks other agents directly what their checks say: what they tell by gossip, others could forge.
#[derive(Clone, Debug)]
pub struct PeerQuestions {
    /// The identifiers of those to ask. Use `try_send`: what finds no room is asked again later.
    pub ask: mpsc::Sender<Vec<Arc<str>>>,
    /// What they answered lately.
    pub answers: watch::Receiver<Arc<Answers>>,
}

/// What discovery knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered {
    /// The agents, this one too where discovery names it; those that are not ready included.
    pub peers: BTreeSet<DiscoveredPeer>,
    /// Whether `peers` is complete: only then a dead peer that is not in it is forgotten. A DNS server that fails, or a
    /// watch that is not yet filled, forgets nobody.
    pub is_complete: bool,
    /// What keeps discovery from working, in one line; it becomes part of [`PeerView::degraded`].
    pub degraded: Option<String>,
}

/// An agent that discovery knows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiscoveredPeer {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name of its node, where discovery knows it.
    pub node: Option<Arc<str>>,
}

/// The prober's ends. What is in its packets is the prober's own; the peers task signs, checks and carries them.
#[derive(Debug)]
pub struct Prober {
    /// Packets to send. Use `try_send`: a probe that waits measures the wait.
    pub send: mpsc::Sender<ProbePacket>,
    /// Packets of others, to their probers or in answer to this one.
    pub received: mpsc::Receiver<ProbePacket>,
    /// The latest results, by identifier; they become [`Peer::probe`](crate::model::Peer::probe).
    pub results: watch::Sender<ProbeResults>,
    /// The identifiers of the peers to ask directly.
    pub asked: mpsc::Receiver<Vec<Arc<str>>>,
    /// What they answered.
    pub answers: watch::Sender<Arc<Answers>>,
    /// What this agent answers.
    pub status: watch::Receiver<Arc<[u8]>>,
}

/// The latest results of direct probes, by identifier of the peer.
pub type ProbeResults = Arc<BTreeMap<Arc<str>, PeerProbe>>;

/// A packet of a prober.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePacket {
    /// The identifier of the other side: whom it is for, or whom it is from.
    pub peer: Arc<str>,
    /// When it was read from the socket; for one to send, when it was made.
    pub at: Instant,
    /// What it says, at most [`settings::PROBE_BYTES`].
    pub bytes: Vec<u8>,
}

/// Asks whether `SANITY_CHECK_URL` answers 2xx; the receiver asks the URL and answers.
pub type SanityQuestion = oneshot::Sender<bool>;

/// The questions for `SANITY_CHECK_URL`, one at a time. None comes where it is not set.
pub type SanityQuestions = mpsc::Receiver<SanityQuestion>;

/// The peers task's own ends.
#[derive(Debug)]
pub struct TaskChannels {
    pub(super) view: watch::Sender<Arc<PeerView>>,
    pub(super) changes: broadcast::Sender<PeerChange>,
    pub(super) discovered: watch::Receiver<Discovered>,
    pub(super) shared: mpsc::Receiver<(Topic, Vec<u8>)>,
    pub(super) gossip: broadcast::Sender<GossipItem>,
    pub(super) latest: watch::Sender<Arc<Items>>,
    pub(super) probes: mpsc::Receiver<ProbePacket>,
    pub(super) probes_received: mpsc::Sender<ProbePacket>,
    pub(super) probe_results: watch::Receiver<ProbeResults>,
    pub(super) sanity: mpsc::Sender<SanityQuestion>,
    pub(super) stats: Arc<PeerStats>,
}

/// Makes the channels.
#[must_use]
pub fn channels() -> Channels {
    let (view, view_seen) =
        watch::channel(Arc::new(PeerView { is_configured: true, ..PeerView::default() }));
    let (changes, _none_yet) = broadcast::channel(settings::CHANGES);
    let (discovered, discovered_seen) = watch::channel(Discovered::default());
    let (share, shared) = mpsc::channel(settings::SHARED);
    let (gossip, _none_yet) = broadcast::channel(settings::GOSSIP_ITEMS);
    let (latest, latest_seen) = watch::channel(Arc::<Items>::default());
    let (send, probes) = mpsc::channel(settings::PROBE_PACKETS);
    let (probes_received, received) = mpsc::channel(settings::PROBE_PACKETS);
    let (results, probe_results) = watch::channel(ProbeResults::default());
    let (questions, asked) = mpsc::channel(settings::PEER_QUESTIONS);
    let (answers, answered) = watch::channel(Arc::<Answers>::default());
    let (own_status, status_seen) = watch::channel(Arc::from([]));
    let (ask, sanity) = mpsc::channel(settings::SANITY_QUESTIONS);
    let stats = Arc::<PeerStats>::default();
    Channels {
        published: Published {
            view: view_seen,
            gossip: Gossip {
                shared: share,
                received: gossip.downgrade(),
                latest: latest_seen,
                status: own_status,
            },
            questions: PeerQuestions { ask: questions, answers: answered },
            stats: stats.clone(),
            changes: changes.downgrade(),
        },
        task: TaskChannels {
            view,
            changes,
            discovered: discovered_seen,
            shared,
            gossip,
            latest,
            probes,
            probes_received,
            probe_results,
            sanity: ask,
            stats,
        },
        discovered,
        prober: Prober { send, received, results, asked, answers, status: status_seen },
        sanity,
    }
}

/// What an agent without peers publishes: nobody, for ever.
#[must_use]
pub fn not_configured() -> Published {
    Published {
        view: watch::channel(Arc::default()).1,
        gossip: Gossip {
            shared: mpsc::channel(1).0,
            received: broadcast::channel(1).0.downgrade(),
            latest: watch::channel(Arc::default()).1,
            status: watch::channel(Arc::from([])).0,
        },
        questions: PeerQuestions {
            ask: mpsc::channel(1).0,
            answers: watch::channel(Arc::default()).1,
        },
        stats: Arc::default(),
        changes: broadcast::channel(1).0.downgrade(),
    }
}
