//! Checks of local HTTP servers: `okd_router_1936`, `kubelet`, and those of `HTTP_PROBES`.

use std::{sync::Arc, time::Duration};

use hyper::{StatusCode, Uri};

use super::{
    Check, CheckSource, OnUnknown, http_client::get, http_response::HttpResponse, runner::Probe,
};
use crate::{checks::settings, model::Outcome};

/// The health URL of `OpenShift`'s router on its metrics port, as in the readiness endpoint that Tocsin replaces.
pub const ROUTER_URL: &str = "http://127.0.0.1:1936/healthz/ready";
/// 5 seconds for the router, as in that readiness endpoint.
pub const ROUTER_TIMEOUT: Duration = Duration::from_secs(5);
/// The health URL of the kubelet by its own defaults (`--healthz-bind-address`, `--healthz-port`).
pub const KUBELET_URL: &str = "http://127.0.0.1:10248/healthz";
/// 1 second for the kubelet, which only has to say `ok`.
pub const KUBELET_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) const ROUTER: Check = Check {
    name: "okd_router_1936",
    passes_when: "`ROUTER_URL` answers 2xx within 5 s",
    on_unknown: OnUnknown::Fail,
    source: CheckSource::Probe,
};

pub(super) const KUBELET: Check = Check {
    name: "kubelet",
    passes_when: "`KUBELET_URL` answers 200 and `ok` within 1 s",
    on_unknown: OnUnknown::Fail,
    source: CheckSource::Probe,
};

/// The response with which a check passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expects {
    /// Any status 2xx, with any body.
    Success,
    /// Status 200 and this body, apart from white space around it.
    Body(&'static str),
}

/// The URL of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(Uri);

/// A value that cannot be used for a probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpProbeError {
    /// The text is no `http://` URL.
    #[error("{0:?} is not an http:// URL")]
    Url(String),
    /// The entry is not `name=url`.
    #[error("{0:?} is not name=url")]
    Pair(String),
    /// The name has other characters than a check may have, or too many.
    #[error("{0:?} is not a name: at most 63 of a-z, 0-9, - and _")]
    Name(String),
    /// The name is that of another check.
    #[error("{0:?} is the name of a check already")]
    Taken(String),
}

impl std::str::FromStr for Url {
    type Err = HttpProbeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Option<Uri> = text.trim().parse().ok();
        uri.filter(|uri| {
            uri.scheme_str() == Some("http") && uri.host().is_some_and(|host| !host.is_empty())
        })
        .map(Self)
        .ok_or_else(|| HttpProbeError::Url(text.to_owned()))
    }
}

/// Parses the operator's own checks, `name=url` with commas. `is_taken` says which names cannot be used.
pub fn own(
    text: &str,
    is_taken: impl Fn(&str) -> bool,
) -> Result<Vec<(&'static Check, Url)>, HttpProbeError> {
    let mut checks: Vec<(&'static Check, Url)> = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (name, url) =
            pair.split_once('=').ok_or_else(|| HttpProbeError::Pair(pair.to_owned()))?;
        let (name, url) = (name.trim(), url.parse()?);
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        if name.is_empty() || name.len() > settings::NAME_BYTES || !name.chars().all(is_name) {
            return Err(HttpProbeError::Name(name.to_owned()));
        }
        if is_taken(name) || checks.iter().any(|(check, _)| check.name == name) {
            return Err(HttpProbeError::Taken(name.to_owned()));
        }
        // Leaked once, at the start: the check is in use for as long as the process lives.
        let check = Box::leak(Box::new(Check {
            name: Box::leak(name.to_owned().into_boxed_str()),
            passes_when: "its URL of `HTTP_PROBES` answers 2xx within 5 s",
            on_unknown: OnUnknown::Fail,
            source: CheckSource::Probe,
        }));
        checks.push((check, url));
    }
    Ok(checks)
}

/// The probe of the router.
#[must_use]
pub fn router(url: &Url) -> Probe {
    probe(ROUTER.name, url, Expects::Success, ROUTER_TIMEOUT)
}

/// The probe of the kubelet.
#[must_use]
pub fn kubelet(url: &Url) -> Probe {
    probe(KUBELET.name, url, Expects::Body("ok"), KUBELET_TIMEOUT)
}

