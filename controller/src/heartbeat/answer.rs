//! Answers: status codes, headers and bodies. PURE.
//!
//! In compatibility mode they are those of k8s-controller-heartbeat (its handlers and middlewares, read at 7d9989e):
//! empty bodies, 400 for everything that is not up. Otherwise each case has a status of its own and a JSON body.

use hyper::{
    StatusCode,
    header::{self, HeaderValue},
};
use serde::Serialize;
use tocsin_api::heartbeat::{ApiHealth, Condition, Replicas, Status, WorkloadHealth, WorkloadList};
use tocsin_runtime::http::{Reply, TEXT, error, json, reply};

use super::{
    model::{self, Details, Kind, Workload},
    rate_limit::Quota,
    verdict::{self, Verdict},
};

/// `image/svg+xml`
const SVG: &str = "image/svg+xml";

/// What there is to say about a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The verdict.
    Known(WorkloadHealth),
    /// The cluster has no such workload.
    NotFound(Kind, String, String),
    /// The API server is lost, and why.
    ApiLost(String),
}

/// A workload and its verdict, for the outside.
#[must_use]
pub fn workload(workload: &Workload, verdict: Verdict) -> WorkloadHealth {
    let Verdict { status, reasons, degraded, pods, since } = verdict;
    WorkloadHealth {
        status: match status {
            verdict::Status::Up => Status::Up,
            verdict::Status::Down => Status::Down,
        },
        kind: workload.kind().name().to_owned(),
        namespace: workload.namespace.to_string(),
        name: workload.name.to_string(),
        replicas: Some(Replicas {
            desired: pods.desired,
            required: pods.required,
            ready: pods.ready,
        }),
        conditions: conditions(&workload.details),
        reasons,
        degraded,
        since: since.map(|time| time.to_string()),
    }
}

fn conditions(details: &Details) -> Vec<Condition> {
    let Details::Deployment { available, progressing, .. } = details else { return Vec::new() };
    let all = [("Available", available), ("Progressing", progressing)];
    let of = |(kind, condition): (&str, &Option<model::Condition>)| {
        condition.as_ref().map(|condition| Condition {
            kind: kind.to_owned(),
            status: condition.is_true,
            reason: condition.reason.to_string(),
            since: condition.since.map(|time| time.to_string()),
        })
    };
    all.into_iter().filter_map(of).collect()
}

/// Writes answers in one of the two ways.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    /// Those of k8s-controller-heartbeat.
    pub compat: bool,
}

impl Writer {
    /// The answer about one workload.
    #[must_use]
    pub fn workload(self, answer: Answer) -> Reply {
        let unknown =
            |kind: Kind, namespace: String, name: String, reason: String| WorkloadHealth {
                status: Status::Unknown,
                kind: kind.name().to_owned(),
                namespace,
                name,
                replicas: None,
                conditions: Vec::new(),
                reasons: vec![reason],
                degraded: Vec::new(),
                since: None,
            };
        match answer {
            Answer::Known(health) if health.status == Status::Up => {
                self.verdict(StatusCode::OK, &health)
            }
            Answer::Known(health) => self.verdict(StatusCode::SERVICE_UNAVAILABLE, &health),
            Answer::NotFound(kind, namespace, name) => {
                let reason = format!("there is no {} {namespace}/{name}", kind.name());
                self.verdict(StatusCode::NOT_FOUND, &unknown(kind, namespace, name, reason))
            }
            Answer::ApiLost(why) => self.verdict(
                StatusCode::BAD_GATEWAY,
                &ApiHealth { status: Status::Unknown, reason: Some(why) },
            ),
        }
    }

    /// The answer about several workloads.
    #[must_use]
    pub fn list(self, list: &WorkloadList) -> Reply {
        let status = match list.status {
            Status::Up => StatusCode::OK,
            Status::Down => StatusCode::SERVICE_UNAVAILABLE,
            Status::Unknown => StatusCode::NOT_FOUND,
        };
        self.verdict(status, list)
    }

    /// The feed: 200 whatever is in it, for its readers look into the body.
    #[must_use]
    pub fn feed(list: &WorkloadList) -> Reply {
        json(StatusCode::OK, list)
    }

