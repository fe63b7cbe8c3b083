//! Wiring: sockets, channels, named tasks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64},
};

use anyhow::Context;
use hyper::HeaderMap;
use tocsin_runtime::{
    http::{Listener, Server, Settings as HttpSettings},
    kube::ClientSettings,
    metrics::Metrics,
    tasks::{Stop, Tasks},
    tls::Certificate,
};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    apply::Writer,
    args::{Config, ExplainArgs, WebhookCertificate, cluster},
    certificate::Keeper,
    engine::{Engine, Parts, Steady},
    events, explain,
    leader::{Candidate, Leadership},
    metrics::RemediationMetrics,
    watch::{CHANGES, Source},
    webhook::Webhook,
};
use crate::{
    admin::Admin,
    api_server::{ApiServer, Streams, USER_AGENT},
    listen::listen,
};

/// Runs the remediation until a signal or a dead task ends it.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut tasks = Tasks::new().context("listen for signals")?;
    let Config { cluster, settings, namespace, identity, leader_election, webhook, admin } = config;
    let (admin_listener, admin_addr) = listen("admin listener", admin)?;
    let client = cluster.connect(&ClientSettings::new(USER_AGENT), &Arc::default()).await?.client;
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());

    // Kept until the end: a receiver without its sender is an error.
    let (alone, _) = watch::channel(true);
    let (candidate, leadership, leads) = if leader_election {
        let (candidate, leadership, leads) = Candidate::new(client.clone(), &namespace, identity);
        (Some(candidate), leadership, leads)
    } else {
        (None, Leadership::alone(), alone.subscribe())
    };
    let (events, event_writer) = events::queue();
    let (changes, receiver) = mpsc::channel(CHANGES);
    let (server, streams) = (Arc::new(ApiServer::new(cluster)), Streams::new());
    let losses = streams.losses();
    let metrics = RemediationMetrics::new(leadership.clone(), events.dropped.clone(), losses);

    tasks.spawn_background("events", event_writer.run(client.clone(), leadership.clone()));
    let is_openshift = Arc::<AtomicBool>::default();
    let mut webhook_addr = None;
    if let Some((addr, certificate)) = webhook {
        let (listener, addr) = listen("the webhook's listener", addr)?;
        let webhook = Webhook {
            client: client.clone(),
            is_openshift: is_openshift.clone(),
            metrics: metrics.clone(),
        };
        let keeper = |name| Keeper::new(client.clone(), &namespace, name);
        let serve = match certificate {
            WebhookCertificate::Files(files) => {
                let (certificate, reload) = files.load(Arc::<AtomicU64>::default())?;
                tasks.spawn_background("certificate", reload.run());
                Serve { webhook, certificate: Some(certificate), keeper: None }
            }
            WebhookCertificate::Own(name) => {
                Serve { webhook, certificate: None, keeper: Some(keeper(name)) }
            }
        };
        tasks.spawn_graceful("webhook", serve.run(listener, tasks.stop()));
        webhook_addr = Some(addr.to_string());
    } else {
        warn!("no webhook: neither WEBHOOK_CERT nor WEBHOOK_CONFIGURATION is set");
    }
    let engine = Engine::new(Parts {
        clock: Steady::default(),
        settings: settings.clone(),
        writer: Writer { client, lease_namespace: settings.lease_namespace },
        events,
        metrics: metrics.clone(),
        leadership,
        leads,
        is_openshift,
        source: Source { server, streams, changes },
        changes: receiver,
    });
    tasks.spawn_graceful("engine", lead(engine, candidate, tasks.stop()));
    let admin = admin_handler(&metrics);
    tasks.spawn_graceful("admin", admin.server().run(admin_listener, tasks.stop()));
    info!(admin = %admin_addr, webhook = webhook_addr, "listening");
    let ended = tasks.run().await;
    drop(alone);
    ended
}

/// Runs the engine beside the election; when the writes have ended, the lease is given up.
async fn lead(engine: Engine, candidate: Option<Candidate>, stop: Stop) -> anyhow::Result<()> {
    let Some(mut candidate) = candidate else { return engine.run(stop).await };
    let ended = tokio::select! {
        ended = engine.run(stop) => ended,
        () = candidate.run() => Ok(()),
    };
    candidate.release().await;
    ended
}

/// The webhook, from its first certificate on.
struct Serve {
    webhook: Webhook,
    certificate: Option<Certificate>,
    keeper: Option<Keeper>,
}

impl Serve {
    async fn run(self, listener: Listener, stop: Stop) -> anyhow::Result<()> {
        let Self { webhook, certificate, keeper } = self;
        let certificate = match (certificate, &keeper) {
            (Some(certificate), _) => certificate,
            (None, Some(keeper)) => tokio::select! {
                certificate = keeper.first() => certificate,
                () = stop.requested() => return Ok(()),
            },
            (None, None) => return Ok(()),
        };
        let acceptor = certificate.acceptor(&[b"http/1.1"])?;
        let server = Server::new(HttpSettings::new("webhook"), move |request, _| {
            let webhook = webhook.clone();
            async move { webhook.handle(request).await }
        });
        info!("the webhook answers");
        let serve = server.with_tls(acceptor).run(listener, stop);
        match keeper {
            None => serve.await,
            Some(keeper) => tokio::select! {
                () = serve => {}
                () = keeper.run(certificate) => {}
            },
        }
        Ok(())
    }
}

fn admin_handler(metrics: &RemediationMetrics) -> Admin {
    let (scraped, ready) = (metrics.clone(), metrics.clone());
    let registry = Metrics::new(metrics.clone());
    let scrape = move |headers: &HeaderMap| {
        registry.reply_with(headers, |text, open| scraped.add_to(text, open))
    };
    Admin::with_scrape(scrape, move || {
        if ready.is_synced() { Ok(()) } else { Err("the first lists are being read".to_owned()) }
    })
}

/// Runs `explain`, and gives its text.
pub async fn explain_node(args: ExplainArgs) -> anyhow::Result<String> {
    let source = cluster(&args.common)?;
    let client = source.connect(&ClientSettings::new(USER_AGENT), &Arc::default()).await?.client;
    explain::explain(&client, &args.policy.settings(), &args.node).await
}
