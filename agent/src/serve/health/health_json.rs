//! The body of `/health` as `application/health+json` (draft-inadarei-api-health-check-06). Pure.

use serde_json::{Map, Value, json};
use tocsin_api::health::{CheckResult, HealthResponse};

use crate::{
    checks::Policy,
    model::{Fault, FaultView},
};

/// The media type.
pub const MEDIA_TYPE: &str = "application/health+json";

/// The document for an answer: one entry per check, and in it one component per device with a fault of that check.
#[must_use]
pub fn document(answer: &HealthResponse, faults: &FaultView, policy: &Policy) -> Value {
    let host = policy.node_name.as_deref().unwrap_or("host");
    let checks: Map<_, _> =
        answer.checks.iter().flat_map(|check| components(check, faults, policy, host)).collect();
    let is_degraded = answer.checks.iter().any(|check| check.degraded.is_some());
    let status = match (answer.is_ready(), is_degraded) {
        (false, _) => "fail",
        (true, true) => "warn",
        (true, false) => "pass",
    };
    let mut document = json!({
        "status": status,
        "version": "1",
        "releaseId": env!("CARGO_PKG_VERSION"),
        "serviceId": host,
        "description": format!("whether {host} should get traffic"),
        "checks": checks,
    });
    if let Some(summary) = answer.summary() {
        document["output"] = summary.into();
    }
    document
}

/// The entries of one check: its faults as `<check>:errors`, and the check itself as `<check>:responseTime` where the
/// faults do not say it all.
fn components(
    check: &CheckResult,
    view: &FaultView,
    policy: &Policy,
    host: &str,
) -> impl Iterator<Item = (String, Value)> {
    let faults = view.faults.iter().filter(|fault| fault.check == check.name);
    let faults: Vec<_> = faults.map(|fault| device(fault, policy.counts(fault.scope))).collect();
    let are_all = !faults.is_empty() && check.degraded.is_none();
    let errors = (!faults.is_empty()).then(|| (format!("{}:errors", check.name), faults.into()));
    let itself = (!are_all).then(|| itself(check, host));
    errors.into_iter().chain(itself)
}

fn itself(check: &CheckResult, host: &str) -> (String, Value) {
    let (status, output) = match (&check.reason, &check.degraded) {
        (Some(reason), _) => ("fail", Some(reason)),
        (None, Some(why)) => ("warn", Some(why)),
        (None, None) => ("pass", None),
    };
    let mut component = json!({
        "componentId": host,
        "componentType": "system",
        "status": status,
        "observedValue": check.duration_ms,
        "observedUnit": "ms",
    });
    if let Some(output) = output {
        component["output"] = output.as_str().into();
    }
    (format!("{}:responseTime", check.name), Value::Array(vec![component]))
}

/// The component of one fault: `fail` where the fault fails its check, `warn` where it is only shown.
fn device(fault: &Fault, counts: bool) -> Value {
    json!({
        "componentId": fault.device.to_string(),
        "componentType": "datastore",
        "status": if counts { "fail" } else { "warn" },
        "observedValue": fault.count,
        "observedUnit": "errors",
        "time": humantime::format_rfc3339_millis(fault.last).to_string(),
        "output": fault.reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::tests::fault,
        model::{FaultKind, Scope},
    };

    fn check(name: &str, reason: Option<&str>, degraded: Option<&str>) -> CheckResult {
        CheckResult {
            name: name.into(),
            passed: reason.is_none(),
            reason: reason.map(str::to_owned),
            degraded: degraded.map(str::to_owned),
            duration_ms: 3,
        }
    }

    #[test]
    fn status_and_output_follow_the_draft() {
        // (checks, status, output)
        for (checks, status, output) in [
            (vec![check("kubelet", None, None)], "pass", None),
            (vec![check("kubelet", None, Some("old"))], "warn", Some("degraded: kubelet: old")),
            (
                vec![check("kubelet", Some("no"), None), check("network", None, Some("x"))],
                "fail",
                Some("kubelet: no"),
            ),
        ] {
            let answer = HealthResponse::new(checks);
            let policy = Policy { node_name: Some("n".into()), ..Policy::default() };
            let found = document(&answer, &FaultView::default(), &policy);
            assert_eq!(found["status"], status);
            assert_eq!(found.get("output").and_then(Value::as_str), output);
            assert_eq!(found["serviceId"], "n");
            let kubelet = &found["checks"]["kubelet:responseTime"][0];
            assert_eq!(
                (&kubelet["observedValue"], &kubelet["observedUnit"]),
                (&json!(3), &json!("ms"))
            );
        }
    }

    #[test]
    fn a_fault_is_a_component_with_the_id_of_its_device() {
        let scopes = [Scope::Host, Scope::Volume, Scope::Member];
        let view = FaultView {
            faults: scopes.map(|scope| fault(FaultKind::IoStall, scope)).to_vec(),
            ..FaultView::default()
        };
        for (fail_on_volumes, expected) in
            [(false, ["fail", "warn", "warn"]), (true, ["fail", "fail", "warn"])]
        {
            let answer = HealthResponse::new(vec![check("io_stall", Some("loop3"), None)]);
            let policy = Policy { fail_on_volumes, ..Policy::default() };
            let found = document(&answer, &view, &policy);
            assert_eq!(found["checks"].as_object().map(Map::len), Some(1));
            let components = &found["checks"]["io_stall:errors"];
            let statuses: Vec<_> =
                components.as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
            assert_eq!(statuses, expected);
            assert_eq!(components[0]["componentId"], "7:3");
            assert_eq!(components[0]["time"], "1970-01-01T00:00:00.000Z");
        }
    }

    #[test]
    fn a_fault_that_fails_nothing_hides_nothing() {
        let view = FaultView {
            faults: vec![fault(FaultKind::IoStall, Scope::Volume)],
            ..FaultView::default()
        };
        let answer = HealthResponse::new(vec![check("io_stall", None, Some("no events"))]);
        let found = document(&answer, &view, &Policy::default());
        assert_eq!(found["checks"]["io_stall:errors"][0]["status"], "warn");
        assert_eq!(found["checks"]["io_stall:responseTime"][0]["output"], "no events");
    }
}
