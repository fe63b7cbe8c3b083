use std::{ffi::OsStr, sync::Arc};

use kube::{
    Config,
    runtime::watcher::Event::{InitApply, InitDone},
};
use serde_json::json;
use tocsin_runtime::kube::ClusterSource;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::{
    api_server::{ApiServer, Streams},
    remediation::{
        apply::Writer, events, leader::Leadership, metrics::RemediationMetrics, settings::Settings,
        store::OpenShiftChange, watch::Source,
    },
};

/// An engine whose lists are complete, with a check of no node, and how its watches stand.
fn engine() -> (Engine, watch::Sender<bool>) {
    // Nothing listens there, and nothing is sent.
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let (leads, receiver) = watch::channel(true);
    let (events, _) = events::queue();
    let (changes, queue) = mpsc::channel(1);
    let source = ClusterSource::find(Some(OsStr::new("/nonexistent")), |_| None).unwrap();
    let streams = Streams::new();
    let server = Arc::new(ApiServer::new(source));
    let mut engine = Engine::new(Parts {
        clock: Steady::default(),
        settings: Settings::default(),
        writer: Writer { client, lease_namespace: "leases".to_owned() },
        metrics: RemediationMetrics::new(Leadership::alone(), Arc::default(), Arc::default()),
        events,
        leadership: Leadership::alone(),
        leads: receiver,
        is_openshift: Arc::default(),
        source: Source { server, streams, changes },
        changes: queue,
    });
    let check = serde_json::from_value(json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck",
        "metadata": { "name": "nhc", "uid": "u", "resourceVersion": "5" }, "spec": { "minHealthy": 0 },
    }))
    .unwrap();
    engine.take(Change::Check(InitApply(check)));
    engine.take(Change::Check(InitDone));
    engine.take(Change::Node(InitDone));
    engine.take(Change::Lease(InitDone));
    assert!(
        !engine.store.is_synced(),
        "whether this is OpenShift is known before the first decision"
    );
    engine.take(Change::OpenShift(OpenShiftChange::Present { config: false, machine: false }));
    (engine, leads)
}

#[tokio::test]
async fn nothing_is_decided_blindly() {
    let (mut engine, _leads) = engine();
    let watches = ["nodes", "checks", "leases"].map(|name| engine.parts.source.streams.add(name));
    let decides = |engine: &mut Engine| {
        engine.decide();
        engine.acts_since.is_some()
    };
    assert!(!decides(&mut engine), "no list was complete");
    for watch in &watches {
        watch.synced();
    }
    assert!(decides(&mut engine));
    watches[0].broken(Duration::ZERO, "no answer".to_owned());
    assert!(decides(&mut engine), "a moment without a watch is no loss");
    watches[0].broken(Duration::ZERO, "no answer".to_owned());
    watches[0].synced();
    watches[1].broken(Duration::from_secs(2), "no answer".to_owned());
    assert!(!decides(&mut engine), "a node may long be healthy again");
    watches[1].synced();
    assert!(decides(&mut engine));
}
