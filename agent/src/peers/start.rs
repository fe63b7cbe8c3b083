//! Starts everything of the peers: their task, and the tasks around it.

use std::{future, sync::Arc};

use anyhow::Context;
use tocsin_runtime::{
    http::{BACKLOG, Listener, bind},
    tasks::Tasks,
};
use tracing::{info, warn};

use super::{
    channels::{Channels, Published, SanityQuestions, channels, not_configured},
    discovery::{Discovery, discovery},
    http_client::HttpClient,
    listener, probes,
    settings::Settings,
    task::PeersTask,
    url::Url,
    webhooks::{WebhookStats, webhooks},
};
use crate::{cluster::Beside, host::Bounded};

/// What the rest of the agent has of the peers.
#[derive(Debug)]
pub struct Peers {
    /// What the peers task publishes.
    pub published: Published,
    /// Counters of the webhooks.
    pub webhooks: Arc<WebhookStats>,
    /// What has to run beside the session with the API server.
    pub beside: Option<Beside>,
}

impl Peers {
    /// Nobody.
    #[must_use]
    pub fn not_configured() -> Self {
        Self { published: not_configured(), webhooks: Arc::default(), beside: None }
    }

    /// Takes the port and starts the tasks.
    ///
    /// Fails where the port is taken or not this host's, or the keys cannot be read.
    pub fn start(settings: &Settings, tasks: &mut Tasks) -> anyhow::Result<Self> {
        let Channels { task, published, discovered, prober, sanity } = channels();
        let address = settings.own.address;
        let socket = bind(address)
            .and_then(|socket| socket.listen(BACKLOG))
            .with_context(|| format!("POD_IP and PEERS_PORT: TCP on {address}"))?;
        let (bounded, stats) = (Bounded::default(), Arc::<WebhookStats>::default());
        let client = HttpClient::new(bounded.clone());
        // Before the peers task, whose changes they must not miss.
        let (peer, cluster) = webhooks(&settings.webhooks, &published, &client, &bounded, &stats);
        let peers = PeersTask::start(settings, task)?;
        tasks.spawn_graceful("peers", peers.run(tasks.stop()));
        tasks.spawn_graceful(
            "peers listener",
            listener::server().run(Listener::Tcp(socket), tasks.stop()),
        );
        if let Some(peer) = peer {
            tasks.spawn_background("peer webhooks", for_ever(peer.run()));
        }
        if let Some(cluster) = cluster {
            tasks.spawn_background("cluster webhooks", cluster.run());
        }
        let probes = probes::run(prober, published.view.clone(), published.gossip.clone());
        tasks.spawn_background("peer probes", for_ever(probes));
        let beside = match discovery(settings.join.clone(), &settings.own, &bounded, discovered) {
            Discovery::Task(task) => {
                tasks.spawn_background("peer discovery", task);
                None
            }
            Discovery::Cluster(beside) => Some(beside),
        };
        if let Some(url) = settings.sanity_check_url.clone() {
            tasks.spawn_background("sanity check", for_ever(check_sanity(url, client, sanity)));
        }
        Ok(Self { published, webhooks: stats, beside })
    }
}

/// A task that follows the peers task ends with it, at a stop. That is no failure.
async fn for_ever(task: impl Future<Output = ()>) {
    task.await;
    future::pending::<()>().await;
}

/// Asks `SANITY_CHECK_URL` whenever the peers task wants to know whether this agent reaches anything.
async fn check_sanity(url: Url, client: HttpClient, mut questions: SanityQuestions) {
    let mut was_reached = true;
    while let Some(answer) = questions.recv().await {
        let result = client.get(&url).await;
        match &result {
            Err(why) if was_reached => {
                warn!(%url, %why, "SANITY_CHECK_URL does not answer 2xx: no peer is blamed");
            }
            Ok(()) if !was_reached => info!(%url, "SANITY_CHECK_URL answers 2xx again"),
            _ => {}
        }
        was_reached = result.is_ok();
        // The question may have been given up meanwhile.
        let _given_up = answer.send(was_reached).is_err();
    }
}
