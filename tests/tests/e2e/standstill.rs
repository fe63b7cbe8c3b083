//! The agent's own threads stand still: the verdict says how old it is, fails in the end, and systemd restarts the agent.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::sandbox::say;
use e2e::sys::StoppedThread;
use e2e::{Agent, Sandbox};

/// Half a minute without a look at the host fails its checks.
const TOO_OLD: Duration = Duration::from_secs(30);

/// What the agent tells systemd.
struct Systemd(UnixDatagram);

impl Systemd {
    fn listen(sandbox: &Sandbox) -> Self {
        let socket = UnixDatagram::bind(sandbox.path("notify.sock")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// Every line that came since the last call.
    fn told(&self) -> Vec<String> {
        let next = || {
            let mut message = [0; 256];
            let length = self.0.recv(&mut message).ok()?;
            Some(String::from_utf8_lossy(&message[..length]).into_owned())
        };
        let messages = std::iter::from_fn(next);
        messages.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
    }
}

/// Waits until every kernel check passes and says in `degraded` that nobody looked.
fn wait_degraded(agent: &Agent, timeout: Duration) {
    agent.wait_for("the kernel's checks say that nobody looked", timeout, |agent| {
        let health = agent.health("");
        assert_eq!(health.status, 200, "{health:?}");
        let is_told = |name: &str| {
            let degraded = health.check(name).and_then(|check| check.degraded.clone());
            degraded.is_some_and(|why| why.starts_with("not looked for "))
        };
        ["filesystem_ro", "io_errors", "io_stall"].into_iter().all(is_told).then_some(())
    });
}

fn wait_well(agent: &Agent) {
    agent.wait_for("200, of a moment ago", TIMEOUT, |agent| {
        let health = agent.health("");
        let is_old = |why: &String| why.starts_with("not looked for ");
        let mut degraded = health.checks.iter().filter_map(|check| check.degraded.as_ref());
        (health.status == 200 && !degraded.any(is_old)).then_some(())
    });
}

#[test]
fn a_verdict_that_nobody_renews_is_degraded_and_then_fails() {
    let Some(sandbox) = Sandbox::new() else { return };
    let systemd = Systemd::listen(&sandbox);
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("NOTIFY_SOCKET", sandbox.path("notify.sock")).env("WATCHDOG_USEC", "3000000");
    });
    let mut told = Vec::new();
    agent.wait_for("systemd is told", TIMEOUT, |_| {
        told.extend(systemd.told());
        let has = |text: &str| told.iter().any(|line| line == text);
        (has("READY=1") && has("WATCHDOG=1")).then_some(())
    });
    wait_well(&agent);

    // The thread that reads the mount table and sysfs stands still: the kernel task itself does not.
    let stopped = StoppedThread::new(agent.pid(), "tocsin-sampler").unwrap();
    wait_degraded(&agent, TIMEOUT);
    drop(stopped);
    wait_well(&agent);

    let began = Instant::now();
    let stopped = StoppedThread::new(agent.pid(), "tocsin-kernel").unwrap();
    wait_degraded(&agent, TIMEOUT);
    say(&format!("MEASURED {}: degraded after {:?}", sandbox.name(), began.elapsed()));
    assert!(agent.metric("tocsin_look_age_seconds").unwrap() >= 3.0);
    assert_eq!(agent.get("/livez").status, 200);
    let why = agent.wait_for("503", TOO_OLD + TIMEOUT, |agent| {
        agent.health("").failure("io_errors").map(str::to_owned)
    });
    say(&format!("MEASURED {}: 503 after {:?}: {why}", sandbox.name(), began.elapsed()));
    assert!(why.starts_with("not looked for "), "{why}");
    assert!(began.elapsed() + Duration::from_secs(2) > TOO_OLD, "{:?}", began.elapsed());
    let livez = agent.wait_for("/livez is 503", TIMEOUT, |agent| {
        let livez = agent.get("/livez");
        (livez.status == 503).then_some(livez.body)
    });
    assert!(livez.contains("has stood still for"), "{livez}");
    agent.wait_for_log(&["not well: systemd will restart the agent"]);
    // From here on systemd hears nothing (and a full queue never kept the agent waiting),
    // and would restart the agent 3 s later.
    systemd.told();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(systemd.told().is_empty());

    drop(stopped);
    wait_well(&agent);
    assert_eq!(agent.get("/livez").status, 200);
    agent.wait_for("systemd is told again", TIMEOUT, |_| {
        systemd.told().contains(&"WATCHDOG=1".to_owned()).then_some(())
    });
}
