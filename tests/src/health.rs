//! What an answer of `/health` says.

use serde_json::Value;

use crate::http::Answer;

/// One check's part of an answer.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// Why not; only a failed check has one.
    pub reason: Option<String>,
    /// Why it passed without being sure.
    pub degraded: Option<String>,
}

/// A whole answer, with the invariants of its form checked.
#[derive(Clone, Debug)]
pub struct Health {
    /// 200 or 503.
    pub status: u16,
    /// In the order asked for.
    pub checks: Vec<Check>,
}

impl Health {
    /// Reads an answer; every rule of the form that a wrong answer could break is asserted here, so that
    /// each test checks it on the way.
    pub fn read(answer: &Answer) -> Self {
        let body = &answer.body;
        let json = answer.json();
        let checks: Vec<Check> = json["checks"]
            .as_array()
            .unwrap_or_else(|| panic!("no checks in {body}"))
            .iter()
            .map(|check| Check::read(check, body))
            .collect();
        assert!(json["total_duration_ms"].is_u64(), "no total_duration_ms in {body}");
        let ready = checks.iter().all(|check| check.passed);
        let (status, word) = if ready { (200, "ready") } else { (503, "not-ready") };
        assert_eq!((answer.status, json["status"].as_str()), (status, Some(word)), "{body}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        Self { status, checks }
    }

    /// A check by name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The reason of a check that failed.
    pub fn failure(&self, name: &str) -> Option<&str> {
        self.check(name).filter(|check| !check.passed).and_then(|check| check.reason.as_deref())
    }

    /// Whether a check is there and passed.
    pub fn passed(&self, name: &str) -> bool {
        self.check(name).is_some_and(|check| check.passed)
    }
}

impl Check {
    fn read(json: &Value, body: &str) -> Self {
        let text = |key: &str| json.get(key).map(|value| value.as_str().expect(key).to_owned());
        let passed = json["passed"].as_bool().unwrap_or_else(|| panic!("no passed in {body}"));
        assert!(json["duration_ms"].is_u64(), "no duration_ms in {body}");
        let check = Self {
            name: text("name").unwrap_or_else(|| panic!("a check without a name in {body}")),
            passed,
            reason: text("reason"),
            degraded: text("degraded"),
        };
        assert_eq!(check.reason.is_some(), !passed, "a reason on failure, and only then: {body}");
        check
    }
}
