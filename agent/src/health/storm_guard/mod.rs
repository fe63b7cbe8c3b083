//! The storm guard: a check that fails on many nodes at once does not take all of them out of the load balancer.
//!
//! [`count`] counts what the agents say of their checks, before any guard; [`judge`] decides; [`task`] says it, asks
//! and listens. So a
//! check that passes only thanks to the guard still counts as failing, and the guard cannot switch itself off.

pub mod count;
pub mod exempt;
pub mod judge;
pub mod settings;
pub mod task;

pub use self::{
    count::Failing,
    judge::{GuardView, Storm},
};
use crate::checks::{Check, CheckContext};
use tocsin_api::health::CheckResult;

/// The result after the guard: a failure that it holds up passes, and says so.
pub(super) fn apply(
    result: CheckResult,
    check: &Check,
    context: &CheckContext,
    guard: &GuardView,
) -> CheckResult {
    let reason = result.reason.as_deref().filter(|_| !result.passed);
    let held = reason.and_then(|reason| guard.holds(check.name, reason));
    match held {
        Some(why) if !exempt::is_exempt(check, &context.kernel, &context.policy) => {
            CheckResult { passed: true, reason: None, degraded: Some(why), ..result }
        }
        _ => result,
    }
}
