//! Rendered responses, kept for as long as they are true: one per target that is asked for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use hyper::StatusCode;

use super::{
    format::Format,
    render::{Framing, RenderedResponse},
    request::Request,
    response::Response,
    route::{Route, Router},
};
use crate::{health, health::Changes, serve::health::settings};

/// The rendered responses of one thread, for HTTP/1 and HTTP/2 alike.
#[derive(Debug)]
pub struct ResponseCache {
    router: Router,
    /// Only tasks of the one thread lock it, and none of them awaits under the lock: it is always free.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    changes: Changes,
    /// The entry that was used last is the first.
    entries: Vec<Entry>,
    date: String,
    date_until: Instant,
}

#[derive(Debug)]
struct Entry {
    format: Format,
    target: Box<str>,
    rendered_at: Instant,
    rendered: Arc<RenderedResponse>,
}

impl ResponseCache {
    /// An empty cache of the responses of `router`.
    #[must_use]
    pub fn new(router: Router) -> Self {
        let state = State {
            changes: router.board().changes(),
            entries: Vec::new(),
            date: String::new(),
            date_until: Instant::now(),
        };
        Self { router, state: Mutex::new(state) }
    }

    /// The router whose responses are kept.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The rendered response to a request, or the route whose probes have no result yet: then [`Router::wait`] gives
    /// the response.
    pub fn get(
        &self,
        method: &str,
        target: &str,
        format: Format,
        now: Instant,
    ) -> Result<Arc<RenderedResponse>, Route> {
        self.lock().get(&self.router, method, target, format, now)
    }

