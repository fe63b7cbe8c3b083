//! What an answer of `/health` says.

use std::ops::Deref;

pub use tocsin_api::health::CheckResult;
use tocsin_api::health::HealthResponse;

use crate::http::Response;

/// A whole answer, whose form has been checked.
#[derive(Clone, Debug)]
pub struct Health {
    /// 200 or 503.
    pub status: u16,
    response: HealthResponse,
}

impl Health {
    /// Reads an answer; every rule of the form that a wrong answer could break is asserted here, so that each test
    /// checks it on the way.
    pub fn read(http: &Response) -> Self {
        let response: HealthResponse = http.read();
        let ready = response.checks.iter().all(|check| check.passed);
        assert_eq!(response.is_ready(), ready, "{}", http.body);
        assert_eq!(http.status, if ready { 200 } else { 503 }, "{}", http.body);
        assert_eq!(http.header("content-type"), Some("application/json"));
        for check in &response.checks {
            let reason = check.reason.as_deref();
            assert_eq!(reason.is_some(), !check.passed, "a reason on failure alone: {}", http.body);
            assert_ne!(reason, Some(""), "{}", http.body);
        }
        Self { status: http.status, response }
    }

    /// A check by name.
    pub fn check(&self, name: &str) -> Option<&CheckResult> {
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

    /// Why a check that passed is worth less than it looks.
    pub fn degraded(&self, name: &str) -> Option<&str> {
        self.check(name).filter(|check| check.passed).and_then(|check| check.degraded.as_deref())
    }
}

impl Deref for Health {
    type Target = HealthResponse;

    fn deref(&self) -> &HealthResponse {
        &self.response
    }
}
