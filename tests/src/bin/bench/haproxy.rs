//! The time from a fault to `HAProxy`'s log line that the server is down, with the files of `deploy/lb`.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use e2e::agent::{TIMEOUT, run_cli};
use e2e::haproxy::{self, Haproxy};
use e2e::pool::{self, AGENT_CHECK_PORT, HEALTH_PORT, HOSTS};
use e2e::sys::monotonic_ns;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

use crate::report::Report;
use crate::scale::Scale;

/// The number of devices. A fault and its end take some 300 ms: none comes near the ten records a second of the kernel
/// programs.
const DEVICES: usize = 4;
/// The part of an interval by which the next fault is later: by the golden ratio, faults meet all parts of an interval.
const STEP: f64 = 0.618_034;

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/lb").join(name);
    fs::read_to_string(&path).expect("read a file of deploy/lb")
}

pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    if !haproxy::is_installed() {
        return;
    }
    let Some(network) = pool::network() else { return };
    let agent_check = shipped("haproxy-agent-check.cfg");
    let patient = "inter 250ms fastinter 100ms fall 2 rise 2";
    let httpchk = shipped("haproxy-httpchk.cfg");
    assert!(httpchk.contains(patient), "the shipped file has other intervals");
    let impatient = httpchk.replace(patient, "inter 100ms fall 1 rise 1");
    network.run(|| {
        let volumes: Vec<_> = (0..DEVICES)
            .map(|number| {
                let name = format!("haproxy-{number}");
                Volume::new(sandbox, &name, Filesystem::Ext4, "errors=continue")
            })
            .collect();
        let (name, address) = HOSTS[0];
        let agent = Agent::start_with(sandbox, |command| {
            command
                .env("LISTEN_ADDR", address)
                .env("LISTEN_PORT", HEALTH_PORT.to_string())
                .env("AGENT_CHECK_PORT", AGENT_CHECK_PORT.to_string());
        });
        let mut measure = |what: &str, configuration: &str, interval: Duration, budgets| {
            let Some(haproxy) = Haproxy::start(sandbox, configuration) else { return };
            haproxy.wait_for(("nodes", name), "up", |server| server.status() == "UP");
            let rounds = volumes.iter().cycle().take(scale.haproxy_faults);
            let mut pause = Duration::ZERO;
            let (mut down, mut up) = (Vec::new(), Vec::new());
            for volume in rounds {
                pause += interval.mul_f64(STEP);
                pause = pause.checked_sub(interval).unwrap_or(pause);
                thread::sleep(pause);
                let times = once(sandbox, &agent, &haproxy, volume);
                down.push(times.0);
                up.push(times.1);
            }
            report.times(&format!("fault to DOWN, {what}"), &mut down, budgets);
            report.times(&format!("cleared to UP, {what}"), &mut up, None);
        };
        let quick = Duration::from_millis(100);
        measure("agent-check every 100 ms", &agent_check, quick, Some([100.0, 150.0]));
        measure("httpchk every 100 ms, fall 1", &impatient, quick, Some([150.0, 250.0]));
        measure("httpchk as shipped", &httpchk, Duration::from_millis(250), None);
    });
}

fn once(
    sandbox: &Sandbox,
    agent: &Agent,
    haproxy: &Haproxy,
    volume: &Volume,
) -> (Duration, Duration) {
    let errors = inject::ext4_errors(volume.device());
    let broke = monotonic_ns();
    inject::ext4_error(volume.device());
    let down = haproxy.wait_line(broke, &["Server nodes/node-1 is DOWN"]).at_ns;
    // ext4 counts the error a little later than it reports it: a fault cleared before that would open again.
    agent.wait_for("ext4's own count", TIMEOUT, |_| {
        (inject::ext4_errors(volume.device()) > errors).then_some(())
    });
    let number = volume.device().number();
    let faults = agent.faults();
    let fault = faults.iter().find(|fault| fault.device == number);
    let id = fault.map(|fault| &*fault.id);
    let Some(id) = id else { agent.fail(&format!("no fault on {number}")) };
    let clearing = monotonic_ns();
    let cleared = run_cli(sandbox, &["faults", "clear", id]);
    assert!(cleared.status.success(), "{cleared:?}");
    let up = haproxy.wait_line(clearing, &["Server nodes/node-1 is UP"]).at_ns;
    (Duration::from_nanos(down - broke), Duration::from_nanos(up - clearing))
}
