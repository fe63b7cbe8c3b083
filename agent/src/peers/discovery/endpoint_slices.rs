//! Peers by a list and a watch of a Service's `EndpointSlices`.

use std::{convert::Infallible, net::SocketAddr, pin::pin, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::api::discovery::v1;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams},
};
use tocsin_runtime::{jitter, kube::describe};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::slices::Slices;
use crate::{
    cluster::settings::{API_WATCH, API_WATCH_SPREAD},
    peers::channels::Discovered,
};

/// 10 seconds for the list, and for a watch to begin: some thousand endpoints take a busy server a second.
const DEADLINE: Duration = Duration::from_secs(10);
/// 5 seconds after its time limit, a watch that has not ended does not end by itself.
const OVERDUE: Duration = Duration::from_secs(5);
/// 1 second before the second attempt, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// 30 seconds between attempts at most: membership does not need discovery to go on.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// 1 minute without a watch until that is told: an API server restarts within it, and no peer is lost by that.
const PATIENCE: Duration = Duration::from_mins(1);
/// The hint that is added to a refusal.
const RIGHTS: &str = " (list and watch of endpointslices are needed: deploy/components/peers)";

/// The `EndpointSlices` of one Service.
#[derive(Debug)]
pub(super) struct EndpointSlices {
    namespace: String,
    service: String,
    slices: Slices,
    found: watch::Sender<Discovered>,
    /// Whether there was ever a complete list.
    is_filled: bool,
    /// Since when there is no watch.
    broken_since: Option<Instant>,
}

impl EndpointSlices {
    pub(super) fn new(
        namespace: String,
        service: String,
        own: SocketAddr,
        found: watch::Sender<Discovered>,
    ) -> Self {
        let slices = Slices::new(own);
        Self { namespace, service, slices, found, is_filled: false, broken_since: None }
    }

    /// Lists and watches for ever, with the client of the cluster side's session: none while there is no API server.
    pub(super) async fn follow(mut self, mut clients: watch::Receiver<Option<Client>>) {
        let mut pause = RETRY_MIN;
        loop {
            let client = clients.borrow_and_update().clone();
            let why = match client {
                Some(client) => {
                    let began = Instant::now();
                    let Some(why) = self.until_lost(client, &mut clients).await else { return };
                    if began.elapsed() > RETRY_MAX {
                        pause = RETRY_MIN;
                    }
                    why
                }
                None => "the Kubernetes API cannot be reached".to_owned(),
            };
            debug!(why, "EndpointSlices are not watched");
            let until = Instant::now() + pause + jitter::up_to(pause / 4);
            loop {
                let told = self.on_broken(&why);
                let has_client = clients.borrow().is_some();
                tokio::select! {
                    () = sleep_until(until), if has_client => break,
                    () = sleep(PATIENCE), if !told => {}
                    changed = clients.changed() => {
                        if changed.is_err() {
                            return;
                        }
                    }
                }
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Follows with one client until it fails or is given up; gives the reason. None where the session is gone.
    async fn until_lost(
        &mut self,
        client: Client,
        clients: &mut watch::Receiver<Option<Client>>,
    ) -> Option<String> {
        let mut watch = pin!(self.list_and_watch(client));
        loop {
            tokio::select! {
                Err(why) = &mut watch => return Some(why),
                changed = clients.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                    // The same client is told again whenever the session renews its watch.
                    if clients.borrow().is_none() {
                        return Some("the Kubernetes API cannot be reached".to_owned());
                    }
                }
            }
        }
    }

    async fn list_and_watch(&mut self, client: Client) -> Result<Infallible, String> {
        let resource = ApiResource::erase::<v1::EndpointSlice>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(client, &self.namespace, &resource);
        let labels = format!("kubernetes.io/service-name={}", self.service);
        let list = in_time(api.list(&ListParams::default().labels(&labels))).await?;
        let Some(mut version) = list.metadata.resource_version else {
            return Err("what it answers is no list of EndpointSlices".to_owned());
        };
        self.slices.clear();
        for slice in list.items {
            self.slices.set(slice.name_any(), slice.data);
        }
        self.on_complete();
        loop {
            let length = API_WATCH + jitter::up_to(API_WATCH_SPREAD);
            let seconds = u32::try_from(length.as_secs()).unwrap_or(u32::MAX);
            let params = WatchParams::default().labels(&labels).timeout(seconds);
            let mut events = pin!(in_time(api.watch(&params, &version)).await?);
            let opened = Instant::now();
            let overdue = opened + length + OVERDUE;
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    () = sleep_until(overdue) => {
                        return Err("the watch does not end when it should".to_owned());
                    }
                };
                match event {
                    Some(Ok(event)) => version = self.on_event(event)?,
                    Some(Err(error)) => return Err(words(&error)),
                    None if opened.elapsed() < RETRY_MIN => {
                        return Err("it ends every watch at once".to_owned());
                    }
                    None => break,
                }
            }
        }
    }

    /// Takes in one event of the watch; gives the version to go on from.
    fn on_event(&mut self, event: WatchEvent<DynamicObject>) -> Result<String, String> {
        let version = match event {
            WatchEvent::Bookmark(bookmark) => return Ok(bookmark.metadata.resource_version),
            // Above all a 410: the server has forgotten the changes after the version, and a new list is needed.
            WatchEvent::Error(status) => return Err(words(&kube::Error::Api(status.boxed()))),
            WatchEvent::Added(slice) | WatchEvent::Modified(slice) => {
                let version = slice.resource_version();
                self.slices.set(slice.name_any(), slice.data);
                version
            }
            WatchEvent::Deleted(slice) => {
                self.slices.remove(&slice.name_any());
                slice.resource_version()
            }
        };
        self.on_complete();
        Ok(version.unwrap_or_default())
    }

    fn on_complete(&mut self) {
        let peers = self.slices.peers();
        if !self.is_filled || self.broken_since.is_some() {
            let (namespace, service) = (&self.namespace, &self.service);
            info!(namespace, service, peers = peers.len(), "EndpointSlices are watched");
        }
        (self.is_filled, self.broken_since) = (true, None);
        self.publish(Discovered { peers, is_complete: true, degraded: None });
    }

    /// Tells that there is no watch, at once where there never was one; says whether that was told.
    fn on_broken(&mut self, why: &str) -> bool {
        let now = Instant::now();
        let since = *self.broken_since.get_or_insert(now);
        let is_told = !self.is_filled || now.saturating_duration_since(since) >= PATIENCE;
        let (namespace, service) = (&self.namespace, &self.service);
        let degraded = is_told.then(|| format!("EndpointSlices of {namespace}/{service}: {why}"));
        if let Some(text) = &degraded
            && self.found.borrow().degraded.is_none()
        {
            warn!("peers are not discovered: {text}");
        }
        // Those that were known stay.
        self.publish(Discovered { peers: self.slices.peers(), is_complete: false, degraded });
        is_told
    }

    fn publish(&self, discovered: Discovered) {
        self.found.send_if_modified(|old| {
            let is_new = *old != discovered;
            *old = discovered;
            is_new
        });
    }
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(|error| words(&error)),
        Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
    }
}

/// The error in one line.
fn words(error: &kube::Error) -> String {
    let is_refused = matches!(error, kube::Error::Api(status) if status.code == 403);
    format!("{}{}", describe(error), if is_refused { RIGHTS } else { "" })
}
