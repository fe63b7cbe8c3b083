//! `tocsin-controller explain NODE`: the whole chain of why, from the cluster as it is now.
//!
//! It reads the cluster once and decides as the running controller does, but writes nothing. Writes that the API server
//! refused are known to the controller alone: they are in the status.

use std::fmt::Write as _;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, ListParams},
    discovery::{Scope, pinned_kind},
    runtime::watcher::Event,
};
use serde::de::DeserializeOwned;

use super::{
    crd::NodeHealthCheck,
    decide::{Selector, decide, hint},
    objects::NodeObject,
    openshift,
    settings::Settings,
    store::{Change, KindState, Store},
    watch,
};

/// The explanation, as text for a terminal.
pub async fn explain(client: &Client, settings: &Settings, node: &str) -> anyhow::Result<String> {
    let store = read(client, settings).await?;
    text(&store, settings, node, Timestamp::now())
}

/// The explanation from what is in `store`.
fn text(store: &Store, settings: &Settings, node: &str, now: Timestamp) -> anyhow::Result<String> {
    let world = &store.world;
    let Some(known) = world.nodes.get(node) else { bail!("there is no node {node}") };
    let mut out = format!("Node {node}\n");
    for condition in &known.conditions {
        let since = condition.since.map_or_else(String::new, |since| format!(" since {since}"));
        let hint = hint(condition).map_or_else(String::new, |hint| format!("; hint: {hint}"));
        writeln!(
            out,
            "  {} is {}{since} ({}){hint}",
            condition.kind, condition.status, condition.reason
        )?;
    }
    if world.checks.is_empty() {
        out.push_str("There is no NodeHealthCheck.\n");
    }
    for (name, check) in &world.checks {
        let selects = Selector::new(check.spec.selector.as_ref())
            .is_ok_and(|selector| selector.matches(known));
        if !selects {
            writeln!(out, "NodeHealthCheck {name} does not select it.")?;
            continue;
        }
        let decision = decide(world, settings, check, now, Some(node));
        writeln!(
            out,
            "NodeHealthCheck {name} selects it. {}",
            decision.status.reason.as_deref().unwrap_or("Nothing is decided yet.")
        )?;
        for line in &decision.why {
            writeln!(out, "  -> {line}")?;
        }
        let told = check.status.iter().flat_map(|status| status.waiting_nodes.iter().flatten());
        if let Some(told) = told.into_iter().find(|told| told.name == node) {
            writeln!(out, "  its status says: {}: {}", told.reason, told.message)?;
        }
    }
    Ok(out)
}

async fn read(client: &Client, settings: &Settings) -> anyhow::Result<Store> {
    let mut store = Store::default();
    let nodes = Api::<NodeObject>::all(client.clone());
    list(&mut store, nodes, Change::Node).await.context("nodes")?;
    let checks =
        Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<NodeHealthCheck>(&()));
    list(&mut store, checks, Change::Check).await.context("NodeHealthChecks")?;
    let leases = Api::<Lease>::namespaced(client.clone(), &settings.lease_namespace);
    list(&mut store, leases, Change::Lease).await.context("leases of nodes")?;
    store.world.lease_namespace = true;
    for change in openshift::look(client).await.context("what the API serves")? {
        store.take(Change::OpenShift(change), Timestamp::now());
    }
    for kind in store.wanted_kinds() {
        store.expect_kind(&kind);
        let found = match watch::gvk(&kind) {
            Some(gvk) => pinned_kind(client, &gvk).await.ok(),
            None => None,
        };
        let Some((resource, capabilities)) = found else {
            let why = watch::no_matches(&kind);
            store.take(Change::Kind(kind, KindState::Missing(why)), Timestamp::now());
            continue;
        };
        let state = KindState::Served {
            resource: format!("{}.{}", resource.plural, resource.group),
            namespaced: capabilities.scope == Scope::Namespaced,
        };
        store.take(Change::Kind(kind.clone(), state), Timestamp::now());
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
        list(&mut store, api, |event| Change::Object(kind.clone(), event))
            .await
            .with_context(|| kind.kind.clone())?;
    }
    Ok(store)
}

async fn list<K>(
    store: &mut Store,
    api: Api<K>,
    change: impl Fn(Event<K>) -> Change,
) -> anyhow::Result<()>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned,
{
    let now = Timestamp::now();
    store.take(change(Event::Init), now);
    for object in api.list(&ListParams::default()).await?.items {
        store.take(change(Event::InitApply(object)), now);
    }
    store.take(change(Event::InitDone), now);
    Ok(())
}
