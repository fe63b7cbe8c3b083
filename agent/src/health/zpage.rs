//! A health response as text, in the form of the z-pages of Kubernetes (`/readyz?verbose`): pure.

use tocsin_api::health::HealthResponse;

/// The text: one line a check, and one for the verdict.
#[must_use]
pub fn zpage(response: &HealthResponse) -> String {
    let mut text = String::new();
    for check in &response.checks {
        let line = match (&check.reason, &check.degraded) {
            (Some(reason), _) => format!("[-]{} failed: {reason}\n", check.name),
            (None, Some(why)) => format!("[+]{} ok (degraded: {why})\n", check.name),
            (None, None) => format!("[+]{} ok\n", check.name),
        };
        text.push_str(&line);
    }
    text.push_str(if response.is_ready() {
        "health check passed\n"
    } else {
        "health check failed\n"
    });
    text
}

#[cfg(test)]
mod tests {
    use tocsin_api::health::CheckResult;

    use super::*;

    #[test]
    fn one_line_a_check_and_one_for_the_verdict() {
        let check = |name: &str, reason: Option<&str>, degraded: Option<&str>| CheckResult {
            name: name.into(),
            passed: reason.is_none(),
            reason: reason.map(str::to_owned),
            degraded: degraded.map(str::to_owned),
            duration_ms: 0,
        };
        let (bad, good) = (check("io_stall", Some("loop3"), None), check("io_errors", None, None));
        let degraded = check("node_ready", None, Some("no cluster is configured"));
        assert_eq!(
            zpage(&HealthResponse::new(vec![bad, good.clone(), degraded])),
            "[-]io_stall failed: loop3\n[+]io_errors ok\n\
             [+]node_ready ok (degraded: no cluster is configured)\nhealth check failed\n"
        );
        assert_eq!(
            zpage(&HealthResponse::new(vec![good])),
            "[+]io_errors ok\nhealth check passed\n"
        );
    }
}
