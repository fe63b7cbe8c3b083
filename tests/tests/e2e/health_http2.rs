//! The health listener's HTTP/2 without TLS (h2c), through curl.

use std::process::Command;

use e2e::{Agent, Sandbox};

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").args(["-sS", "-m", "10"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn http_2_without_tls_is_responseed_as_http_1_is() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.health_address();
    let curl = |arguments: &[&str], path: &str| {
        let url = format!("http://{to}{path}");
        curl(&[arguments, &["-i", "--http2-prior-knowledge", &url]].concat())
    };
    let response = curl(&[], "/health?check=io_stall");
    assert!(response.starts_with("HTTP/2 200 \r\n"), "{response}");
    assert!(response.contains("\r\ncache-control: no-store\r\n"), "{response}");
    assert!(response.ends_with(r#""total_duration_ms":0}"#), "{response}");
    let response = curl(&[], "/health?check=bogus");
    assert!(response.starts_with("HTTP/2 503 \r\n"), "{response}");
    assert!(
        response.contains("\r\nx-tocsin-reason: bogus: Unknown check: bogus\r\n"),
        "{response}"
    );
    assert!(curl(&["-I"], "/health").starts_with("HTTP/2 200 \r\n"));
    assert!(curl(&["-X", "POST"], "/health").contains("\r\nallow: GET, HEAD, OPTIONS\r\n"));
    let long = format!("X-Long: {}", "x".repeat(9000));
    assert!(curl(&["-H", &long], "/health").starts_with("HTTP/2 431 \r\n"));
}
