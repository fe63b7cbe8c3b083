//! Pages, rendered once for as long as they are true, for every target in use.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use hyper::StatusCode;

use super::{
    page::Page,
    request::{Format, Request},
    route::{Route, Router},
};
use crate::{health, health::Changes, serve::health::settings};

/// Bytes to send, but for what every answer has of its own.
#[derive(Debug)]
pub struct Rendered {
    /// What counts it.
    pub status: StatusCode,
    /// From behind the version to the last header whose value stays.
    head: Vec<u8>,
    page: Page,
}

impl Rendered {
    fn new(page: Page) -> Self {
        let status = page.status;
        let phrase = status.canonical_reason().unwrap_or("Unknown");
        let mut head = format!(
            " {} {phrase}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
            status.as_u16(),
            page.content_type,
            page.body.len(),
        );
        if let Some(reason) = &page.reason {
            head.push_str(&format!("X-Tocsin-Reason: {reason}\r\n"));
        }
        if let Some(allow) = page.allow {
            head.push_str(&format!("Allow: {allow}\r\n"));
        }
        Self { status, head: head.into_bytes(), page }
    }

    /// The page that it was made of.
    #[cfg(test)]
    fn page(&self) -> &Page {
        &self.page
    }

    /// Appends the answer to `request`.
    pub fn write(&self, out: &mut Vec<u8>, date: &[u8], to: Shape) {
        out.extend_from_slice(if to.minor == 0 { b"HTTP/1.0" } else { b"HTTP/1.1" });
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date);
        out.extend_from_slice(match (to.keep, to.minor) {
            (true, 0) => b"\r\nConnection: keep-alive\r\n\r\n",
            (true, _) => b"\r\n\r\n",
            (false, _) => b"\r\nConnection: close\r\n\r\n",
        });
        if !to.head_only {
            out.extend_from_slice(&self.page.body);
        }
    }
}

/// What of a request decides the form of its answer.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Of HTTP/1.
    pub minor: u8,
    /// Whether the connection goes on.
    pub keep: bool,
    /// Whether it is a HEAD.
    pub head_only: bool,
}

/// The answers of one thread.
#[derive(Debug)]
pub struct Answers {
    router: Router,
    cache: Mutex<Cache>,
}

#[derive(Debug)]
struct Cache {
    changes: Changes,
    /// The one that was used last is the first.
    entries: Vec<Entry>,
    date: String,
    date_until: Instant,
}

#[derive(Debug)]
struct Entry {
    format: Format,
    target: Box<str>,
    made: Instant,
    rendered: Arc<Rendered>,
}

impl Answers {
    /// Without any yet.
    #[must_use]
    pub fn new(router: Router) -> Self {
        let now = Instant::now();
        let cache = Cache {
            changes: router.board().changes(),
            entries: Vec::new(),
            date: String::new(),
            date_until: now,
        };
        Self { router, cache: Mutex::new(cache) }
    }