    /// Appends the response to `request` for HTTP/1 and gives its status; otherwise as [`Self::get`].
    pub fn write_http1(
        &self,
        request: &Request<'_>,
        keep: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<StatusCode, Route> {
        let framing = Framing { minor: request.minor, keep, head_only: request.is_head() };
        let mut state = self.lock();
        let Request { method, target, format, .. } = *request;
        let rendered = state.get(&self.router, method, target, format, now)?;
        rendered.write_http1(out, state.date(now).as_bytes(), framing);
        Ok(rendered.status())
    }

    /// Appends a response that is not kept for HTTP/1, and gives its status.
    pub fn write_http1_uncached(
        &self,
        response: Response,
        framing: Framing,
        out: &mut Vec<u8>,
    ) -> StatusCode {
        let rendered = RenderedResponse::new(response);
        rendered.write_http1(out, self.lock().date(Instant::now()).as_bytes(), framing);
        rendered.status()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn get(
        &mut self,
        router: &Router,
        method: &str,
        target: &str,
        format: Format,
        now: Instant,
    ) -> Result<Arc<RenderedResponse>, Route> {
        // Changes are marked as seen before the verdict is read: what changes after that empties the cache at the next
        // request.
        if self.changes.any() {
            self.entries.clear();
        }
        let is_kept = matches!(method, "GET" | "HEAD" | "OPTIONS")
            && target.starts_with("/health")
            && target.len() <= settings::CACHED_TARGET;
        let found = self
            .entries
            .iter()
            .position(|entry| is_kept && entry.format == format && *entry.target == *target);
        if let Some(found) = found {
            if found != 0 {
                self.entries[..=found].rotate_right(1);
            }
            let entry = &self.entries[0];
            if now.saturating_duration_since(entry.rendered_at) < health::ANSWER_AGE {
                return Ok(entry.rendered.clone());
            }
            self.entries.remove(0);
        }
        let route = router.route(method, target);
        let Some(response) = router.now(&route, format) else { return Err(route) };
        let rendered = Arc::new(RenderedResponse::new(response));
        if is_kept {
            self.entries.truncate(settings::CACHED_RESPONSES - 1);
            let (target, rendered) = (target.into(), rendered.clone());
            self.entries.insert(0, Entry { format, target, rendered_at: now, rendered });
        }
        Ok(rendered)
    }

    /// The value of `Date` (RFC 9110, 6.6.1), formatted once a second.
    fn date(&mut self, now: Instant) -> &str {
        if now >= self.date_until {
            let time = SystemTime::now();
            self.date = httpdate::fmt_http_date(time);
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let rest = 1_000_000_000 - since.subsec_nanos();
            self.date_until = now + Duration::from_nanos(rest.into());
        }
        &self.date
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::route::tests::router, *};
    use crate::{
        checks::tests::fault,
        model::{FaultKind, FaultView, Scope},
    };

    fn request<'b>(method: &'b str, target: &'b str) -> Request<'b> {
        let (minor, keep, body, format, len) = (1, true, false, Format::Json, 0);
        Request { method, target, minor, keep, body, format, len }
    }

    fn ask(cache: &ResponseCache, request: &Request<'_>, now: Instant) -> String {
        let mut out = Vec::new();
        cache.write_http1(request, request.keep, now, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn get(cache: &ResponseCache, target: &str, now: Instant) -> Arc<RenderedResponse> {
        cache.get("GET", target, Format::Json, now).unwrap()
    }

    #[test]
    fn a_response_is_well_formed() {
        let (router, _faults) = router(Some("n"), false, 200);
        let cache = ResponseCache::new(router);
        let now = Instant::now();
        let body = r#"{"status":"ready","checks":[{"name":"io_stall","passed":true,"duration_ms":0}],"total_duration_ms":0}"#;
        let text = ask(&cache, &request("GET", "/health"), now);
        let (head, found) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(found, body);
        let lines: Vec<_> = head.split("\r\n").collect();
        assert_eq!(
            lines[..4],
            [
                "HTTP/1.1 200 OK",
                "Content-Type: application/json",
                &format!("Content-Length: {}", body.len()),
                "Cache-Control: no-store",
            ]
        );
        assert!(lines[4].starts_with("Date: ") && lines[4].ends_with(" GMT") && lines.len() == 5);
        let old = Request { minor: 0, keep: false, ..request("HEAD", "/health?check=bogus") };
        let text = ask(&cache, &old, now);
        assert!(text.starts_with("HTTP/1.0 503 Service Unavailable\r\n"));
        assert!(text.contains("\r\nX-Tocsin-Reason: bogus: Unknown check: bogus\r\n"));
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"));
        let text = ask(&cache, &request("POST", "/health"), now);
        assert!(text.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"));
    }

    #[test]
    fn a_response_is_rendered_once_per_change() {
        let (router, faults) = router(Some("n"), false, 200);
        let cache = ResponseCache::new(router);
        let now = Instant::now();
        let first = get(&cache, "/health", now);
        assert!(Arc::ptr_eq(&first, &get(&cache, "/health", now)));
        faults.send_replace(Arc::new(FaultView {
            faults: vec![fault(FaultKind::IoStall, Scope::Host)],
            ..FaultView::default()
        }));
        let second = get(&cache, "/health", now);
        assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 503));
        assert!(Arc::ptr_eq(&second, &get(&cache, "/health", now)));
        // Without any change, a response is rendered again when it is too old.
        let later = get(&cache, "/health", now + health::ANSWER_AGE);
        assert!(!Arc::ptr_eq(&second, &later));
    }

    #[test]
    fn the_cache_is_bounded_and_keeps_the_latest() {
        let (router, _faults) = router(Some("n"), false, 200);
        let cache = ResponseCache::new(router);
        let now = Instant::now();
        for n in 0..10 * settings::CACHED_RESPONSES {
            ask(&cache, &request("GET", &format!("/health?n={n}")), now);
            ask(&cache, &request("GET", "/health"), now);
            ask(&cache, &request("GET", &format!("/nothing/{n}")), now);
            ask(&cache, &request("GET", &format!("/health?{}", "x".repeat(4000))), now);
        }
        let state = cache.lock();
        assert_eq!(state.entries.len(), settings::CACHED_RESPONSES);
        assert_eq!(&*state.entries[0].target, "/health");
    }

    proptest! {
        /// A response from the cache is the one that the router gives without a cache, whatever was asked before.
        #[test]
        fn the_cache_changes_nothing(
            targets in proptest::collection::vec("/health(/io_stall)?(\\?(check=[a-z_,]{0,12}|verbose|drain=404|&){0,4})?", 1..80),
        ) {
            let (router, _faults) = router(Some("n"), true, 200);
            let cache = ResponseCache::new(router);
            let now = Instant::now();
            for target in &targets {
                for method in ["GET", "HEAD"] {
                    let cached = cache.get(method, target, Format::Json, now).unwrap();
                    let route = cache.router.route("GET", target);
                    let fresh = cache.router.now(&route, Format::Json);
                    prop_assert_eq!(Some(cached.response()), fresh.as_ref());
                }
            }
        }
    }
}