/// The probe of one of the operator's own checks.
#[must_use]
pub fn other(name: &'static str, url: &Url) -> Probe {
    probe(name, url, Expects::Success, ROUTER_TIMEOUT)
}

fn probe(name: &'static str, url: &Url, expects: Expects, timeout: Duration) -> Probe {
    let url = Arc::new(url.0.clone());
    let sample = move || -> super::runner::SampleFuture {
        let url = url.clone();
        Box::pin(async move {
            // A new connection for each sample: a server that accepts no connection any more is broken.
            let request = get(&url, matches!(expects, Expects::Body(_)));
            match tokio::time::timeout(timeout, request).await {
                Ok(Ok(response)) => judge(&url, expects, &response),
                Ok(Err(why)) => Outcome::Fail(format!("GET {url}: {why}")),
                Err(_) => {
                    Outcome::Fail(format!("GET {url}: no answer within {} s", timeout.as_secs()))
                }
            }
        })
    };
    // Longer than the request takes, whose own reason names the URL.
    Probe { name, timeout: timeout + Duration::from_secs(1), sample: Box::new(sample) }
}

fn judge(url: &Uri, expects: Expects, response: &HttpResponse) -> Outcome {
    let status = response.status;
    let is_expected = match expects {
        Expects::Success => status.is_success(),
        Expects::Body(_) => status == StatusCode::OK,
    };
    if !is_expected {
        return Outcome::Fail(format!("GET {url}: {status}"));
    }
    match expects {
        Expects::Body(expected) if response.body.trim_ascii() != expected.as_bytes() => {
            let text = String::from_utf8_lossy(&response.body);
            let shown: String = text.chars().filter(|c| !c.is_control()).take(60).collect();
            Outcome::Fail(format!("GET {url}: 200, but {shown:?} instead of {expected:?}"))
        }
        _ => Outcome::Pass,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_names_are_checked() {
        let names = |text: &str| {
            own(text, |name| name == "kubelet")
                .map(|checks| checks.iter().map(|(check, _)| check.name).collect::<Vec<_>>())
        };
        assert_eq!(names(" , ").unwrap(), [""; 0]);
        assert_eq!(names("a=http://h/, b-2_c=http://[::1]:8080").unwrap(), ["a", "b-2_c"]);
        for (text, error) in [
            ("a", "\"a\" is not name=url"),
            ("a=https://h/", "\"https://h/\" is not an http:// URL"),
            ("a=h:80", "\"h:80\" is not an http:// URL"),
            ("a=", "\"\" is not an http:// URL"),
            ("A=http://h", "\"A\" is not a name: at most 63 of a-z, 0-9, - and _"),
            ("kubelet=http://h", "\"kubelet\" is the name of a check already"),
            ("a=http://h,a=http://i", "\"a\" is the name of a check already"),
        ] {
            assert_eq!(names(text).unwrap_err().to_string(), error);
        }
        for default in [ROUTER_URL, KUBELET_URL] {
            default.parse::<Url>().unwrap();
        }
    }

    #[test]
    fn responses_are_judged_by_status_and_body() {
        let url: Uri = "http://h/".parse().unwrap();
        for (expects, status, body, expected) in [
            (Expects::Success, 200, "", None),
            (Expects::Success, 204, "", None),
            (Expects::Success, 299, "", None),
            (Expects::Success, 301, "", Some("GET http://h/: 301 Moved Permanently")),
            (Expects::Success, 404, "", Some("GET http://h/: 404 Not Found")),
            (Expects::Success, 500, "", Some("GET http://h/: 500 Internal Server Error")),
            (Expects::Body("ok"), 200, "ok", None),
            (Expects::Body("ok"), 200, "ok\n", None),
            (Expects::Body("ok"), 204, "ok", Some("GET http://h/: 204 No Content")),
            (
                Expects::Body("ok"),
                200,
                "no\n",
                Some("GET http://h/: 200, but \"no\" instead of \"ok\""),
            ),
        ] {
            let response =
                HttpResponse { status: StatusCode::from_u16(status).unwrap(), body: body.into() };
            let expected = expected.map_or(Outcome::Pass, |why| Outcome::Fail(why.to_owned()));
            assert_eq!(judge(&url, expects, &response), expected);
        }
    }
}
