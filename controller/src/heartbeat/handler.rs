//! One request in, one answer out, from memory: nothing in here waits.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Instant, SystemTime},
};

use hyper::{HeaderMap, Method, StatusCode, Uri, header::ORIGIN};
use ipnet::IpNet;
use jiff::Timestamp;
use kube::core::SelectorExt;
use tocsin_api::heartbeat::{Status, WorkloadHealth, WorkloadList};
use tocsin_runtime::http::{Peer, Reply};
use tokio::sync::watch;

use super::{
    answer::{self, Answer, Writer, workload},
    badge::{Light, badge},
    client_addr::{client_addr, client_key},
    events::Warnings,
    model::{Kind, Warning},
    rate_limit::{Quota, RateLimit},
    route::{Route, Routed, route},
    selector,
    store::{Found, Store},
    tokens::{self, Access, Scope, Tokens},
    verdict::{Facts, judge},
};
use crate::api_server::ApiState;

/// What every answer is made from.
#[derive(Debug)]
pub struct Handler {
    /// The cluster.
    pub store: Arc<RwLock<Store>>,
    /// How things stand with the API server.
    pub api: watch::Receiver<ApiState>,
    /// Recent warnings.
    pub warnings: Arc<Warnings>,
    /// The tokens; `None` where everybody may ask.
    pub tokens: Option<watch::Receiver<Arc<Tokens>>>,
    /// Requests per client.
    pub rate: Mutex<RateLimit>,
    /// Networks of proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose badges need no token.
    pub badges: Scope,
    /// Status codes and bodies.
    pub writer: Writer,
    /// How long a warning counts.
    pub event_window: std::time::Duration,
    /// Answers by status.
    pub answered: Answered,
}

/// Answers by status.
#[derive(Debug, Default)]
pub struct Answered([AtomicU64; 10]);

/// The statuses that are counted by themselves; the last one stands for all others.
pub const STATUSES: [&str; 10] =
    ["200", "400", "401", "403", "404", "429", "500", "502", "503", "other"];

impl Answered {
    fn count(&self, status: StatusCode) {
        let index =
            STATUSES.iter().position(|text| *text == status.as_str()).unwrap_or(STATUSES.len() - 1);
        self.0[index].fetch_add(1, Relaxed);
    }

    /// Each status with its count.
    pub fn by_status(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        STATUSES.iter().zip(&self.0).map(|(status, count)| (*status, count.load(Relaxed)))
    }
}

/// What an answer needs of the moment.
#[derive(Clone, Copy, Debug)]
struct Now {
    monotonic: Instant,
    wall: SystemTime,
}

impl Handler {
    /// Answers a request.
    pub fn handle(&self, method: &Method, uri: &Uri, headers: &HeaderMap, peer: Peer) -> Reply {
        let is_preflight =
            headers.contains_key(ORIGIN) && headers.contains_key("access-control-request-method");
        let reply = match route(method, uri, is_preflight) {
            Routed::Redirect(location) => answer::redirect(&location),
            Routed::NotFound => self.writer.not_found(),
            Routed::BadRequest => self.writer.bad_request("the path is not UTF-8"),
            Routed::MethodNotAllowed => self.writer.not_allowed(),
            Routed::Preflight => answer::preflight(),
            Routed::Route(route) => {
                let mut reply = self.known(&route, uri, headers, peer);
                if headers.contains_key(ORIGIN) {
                    answer::cross_origin(&mut reply);
                }
                reply
            }
        };
        self.answered.count(reply.status());
        reply
    }

    /// Answers a request with a known path: first the limit, then the token, then the question.
    fn known(&self, route: &Route, uri: &Uri, headers: &HeaderMap, peer: Peer) -> Reply {
        let now = Now { monotonic: Instant::now(), wall: SystemTime::now() };
        if matches!(route, Route::Api) {
            return self.writer.api(self.lost(now));
        }
        let quota = self.count(headers, peer, now);
        let mut reply = if quota.is_exceeded {
            self.writer.too_many(&quota)
        } else {
            match self.scope(route, uri, headers) {
                Ok(scope) => self.answer(route, &scope, now),
                Err(refusal) => refusal,
            }
        };
        answer::quota(&mut reply, &quota);
        reply
    }

    fn lost(&self, now: Now) -> Option<String> {
        self.api.borrow().unavailable(now.monotonic)
    }

