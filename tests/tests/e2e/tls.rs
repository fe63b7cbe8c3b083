//! TLS on the health listener: `TLS_CERT` and `TLS_KEY`.

use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::sandbox::say;
use e2e::{Agent, Sandbox, require, tool};

/// How long a renewed certificate may take: the agent looks at the files every 10 s.
const RELOADED: Duration = Duration::from_secs(40);

/// A self-signed certificate and its key.
struct Certificate {
    cert: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn make(sandbox: &Sandbox, name: &str) -> Self {
        let (cert, key) = tool::self_signed_certificate(&sandbox.path(name));
        Self { cert, key }
    }
}

#[test]
fn tls_is_spoken_beside_plain_text_and_a_renewed_certificate_is_read() {
    let Some(sandbox) = Sandbox::new() else { return };
    if !require(tool::is_installed("openssl"), "openssl makes the certificates") {
        return;
    }
    let (first, second) =
        (Certificate::make(&sandbox, "first"), Certificate::make(&sandbox, "second"));
    let (cert, key) = (sandbox.path("tls.crt"), sandbox.path("tls.key"));
    fs::copy(&first.cert, &cert).unwrap();
    fs::copy(&first.key, &key).unwrap();
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("TLS_CERT", &cert).env("TLS_KEY", &key);
    });
    let to = agent.health_address();
    let secure = |authority: &Certificate, more: &[&str]| {
        let (ca, url) = (authority.cert.to_str().unwrap(), format!("https://{to}/health"));
        let output = Command::new("curl")
            .args(["-sS", "-m", "10", "-i", "--cacert", ca, &url])
            .args(more)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(secure(&first, &["--http1.1"]).starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(secure(&first, &["--http2"]).starts_with("HTTP/2 200 \r\n"));
    assert!(secure(&first, &["--http1.0"]).contains(" 200 OK\r\n"));
    assert!(secure(&first, &["--tlsv1.2", "--tls-max", "1.2"]).contains(" 200"));
    assert_eq!(secure(&second, &[]), "");
    assert_eq!(agent.health("").status, 200, "plain text is still answered");

    // A certificate without its key is not used.
    fs::copy(&second.cert, &cert).unwrap();
    agent.wait_for("the pair that does not fit is counted", RELOADED, |agent| {
        (agent.counter("tocsin_tls_reload_failures_total") > 0).then_some(())
    });
    assert!(secure(&first, &[]).contains(" 200"));
    fs::copy(&second.key, &key).unwrap();
    agent.wait_for("the new certificate", RELOADED, |_| {
        secure(&second, &[]).contains(" 200").then_some(())
    });
    assert_eq!(secure(&first, &[]), "");
}

#[test]
fn tls_that_cannot_work_is_an_error_at_the_start() {
    let Some(sandbox) = Sandbox::new() else { return };
    if !require(tool::is_installed("openssl"), "openssl makes the certificates") {
        return;
    }
    let (one, other) = (Certificate::make(&sandbox, "one"), Certificate::make(&sandbox, "other"));
    let nonsense = sandbox.path("nonsense");
    fs::write(&nonsense, "nonsense").unwrap();
    let missing = sandbox.path("missing");
    for (cert, key, code, words) in [
        (Some(&one.cert), None, 2, "TLS_CERT needs TLS_KEY"),
        (None, Some(&one.key), 2, "TLS_KEY needs TLS_CERT"),
        (Some(&one.cert), Some(&missing), 1, "missing"),
        (Some(&one.cert), Some(&nonsense), 1, "not a private key"),
        (Some(&nonsense), Some(&one.key), 1, "no certificate in it"),
        (Some(&one.cert), Some(&other.key), 1, "other.key"),
    ] {
        let ended = Agent::refuses_to_start(&sandbox, |command| {
            command.envs(cert.map(|path| ("TLS_CERT", path)));
            command.envs(key.map(|path| ("TLS_KEY", path)));
        });
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(ended.log.iter().any(|line| line.contains(words)), "{words}: {ended:?}");
        let secret = fs::read_to_string(&one.key).unwrap();
        let secret = secret.lines().nth(1).unwrap();
        assert!(ended.log.iter().all(|line| !line.contains(secret)), "the key is in the log");
    }
}

/// Nanoseconds that the agent's threads whose name begins with `name` have run.
fn processor_time(agent: &Agent, name: &str) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap();
    let tasks = tasks.map(|task| task.unwrap().path());
    let named = tasks.filter(|task| {
        fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.starts_with(name))
    });
    let ran = named.map(|task| fs::read_to_string(task.join("schedstat")).unwrap());
    ran.map(|ran| ran.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn handshakes_run_on_a_thread_of_their_own() {
    let Some(sandbox) = Sandbox::new() else { return };
    if !require(tool::is_installed("openssl"), "openssl makes the certificates") {
        return;
    }
    let certificate = Certificate::make(&sandbox, "one");
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("TLS_CERT", &certificate.cert).env("TLS_KEY", &certificate.key);
    });
    let to = agent.health_address().to_string();
    let names = ["tocsin-health", "tocsin-tls"];
    let before = names.map(|name| processor_time(&agent, name));
    // As many new sessions as four clients can open in a second.
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Command::new("openssl");
            client.args(["s_time", "-new", "-time", "1", "-connect", &to]);
            client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut client in clients {
        assert_eq!(agent.health("").status, 200);
        assert!(client.wait().unwrap().success());
    }
    let after = names.map(|name| processor_time(&agent, name));
    let [health, tls] = [0, 1].map(|at| after[at] - before[at]);
    say(&format!("MEASURED {}: ns on a processor: health {health}, TLS {tls}", sandbox.name()));
    assert!(tls > 2 * health, "{tls} and {health}");
}

#[test]
fn a_stop_ends_idle_connections_with_tls() {
    let Some(sandbox) = Sandbox::new() else { return };
    if !require(tool::is_installed("openssl"), "openssl makes the certificates") {
        return;
    }
    let certificate = Certificate::make(&sandbox, "one");
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("TLS_CERT", &certificate.cert).env("TLS_KEY", &certificate.key);
    });
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &agent.health_address().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut requests, mut responses) =
        (client.stdin.take().unwrap(), client.stdout.take().unwrap());
    requests.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\nok") {
        let mut byte = [0];
        assert_eq!(responses.read(&mut byte).unwrap(), 1);
        response.extend(byte);
    }
    assert_eq!(agent.terminate().code(), Some(0));
    assert_eq!(responses.read(&mut [0; 64]).unwrap(), 0);
    client.wait().unwrap();
}