    /// Whether the API server is there.
    #[must_use]
    pub fn api(self, lost: Option<String>) -> Reply {
        match lost {
            None => self.verdict(StatusCode::OK, &ApiHealth { status: Status::Up, reason: None }),
            Some(_) if self.compat => empty(StatusCode::INTERNAL_SERVER_ERROR),
            Some(why) => json(
                StatusCode::BAD_GATEWAY,
                &ApiHealth { status: Status::Unknown, reason: Some(why) },
            ),
        }
    }

    /// A request that cannot be understood.
    #[must_use]
    pub fn bad_request(self, why: &str) -> Reply {
        if self.compat {
            empty(StatusCode::BAD_REQUEST)
        } else {
            error(StatusCode::BAD_REQUEST, why)
        }
    }

    /// A request without a token.
    #[must_use]
    pub fn unauthorized(self) -> Reply {
        let text = "authorization failed";
        let mut reply = self.text(StatusCode::UNAUTHORIZED, text);
        let challenge = if self.compat { "Basic" } else { "Basic realm=\"tocsin\"" };
        reply.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        reply
    }

    /// A request with a token that is none, or is good for other namespaces.
    #[must_use]
    pub fn forbidden(self) -> Reply {
        let status = StatusCode::FORBIDDEN;
        if self.compat { empty(status) } else { error(status, "this token is not good for this") }
    }

    /// A request beyond the limit.
    #[must_use]
    pub fn too_many(self, quota: &Quota) -> Reply {
        let mut reply = self.text(StatusCode::TOO_MANY_REQUESTS, "Limit exceeded");
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(quota.retry_after));
        reply
    }

    /// No such path.
    #[must_use]
    pub fn not_found(self) -> Reply {
        self.text(StatusCode::NOT_FOUND, "404 page not found")
    }

    /// A method that the path does not have.
    #[must_use]
    pub fn not_allowed(self) -> Reply {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        if self.compat {
            return empty(status);
        }
        tocsin_runtime::http::not_allowed("GET, HEAD, OPTIONS")
    }

    fn verdict(self, status: StatusCode, body: &impl Serialize) -> Reply {
        match (self.compat, status) {
            (false, _) => json(status, body),
            (true, StatusCode::OK) => empty(status),
            (true, _) => empty(StatusCode::BAD_REQUEST),
        }
    }

    /// A text as Go's `http.Error` writes it, or an error as JSON.
    fn text(self, status: StatusCode, text: &str) -> Reply {
        if !self.compat {
            return error(status, text);
        }
        let mut reply = reply(status, TEXT, format!("{text}\n"));
        let nosniff = HeaderValue::from_static("nosniff");
        reply.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
        reply
    }
}

/// An answer without a body, which must not be cached.
fn empty(status: StatusCode) -> Reply {
    let mut reply = reply(status, TEXT, "");
    reply.headers_mut().remove(header::CONTENT_TYPE);
    reply
}

/// 301 to the canonical path.
#[must_use]
pub fn redirect(location: &str) -> Reply {
    let mut reply = empty(StatusCode::MOVED_PERMANENTLY);
    if let Ok(location) = HeaderValue::from_str(location) {
        reply.headers_mut().insert(header::LOCATION, location);
    }
    reply
}

/// The answer to a browser that asks before it sends a request with an `Authorization` header (Fetch, section 3.2.2).
#[must_use]
pub fn preflight() -> Reply {
    let mut reply = empty(StatusCode::NO_CONTENT);
    let headers = reply.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization"),
        // An hour: Chromium keeps it for two at most.
        (header::ACCESS_CONTROL_MAX_AGE, "3600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    cross_origin(&mut reply);
    reply
}

/// Lets scripts of any origin read the answer.
pub fn cross_origin(reply: &mut Reply) {
    let headers = reply.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    let exposed = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After";
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
}

/// Tells the client how much of its limit is left.
pub fn quota(reply: &mut Reply, quota: &Quota) {
    let headers = reply.headers_mut();
    headers.insert("x-ratelimit-limit", HeaderValue::from(quota.limit));
    headers.insert("x-ratelimit-remaining", HeaderValue::from(quota.remaining));
    headers.insert("x-ratelimit-reset", HeaderValue::from(quota.reset));
}

/// A badge.
#[must_use]
pub fn svg(text: String) -> Reply {
    reply(StatusCode::OK, SVG, text)
}
