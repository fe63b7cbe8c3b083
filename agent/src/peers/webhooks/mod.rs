//! Webhooks: `PEER_STATUS_URL` for each death (and recovery), `CLUSTER_STATUS_URL` for all peers at intervals.
//!
//! [`queue`] decides what is sent when, and by which member; [`body`] and [`sender`] say how. A status of the cluster is
//! not queued: the next one replaces it.

mod body;
mod queue;
mod receipts;
mod sender;
mod stats;
#[cfg(test)]
pub(super) mod tests;

use std::{
    future,
    hash::{BuildHasher, Hasher, RandomState},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{broadcast, broadcast::error::RecvError, watch},
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tracing::{debug, error, info, warn};

pub use self::stats::{WebhookKind, WebhookStats};
use self::{
    queue::{Attempt, GivenUp, Queue, Retry, Step},
    receipts::Share,
    sender::Sender,
};
use super::{
    channels::Published,
    gossip::{Gossip, GossipItem, Topic},
    http_client::HttpClient,
    settings::WebhookSettings,
    url::Url,
};
use crate::{
    host::Bounded,
    model::{PeerChange, PeerIdentity, PeerRole, PeerView},
};

/// 2 seconds between looks at a queue that is not empty, for what only time changes.
const TICK: Duration = Duration::from_secs(2);

/// Sends deaths and recoveries, as long as the peers task runs.
#[derive(Debug)]
pub struct PeerWebhooks {
    sender: Sender,
    retry: Retry,
    recovery: bool,
    view: watch::Receiver<Arc<PeerView>>,
    changes: broadcast::Receiver<PeerChange>,
    gossip: Gossip,
    received: broadcast::Receiver<GossipItem>,
    stats: Arc<WebhookStats>,
}

/// Sends the state of the cluster at intervals.
#[derive(Debug)]
pub struct ClusterWebhooks {
    sender: Sender,
    interval: Duration,
    view: watch::Receiver<Arc<PeerView>>,
    stats: Arc<WebhookStats>,
}

/// The webhooks that are configured. Made before the peers task starts, so that no change is missed.
#[must_use]
pub fn webhooks(
    settings: &WebhookSettings,
    peers: &Published,
    client: &HttpClient,
    bounded: &Bounded,
    stats: &Arc<WebhookStats>,
) -> (Option<PeerWebhooks>, Option<ClusterWebhooks>) {
    let sender = |url: &Url| Sender {
        client: client.clone(),
        url: url.clone(),
        key_file: settings.key_file.clone(),
        bounded: bounded.clone(),
    };
    let peer = settings.peer_status_url.as_ref().map(|url| PeerWebhooks {
        sender: sender(url),
        retry: Retry { connect: settings.connect, send: settings.send },
        recovery: settings.recovery,
        view: peers.view.clone(),
        changes: peers.changes(),
        gossip: peers.gossip.clone(),
        received: peers.gossip.received(),
        stats: stats.clone(),
    });
    let cluster = settings.cluster_status_url.as_ref().map(|url| ClusterWebhooks {
        sender: sender(url),
        interval: settings.cluster_status_interval,
        view: peers.view.clone(),
        stats: stats.clone(),
    });
    (peer, cluster)
}

type InFlight = Pin<Box<dyn Future<Output = Attempt> + Send>>;

impl PeerWebhooks {
    /// Runs until the peers task ends.
    pub async fn run(mut self) {
        let now = Instant::now();
        let mut queue = Queue::new(self.retry, self.recovery, session(), now);
        queue.on_view(&self.view.borrow_and_update().clone(), now);
        self.read_latest(&mut queue);
        let (mut in_flight, mut shared, mut logged) = (None::<InFlight>, None, GivenUp::default());
        loop {
            let now = Instant::now();
            let wait = match queue.step(now) {
                Step::Send(change) => {
                    in_flight = Some(self.attempt(change));
                    None
                }
                Step::Wait(until) => until,
            };
            let GivenUp { full, expired } = queue.given_up();
            self.stats.set_queue(queue.len(), full, expired);
            if queue.given_up() != logged {
                logged = queue.given_up();
                error!(full, expired, "webhooks about peers were given up");
            }
            self.share(queue.share(now), &mut shared).await;
            let tick = queue.is_changing(now).then(|| now + TICK);
            let wake = [wait, tick].into_iter().flatten().min();
            let sleep = async {
                match wake {
                    Some(at) => sleep_until(at).await,
                    None => future::pending().await,
                }
            };
            let sent = async {
                match &mut in_flight {
                    Some(attempt) => attempt.await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                attempt = sent => {
                    in_flight = None;
                    queue.on_result(attempt, Instant::now());
                }
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                change = self.changes.recv() => match change {
                    Ok(change) => queue.on_change(change, Instant::now()),
                    Err(RecvError::Lagged(missed)) => queue.on_missed(missed),
                    Err(RecvError::Closed) => return,
                },
                item = self.received.recv() => match item {
                    Ok(item) => on_item(&mut queue, &item),
                    Err(RecvError::Lagged(_)) => self.read_latest(&mut queue),
                    Err(RecvError::Closed) => return,
                },
                () = sleep => {}
            }
            queue.on_view(&self.view.borrow_and_update().clone(), Instant::now());
        }
    }

    /// Takes in what all members said last.
    fn read_latest(&self, queue: &mut Queue) {
        for ((topic, origin), bytes) in self.gossip.latest().iter() {
            if *topic == Topic::Delivered {
                queue.on_share(origin, bytes, Instant::now());
            }
        }
    }

    /// Tells the others, if there is something new.
    async fn share(&self, share: Share, last: &mut Option<Share>) {
        if last.as_ref() == Some(&share) {
            return;
        }
        if let Err(too_long) = self.gossip.share(Topic::Delivered, share.encode()).await {
            error!(%too_long, "receipts of webhooks cannot be told to other agents");
        }
        *last = Some(share);
    }

    /// One attempt to send a change.
    fn attempt(&self, change: PeerChange) -> InFlight {
        let (sender, stats) = (self.sender.clone(), self.stats.clone());
        let coordinator = coordinator(&self.view.borrow());
        Box::pin(async move {
            let Some(coordinator) = coordinator else { return Attempt::NotAccepted };
            let body = body::peer_status(&change, &coordinator);
            let result = sender.post(body, Some(&change.key)).await;
            let PeerIdentity { id: peer, node, .. } = &change.peer;
            let is_same = stats.count(
                WebhookKind::Peer,
                result.as_ref().err().map(|why| format!("PEER_STATUS_URL {sender}: {why}")),
            );
            match result {
                Ok(()) => {
                    info!(url = %sender, %peer, %node, alive = change.alive, "the webhook was accepted");
                    Attempt::Accepted
                }
                Err(why) => {
                    let alive = change.alive;
                    if is_same {
                        debug!(url = %sender, %peer, alive, %why, "the webhook was not accepted");
                    } else {
                        warn!(url = %sender, %peer, alive, %why, "the webhook was not accepted: it is sent again later");
                    }
                    why.attempt()
                }
            }
        })
    }
}

/// A random number for this run: the keys of the standard library's hasher are random.
fn session() -> u32 {
    let random = RandomState::new().build_hasher().finish() >> 32;
    u32::try_from(random).unwrap_or_default()
}

fn on_item(queue: &mut Queue, item: &GossipItem) {
    if item.topic == Topic::Delivered {
        queue.on_share(&item.origin, &item.bytes, Instant::now());
    }
}

/// Who coordinates, where this agent is part of a majority.
fn coordinator(view: &PeerView) -> Option<PeerIdentity> {
    match &view.role {
        PeerRole::Coordinator => view.own.clone(),
        PeerRole::Follower { coordinator } => {
            let all = view.peers.iter().map(|peer| &peer.identity);
            all.into_iter().find(|identity| identity.id == *coordinator).cloned()
        }
        PeerRole::Undecided | PeerRole::Isolated => None,
    }
}

impl ClusterWebhooks {
    /// Runs for ever.
    pub async fn run(self) {
        let Self { sender, interval, view, stats } = self;
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let view = view.borrow().clone();
            let Some(own) = view.own.as_ref().filter(|_| view.role == PeerRole::Coordinator) else {
                continue;
            };
            let body = body::cluster_status(&view, own, Instant::now());
            let result = sender.post(body, None).await;
            let failure =
                result.as_ref().err().map(|why| format!("CLUSTER_STATUS_URL {sender}: {why}"));
            let is_same = stats.count(WebhookKind::Cluster, failure);
            match result {
                Err(why) if !is_same => {
                    warn!(url = %sender, %why, "the status of the cluster was not accepted");
                }
                Ok(()) if !is_same => {
                    info!(url = %sender, "the status of the cluster is accepted again");
                }
                _ => {}
            }
        }
    }
}