    /// Where the pages come from.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Appends the answer; or gives where it leads, if a probe has to be waited for.
    pub fn answer(
        &self,
        request: &Request<'_>,
        keep: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Result<StatusCode, Route> {
        let shape = Shape { minor: request.minor, keep, head_only: request.method == "HEAD" };
        let mut cache = self.lock();
        let rendered = cache.get(&self.router, request, now)?;
        rendered.write(out, cache.date(now).as_bytes(), shape);
        Ok(rendered.status)
    }

    /// Appends a page that is nobody else's.
    pub fn write(&self, page: Page, shape: Shape, out: &mut Vec<u8>) -> StatusCode {
        let rendered = Rendered::new(page);
        rendered.write(out, self.lock().date(Instant::now()).as_bytes(), shape);
        rendered.status
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cache {
    fn get(
        &mut self,
        router: &Router,
        request: &Request<'_>,
        now: Instant,
    ) -> Result<Arc<Rendered>, Route> {
        // Before anything is read: what changes from here on is a change for the next request.
        if self.changes.any() {
            self.entries.clear();
        }
        let Request { method, target, format, .. } = *request;
        let is_cached = matches!(method, "GET" | "HEAD" | "OPTIONS")
            && target.starts_with("/health")
            && target.len() <= settings::CACHED_TARGET;
        let found = self
            .entries
            .iter()
            .position(|entry| is_cached && entry.format == format && *entry.target == *target);
        if let Some(found) = found {
            if found != 0 {
                self.entries[..=found].rotate_right(1);
            }
            let entry = &self.entries[0];
            if now.saturating_duration_since(entry.made) < health::ANSWER_AGE {
                return Ok(entry.rendered.clone());
            }
            self.entries.remove(0);
        }
        let route = router.route(method, target);
        let Some(page) = router.now(&route, format) else { return Err(route) };
        let rendered = Arc::new(Rendered::new(page));
        if is_cached {
            self.entries.truncate(settings::CACHED_ANSWERS - 1);
            let (target, rendered) = (target.into(), rendered.clone());
            self.entries.insert(0, Entry { format, target, made: now, rendered });
        }
        Ok(rendered)
    }

    /// The value of `Date` (RFC 9110, 6.6.1).
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

    fn ask(answers: &Answers, request: &Request<'_>, now: Instant) -> String {
        let mut out = Vec::new();
        answers.answer(request, request.keep, now, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_is_well_formed() {
        let (router, _faults) = router(Some("n"), false, 200);
        let answers = Answers::new(router);
        let now = Instant::now();
        let body = r#"{"status":"ready","checks":[{"name":"io_stall","passed":true,"duration_ms":0}],"total_duration_ms":0}"#;
        let text = ask(&answers, &request("GET", "/health"), now);
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
        let text = ask(&answers, &old, now);
        assert!(text.starts_with("HTTP/1.0 503 Service Unavailable\r\n"));
        assert!(text.contains("\r\nX-Tocsin-Reason: bogus: Unknown check: bogus\r\n"));
        assert!(text.ends_with("\r\nConnection: close\r\n\r\n"));
        let text = ask(&answers, &request("POST", "/health"), now);
        assert!(text.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"));
    }

    #[test]
    fn rendered_once_per_change() {
        let (router, faults) = router(Some("n"), false, 200);
        let answers = Answers::new(router);
        let now = Instant::now();
        let get = request("GET", "/health");
        let rendered = || answers.lock().get(&answers.router, &get, now).unwrap();
        let first = rendered();
        assert!(Arc::ptr_eq(&first, &rendered()));
        faults.send_replace(Arc::new(FaultView {
            faults: vec![fault(FaultKind::IoStall, Scope::Host)],
            ..FaultView::default()
        }));
        let second = rendered();
        assert_eq!((first.status.as_u16(), second.status.as_u16()), (200, 503));
        assert!(Arc::ptr_eq(&second, &rendered()));
        // What nobody publishes ages.
        let later = answers.lock().get(&answers.router, &get, now + health::ANSWER_AGE).unwrap();
        assert!(!Arc::ptr_eq(&second, &later));
    }

    #[test]
    fn what_is_kept_is_bounded_and_the_latest() {
        let (router, _faults) = router(Some("n"), false, 200);
        let answers = Answers::new(router);
        let now = Instant::now();
        for n in 0..10 * settings::CACHED_ANSWERS {
            ask(&answers, &request("GET", &format!("/health?n={n}")), now);
            ask(&answers, &request("GET", "/health"), now);
            ask(&answers, &request("GET", &format!("/nothing/{n}")), now);
            ask(&answers, &request("GET", &format!("/health?{}", "x".repeat(4000))), now);
        }
        let cache = answers.lock();
        assert_eq!(cache.entries.len(), settings::CACHED_ANSWERS);
        assert_eq!(&*cache.entries[0].target, "/health");
    }

    proptest! {
        /// Whatever is asked for in between, an answer from the cache is the one without a cache.
        #[test]
        fn the_cache_changes_nothing(
            targets in proptest::collection::vec("/health(/io_stall)?(\\?(check=[a-z_,]{0,12}|verbose|drain=404|&){0,4})?", 1..80),
        ) {
            let (router, _faults) = router(Some("n"), true, 200);
            let answers = Answers::new(router);
            let now = Instant::now();
            for target in &targets {
                for request in [request("GET", target), request("HEAD", target)] {
                    let cached = answers.lock().get(&answers.router, &request, now).unwrap();
                    let route = answers.router.route("GET", target);
                    let fresh = answers.router.now(&route, Format::Json);
                    prop_assert_eq!(Some(cached.page()), fresh.as_ref());
                }
            }
        }
    }
}