    fn count(&self, headers: &HeaderMap, peer: Peer, now: Now) -> Quota {
        let peer = match peer {
            Peer::Tcp(addr) => addr.ip(),
            Peer::Unix => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let client = client_key(client_addr(peer, headers, &self.trusted_proxies));
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        rate.count(client, now.monotonic, now.wall)
    }

    /// What the request may see, or the refusal.
    #[expect(clippy::result_large_err, reason = "both are an answer, made once per request")]
    fn scope(&self, route: &Route, uri: &Uri, headers: &HeaderMap) -> Result<Scope, Reply> {
        let Some(tokens) = &self.tokens else { return Ok(Scope::All) };
        if let Route::Badge { namespace, .. } = route
            && self.badges.contains(namespace)
        {
            return Ok(Scope::All);
        }
        let tokens = tokens.borrow().clone();
        match tokens::check(&tokens, headers, uri.query().unwrap_or_default()) {
            Access::Granted(scope) if route.namespace().is_none_or(|name| scope.contains(name)) => {
                Ok(scope)
            }
            Access::Granted(_) | Access::Wrong => Err(self.writer.forbidden()),
            Access::Missing => Err(self.writer.unauthorized()),
        }
    }

    fn answer(&self, route: &Route, scope: &Scope, now: Now) -> Reply {
        match route {
            Route::Api => self.writer.api(self.lost(now)),
            Route::Workload { namespace, kind, name } => {
                self.writer.workload(self.workload(namespace, *kind, name, now))
            }
            Route::Badge { namespace, kind, name } => {
                let light = match self.workload(namespace, *kind, name, now) {
                    Answer::Known(health) => match health.status {
                        Status::Up if health.degraded.is_empty() => Light::Up,
                        Status::Up => Light::Degraded,
                        Status::Down => Light::Down,
                        Status::Unknown => Light::Unknown,
                    },
                    Answer::NotFound(..) | Answer::ApiLost(_) => Light::Unknown,
                };
                answer::svg(badge(name, light))
            }
            Route::Namespace { namespace, selector } => {
                let selector = match selector.as_deref().map(selector::parse).transpose() {
                    Ok(selector) => selector.unwrap_or_default(),
                    Err(error) => return self.writer.bad_request(&error.to_string()),
                };
                if let Some(why) = self.lost(now) {
                    return self.writer.workload(Answer::ApiLost(why));
                }
                let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
                let selects = |found: &Found<'_>| {
                    let labels = found.workload.labels.iter();
                    selector.matches(&labels.map(|(k, v)| (k.to_string(), v.to_string())).collect())
                };
                let found = store.of_namespace(namespace, now.monotonic).filter(selects);
                self.writer.list(&list(found.map(|found| self.judge(&found, now)).collect(), None))
            }
            Route::Feed { namespace } => {
                if let Some(why) = self.lost(now) {
                    return Writer::feed(&list(Vec::new(), Some(why)));
                }
                let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
                let names = match namespace {
                    Some(name) => vec![&**name],
                    None => store.namespaces(),
                };
                let seen = names.into_iter().filter(|name| scope.contains(name));
                let found = seen.flat_map(|name| store.of_namespace(name, now.monotonic));
                // A reader of the feed is not somebody who asks about a workload: it begins no watch of events.
                Writer::feed(&list(
                    found.map(|found| self.judge_with(&found, &[], now)).collect(),
                    None,
                ))
            }
        }
    }

    fn workload(&self, namespace: &str, kind: Kind, name: &str, now: Now) -> Answer {
        if let Some(why) = self.lost(now) {
            return Answer::ApiLost(why);
        }
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        match store.find(namespace, kind, name, now.monotonic) {
            Some(found) => Answer::Known(self.judge(&found, now)),
            None => Answer::NotFound(kind, namespace.to_owned(), name.to_owned()),
        }
    }

    /// Judges a workload with the warnings about its pods.
    fn judge(&self, found: &Found<'_>, now: Now) -> WorkloadHealth {
        let namespace = &found.workload.namespace;
        let pods = found.pods.iter().map(|(uid, _)| *uid);
        let warnings = self.warnings.of(namespace, pods, now.monotonic);
        let mut health = self.judge_with(found, &warnings, now);
        health.degraded.extend(self.warnings.trouble(namespace, now.monotonic));
        health
    }

    fn judge_with(&self, found: &Found<'_>, warnings: &[Warning], now: Now) -> WorkloadHealth {
        let Found { workload: of, pods, behind_for } = found;
        let verdict = judge(&Facts {
            workload: of,
            pods: &pods.iter().map(|(_, pod)| *pod).collect::<Vec<_>>(),
            warnings: &warnings.iter().collect::<Vec<_>>(),
            behind_for: *behind_for,
            event_window: self.event_window,
            now: Timestamp::try_from(now.wall).unwrap_or(Timestamp::UNIX_EPOCH),
        });
        workload(of, verdict)
    }
}

/// All of them together: down if one is, unknown where there is none.
fn list(workloads: Vec<WorkloadHealth>, reason: Option<String>) -> WorkloadList {
    let status = if workloads.is_empty() {
        Status::Unknown
    } else if workloads.iter().all(|workload| workload.status == Status::Up) {
        Status::Up
    } else {
        Status::Down
    };
    let reason =
        reason.or_else(|| workloads.is_empty().then(|| "there is no such workload".to_owned()));
    WorkloadList { status, reason, workloads }
}
