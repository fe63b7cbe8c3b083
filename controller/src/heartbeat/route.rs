//! What a request is about. PURE: method, target and mode in, a route out.
//!
//! The table is that of the controller which this replaces (its router is gorilla/mux): the decoded path is matched
//! segment by segment, one that is not canonical is redirected, and a trailing slash is another path.

use hyper::{Method, Uri};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::model::Kind;

/// 512 bytes for a path: a namespace has 63 and a name 253 (RFC 1123).
const PATH: usize = 512;

/// What Go's `url.URL.String` escapes in a path.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'[')
    .add(b']')
    .add(b'\\')
    .add(b'^')
    .add(b'|');

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/healthz`, `/health`: whether the API server is there.
    Api,
    /// `/api/healthz/{namespace}/{kind}/{name}`
    Workload {
        /// The namespace.
        namespace: String,
        /// Which kind.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// `/api/healthz/{namespace}[?selector=...]`: all workloads of a namespace, or those with some labels.
    Namespace {
        /// The namespace.
        namespace: String,
        /// A label selector.
        selector: Option<String>,
    },
    /// `/api/feed[?namespace=...]`: every workload, as JSON.
    Feed {
        /// Of one namespace only.
        namespace: Option<String>,
    },
    /// `/badge/{namespace}/{kind}/{name}.svg`
    Badge {
        /// The namespace.
        namespace: String,
        /// Which kind.
        kind: Kind,
        /// The name.
        name: String,
    },
}

impl Route {
    /// The namespace that a token has to be good for; `None` for a route about several or none.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        match self {
            Self::Api => None,
            Self::Feed { namespace } => namespace.as_deref(),
            Self::Workload { namespace, .. }
            | Self::Namespace { namespace, .. }
            | Self::Badge { namespace, .. } => Some(namespace),
        }
    }
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routed {
    /// A known path with GET or HEAD.
    Route(Route),
    /// A browser asks whether it may send a request with an `Authorization` header.
    Preflight,
    /// A known path with another method.
    MethodNotAllowed,
    /// 301 to the canonical path.
    Redirect(String),
    /// No such path.
    NotFound,
    /// A path that is none.
    BadRequest,
}

/// Finds out what a request is about.
#[must_use]
pub fn route(method: &Method, uri: &Uri, is_preflight: bool) -> Routed {
    if uri.path().len() > PATH {
        return Routed::NotFound;
    }
    let Ok(path) = percent_decode_str(uri.path()).decode_utf8() else { return Routed::BadRequest };
    let canonical = canonical(&path);
    if canonical != *path {
        let mut location = utf8_percent_encode(&canonical, ESCAPED).to_string();
        if let Some(query) = uri.query() {
            location.push('?');
            location.push_str(query);
        }
        return Routed::Redirect(location);
    }
    let Some(route) = find(&canonical, uri.query().unwrap_or_default()) else {
        return Routed::NotFound;
    };
    match *method {
        Method::GET | Method::HEAD => Routed::Route(route),
        Method::OPTIONS if is_preflight => Routed::Preflight,
        _ => Routed::MethodNotAllowed,
    }
}

/// The path without empty, `.` and `..` segments, as Go's `path.Clean` makes it; a slash at the end stays.
fn canonical(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    let mut clean = format!("/{}", segments.join("/"));
    if path.ends_with('/') && clean.len() > 1 {
        clean.push('/');
    }
    clean
}

fn find(path: &str, query: &str) -> Option<Route> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let parameter = |name: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    };
    Some(match segments[..] {
        ["healthz" | "health"] => Route::Api,
        ["api", "healthz", namespace, kind, name] if !name.is_empty() && !namespace.is_empty() => {
            Route::Workload {
                namespace: namespace.to_owned(),
                kind: Kind::find(kind)?,
                name: name.to_owned(),
            }
        }
        ["api", "healthz", namespace] if !namespace.is_empty() => Route::Namespace {
            namespace: namespace.to_owned(),
            selector: parameter("selector").filter(|selector| !selector.trim().is_empty()),
        },
        ["api", "feed"] => {
            Route::Feed { namespace: parameter("namespace").filter(|name| !name.is_empty()) }
        }
        ["badge", namespace, kind, file] if !namespace.is_empty() => Route::Badge {
            namespace: namespace.to_owned(),
            kind: Kind::find(kind)?,
            name: file.strip_suffix(".svg").filter(|name| !name.is_empty())?.to_owned(),
        },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: &str, target: &str) -> Routed {
        route(&method.parse().unwrap(), &target.parse().unwrap(), method == "OPTIONS")
    }

    fn deployment(namespace: &str, name: &str) -> Routed {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Routed::Route(Route::Workload { namespace, kind: Kind::Deployment, name })
    }

    #[test]
    fn the_table_of_the_reference() {
        for (method, target, expected) in [
            ("GET", "/healthz", Routed::Route(Route::Api)),
            ("HEAD", "/health", Routed::Route(Route::Api)),
            ("GET", "/api/healthz/ns/deployment/web", deployment("ns", "web")),
            ("HEAD", "/api/healthz/ns/deployment/web?token=x", deployment("ns", "web")),
            ("GET", "/api/healthz/ns/deployment/a%20b", deployment("ns", "a b")),
            ("GET", "/api/healthz/a%2Fb/deployment/web", Routed::NotFound),
            ("POST", "/api/healthz/ns/deployment/web", Routed::MethodNotAllowed),
            ("DELETE", "/healthz", Routed::MethodNotAllowed),
            ("OPTIONS", "/api/healthz/ns/deployment/web", Routed::Preflight),
            ("POST", "/nowhere", Routed::NotFound),
            ("GET", "/", Routed::NotFound),
            ("GET", "/healthz/", Routed::NotFound),
            ("GET", "/api/healthz/ns/deployment/web/", Routed::NotFound),
            ("GET", "/api/healthz/ns/deployment/web/more", Routed::NotFound),
            ("GET", "/api/healthz/ns/job/web", Routed::NotFound),
            ("GET", "//healthz", Routed::Redirect("/healthz".into())),
            ("POST", "/api/../healthz?a=%20b", Routed::Redirect("/healthz?a=%20b".into())),
            (
                "GET",
                "/api/healthz//deployment/web",
                Routed::Redirect("/api/healthz/deployment/web".into()),
            ),
            ("GET", "/./a%20b", Routed::Redirect("/a%20b".into())),
            ("GET", "/%ff", Routed::BadRequest),
        ] {
            assert_eq!(routed(method, target), expected, "{method} {target}");
        }
    }

    #[test]
    fn what_is_beyond_the_reference() {
        let namespace = |selector: Option<&str>| {
            Routed::Route(Route::Namespace {
                namespace: "ns".into(),
                selector: selector.map(str::to_owned),
            })
        };
        for (target, expected) in [
            ("/api/healthz/ns", namespace(None)),
            ("/api/healthz/ns?selector=app%3Dweb%2Ctier", namespace(Some("app=web,tier"))),
            ("/api/healthz/ns?selector=", namespace(None)),
            ("/api/feed", Routed::Route(Route::Feed { namespace: None })),
            ("/api/feed?namespace=ns", Routed::Route(Route::Feed { namespace: Some("ns".into()) })),
            (
                "/badge/ns/daemonset/web.svg",
                Routed::Route(Route::Badge {
                    namespace: "ns".into(),
                    kind: Kind::DaemonSet,
                    name: "web".into(),
                }),
            ),
            ("/badge/ns/deployment/web.png", Routed::NotFound),
            ("/badge/ns/deployment/.svg", Routed::NotFound),
        ] {
            assert_eq!(routed("GET", target), expected, "{target}");
        }
        assert_eq!(routed("GET", &format!("/{}", "x".repeat(600))), Routed::NotFound);
    }
}
