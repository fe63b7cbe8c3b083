//! `application/health+json`, as draft-inadarei-api-health-check-06 has it. Pure.

use serde_json::{Map, Value, json};

use crate::{
    health::{Answer, CheckAnswer},
    model::{Fault, FaultView, Scope},
};

/// Its media type.
pub const MEDIA_TYPE: &str = "application/health+json";

/// The document: one entry per check, one component per device that a kernel check has something to say about.
#[must_use]
pub fn document(answer: &Answer, faults: &FaultView, node_name: Option<&str>) -> Value {
    let host = node_name.unwrap_or("host");
    let checks: Map<_, _> =
        answer.checks.iter().map(|check| component(check, faults, host)).collect();
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

/// One check under its name and what of it is observed.
fn component(check: &CheckAnswer, view: &FaultView, host: &str) -> (String, Value) {
    let faults: Vec<_> = view.faults.iter().filter(|fault| fault.check == check.name).collect();
    if !faults.is_empty() {
        let components = faults.into_iter().map(|fault| device(fault, check.passed)).collect();
        return (format!("{}:errors", check.name), Value::Array(components));
    }
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

fn device(fault: &Fault, passed: bool) -> Value {
    // A pod's volume fails nothing unless the operator wants it to.
    let counts = fault.scope == Scope::Host || !passed;
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
    use crate::{checks::tests::fault, model::FaultKind};

    fn check(name: &str, reason: Option<&str>, degraded: Option<&str>) -> CheckAnswer {
        CheckAnswer {
            name: name.into(),
            passed: reason.is_none(),
            reason: reason.map(str::to_owned),
            degraded: degraded.map(str::to_owned),
            duration_ms: 3,
        }
    }

    #[test]
    fn the_draft_s_words() {
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
            let ready = checks.iter().all(|check| check.passed);
            let answer = Answer {
                status: if ready { "ready" } else { "not-ready" },
                checks,
                total_duration_ms: 0,
            };
            let found = document(&answer, &FaultView::default(), Some("n"));
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
    fn a_fault_is_a_component_with_the_device_s_id() {
        let view = FaultView {
            faults: vec![
                fault(FaultKind::IoStall, Scope::Host),
                fault(FaultKind::IoStall, Scope::Volume),
            ],
            ..FaultView::default()
        };
        let answer = Answer {
            status: "not-ready",
            checks: vec![check("io_stall", Some("loop3"), None)],
            total_duration_ms: 0,
        };
        let found = document(&answer, &view, None);
        let components = &found["checks"]["io_stall:errors"];
        assert_eq!(components.as_array().map(Vec::len), Some(2));
        assert_eq!(components[0]["componentId"], "7:3");
        assert_eq!(components[0]["status"], "fail");
        assert_eq!(components[0]["time"], "1970-01-01T00:00:00.000Z");
    }
}
