//! `GET /health` of the agent's health listener.

use serde::{Deserialize, Serialize};

/// The body of `/health`: with status 200 when the node is ready, 503 when it is not.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HealthResponse {
    /// The verdict.
    pub status: Status,
    /// In the order in which they were asked for.
    pub checks: Vec<CheckResult>,
    /// How long the answer waited for the first samples of probes, in milliseconds.
    #[serde(default)]
    pub total_duration_ms: u64,
}

impl HealthResponse {
    /// The response that these checks make: ready if all of them passed.
    #[must_use]
    pub fn new(checks: Vec<CheckResult>) -> Self {
        let ready = checks.iter().all(|check| check.passed);
        let status = if ready { Status::Ready } else { Status::NotReady };
        Self { status, checks, total_duration_ms: 0 }
    }

    /// Whether the node should get traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status == Status::Ready
    }

    /// The failed checks with their reasons, or else the degraded ones, in one line; `None` where there are neither.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        let join = |parts: Vec<String>| (!parts.is_empty()).then(|| parts.join("; "));
        let failed = self.checks.iter().filter(|check| !check.passed);
        let failed = failed.map(|c| format!("{}: {}", c.name, c.reason.as_deref().unwrap_or("?")));
        join(failed.collect()).or_else(|| {
            let degraded = self.checks.iter();
            let degraded = degraded.filter_map(|check| Some((check, check.degraded.as_ref()?)));
            let words = degraded.map(|(check, why)| format!("degraded: {}: {why}", check.name));
            join(words.collect())
        })
    }
}

/// The verdict on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// `ready`: every check passed.
    Ready,
    /// `not-ready`: at least one check failed.
    NotReady,
}

impl Status {
    /// The word in the JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not-ready",
        }
    }
}

/// What one check found. The shape is that of the readiness endpoint which Tocsin replaces, plus `degraded`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct CheckResult {
    /// The check's name, as it was asked for.
    pub name: String,
    /// The verdict.
    pub passed: bool,
    /// Why it failed, in one line; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why its success is worth less than it looks (it passed by policy, or cannot see everything), in one line; absent
    /// otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// How long the last sample of a probe took, in milliseconds; 0 for every check whose state is pushed.
    #[serde(default)]
    pub duration_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_that_of_the_wire() {
        let check = |name: &str, reason: Option<&str>, degraded: Option<&str>| CheckResult {
            name: name.into(),
            passed: reason.is_none(),
            reason: reason.map(Into::into),
            degraded: degraded.map(Into::into),
            duration_ms: 2,
        };
        for (status, check, text) in [
            (
                Status::Ready,
                check("io_stall", None, None),
                r#"{"status":"ready","checks":[{"name":"io_stall","passed":true,"duration_ms":2}],"total_duration_ms":1}"#,
            ),
            (
                Status::NotReady,
                check("io_stall", Some("loop3"), None),
                r#"{"status":"not-ready","checks":[{"name":"io_stall","passed":false,"reason":"loop3","duration_ms":2}],"total_duration_ms":1}"#,
            ),
            (
                Status::Ready,
                check("node_ready", None, Some("no cluster")),
                r#"{"status":"ready","checks":[{"name":"node_ready","passed":true,"degraded":"no cluster","duration_ms":2}],"total_duration_ms":1}"#,
            ),
        ] {
            let response = HealthResponse { status, checks: vec![check], total_duration_ms: 1 };
            assert_eq!(serde_json::to_string(&response).unwrap(), text);
            assert_eq!(serde_json::from_str::<HealthResponse>(text).unwrap(), response);
            assert!(text.contains(&format!("\"{}\"", status.name())));
            assert_eq!(response.is_ready(), status == Status::Ready);
        }
    }

    #[test]
    fn the_summary_names_failed_checks_before_degraded_ones() {
        let check = |name: &str, reason: Option<&str>, degraded: Option<&str>| CheckResult {
            name: name.into(),
            passed: reason.is_none(),
            reason: reason.map(Into::into),
            degraded: degraded.map(Into::into),
            duration_ms: 0,
        };
        let (well, old, bad) =
            (check("a", None, None), check("b", None, Some("old")), check("c", Some("no"), None));
        for (checks, status, expected) in [
            (vec![], Status::Ready, None),
            (vec![well.clone()], Status::Ready, None),
            (vec![well.clone(), old.clone()], Status::Ready, Some("degraded: b: old")),
            (vec![old, bad.clone(), well, bad], Status::NotReady, Some("c: no; c: no")),
        ] {
            let response = HealthResponse::new(checks);
            assert_eq!((response.status, response.summary().as_deref()), (status, expected));
        }
    }

    #[test]
    fn other_versions_are_read() {
        let text =
            r#"{"status":"ready","checks":[{"name":"a","passed":true,"weight":3}],"new":[]}"#;
        let found: HealthResponse = serde_json::from_str(text).unwrap();
        assert_eq!((found.checks[0].name.as_str(), found.checks[0].duration_ms), ("a", 0));
    }
}
