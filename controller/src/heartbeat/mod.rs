//! The deployment heartbeat: is this deployment up, for a status page outside the cluster.
//!
//! [`reflectors`] keep the cluster's workloads and pods in the [`store`]; [`verdict`] judges a workload; [`handler`]
//! answers from memory. No request becomes a request to the API server, so any number of replicas may serve, and none
//! needs to lead.

pub mod answer;
pub mod args;
pub mod badge;
pub mod client_addr;
pub mod defaults;
pub mod events;
pub mod handler;
pub mod metrics;
pub mod model;
pub mod rate_limit;
pub mod reflectors;
pub mod route;
pub mod selector;
pub mod settings;
pub mod store;
pub mod tokens;
pub mod tokens_file;
pub mod trim;
pub mod verdict;

use std::{
    sync::{Arc, Mutex, RwLock, atomic::AtomicU64},
    time::Instant,
};

use anyhow::Context;
use tocsin_runtime::{
    http::{Server, Settings as HttpSettings},
    log::DroppedLines,
    metrics::Metrics,
    tasks::Tasks,
};
use tracing::info;

use self::{
    answer::Writer,
    events::Warnings,
    handler::Handler,
    metrics::Sources,
    rate_limit::{CLIENTS, RateLimit},
    settings::Settings,
    store::Store,
    tokens_file::TokenReloads,
};
use crate::{
    admin::Admin,
    api_server::{ApiServer, Streams},
    listen,
};

/// Runs the heartbeat until a signal or a dead task ends it.
pub async fn run(settings: Settings, log_dropped: DroppedLines) -> anyhow::Result<()> {
    let mut tasks = Tasks::new().context("listen for signals")?;
    let Settings {
        cluster,
        listen,
        admin,
        auth,
        limit,
        trusted_proxies,
        compat,
        event_window,
        badges,
        tls,
    } = settings;
    let (listener, api_addr) = listen::listen("the API's listener", listen)?;
    let (admin_listener, admin_addr) = listen::listen("admin listener", admin)?;

    let reloads = Arc::<TokenReloads>::default();
    let tokens = auth.map(|source| tokens_file::start(source, &reloads)).transpose()?;
    let (tokens, follower) =
        tokens.map_or((None, None), |(tokens, follower)| (Some(tokens), follower));
    if let Some(follower) = follower {
        tasks.spawn_background("token file", follower.run());
    }
    let server = Arc::new(ApiServer::new(cluster));
    let (store, streams) = (Arc::<RwLock<Store>>::default(), Streams::new());
    reflectors::start(&mut tasks, &server, &streams, &store);
    let warnings = Arc::<Warnings>::default();
    tasks.spawn_background("events", events::run(warnings.clone(), server.clone()));
    let handler = Arc::new(Handler {
        store,
        api: streams.state(),
        warnings,
        tokens,
        rate: Mutex::new(RateLimit::new(limit, CLIENTS)),
        trusted_proxies,
        badges,
        writer: Writer { compat },
        event_window,
        answered: handler::Answered::default(),
    });
    let answering = handler.clone();
    let http = Server::new(HttpSettings::new("heartbeat"), move |request, peer| {
        let reply = answering.handle(request.method(), request.uri(), request.headers(), peer);
        async move { reply }
    });
    let certificate_failures = Arc::<AtomicU64>::default();
    let http = match tls {
        Some(files) => {
            let (certificate, reload) =
                files.load(certificate_failures.clone()).context("TLS_CERT and TLS_KEY")?;
            tasks.spawn_background("certificate", reload.run());
            http.with_tls(certificate.acceptor(&[b"http/1.1"]).context("TLS")?)
        }
        None => http,
    };
    let metrics = Metrics::new(Sources {
        handler,
        connections: http.counts(),
        server,
        tokens: reloads,
        certificate_failures,
        log_dropped,
    });
    let state = streams.state();
    let is_ready = move || state.borrow().unavailable(Instant::now()).map_or(Ok(()), Err);
    let admin = Admin::new(metrics, is_ready);
    tasks.spawn_graceful("admin", admin.server().run(admin_listener, tasks.stop()));
    tasks.spawn_graceful("heartbeat", http.run(listener, tasks.stop()));
    info!(api = %api_addr, admin = %admin_addr, compat, "listening");
    tasks.run().await
}
