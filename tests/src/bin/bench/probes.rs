//! The cost of sampling every check of the registry once a second.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use e2e::containerd::Containerd;
use e2e::{Agent, ControlPlane, Filesystem, Sandbox, Volume};

use crate::idle::cpu_time;
use crate::report::Report;
use crate::scale::Scale;

/// Every check of the registry.
const ALL: &str = "node_ready,schedulable,custom_conditions,filesystem_ro,io_errors,io_stall,\
    okd_router_1936,kubelet,container_runtime,disk_pressure,network";

/// A server that stands for the router and the kubelet. As those do, it leaves it to the client to close a connection.
fn healthy() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut request = [0; 1024];
                while stream.read(&mut request).is_ok_and(|length| length > 0) {
                    let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                }
            });
        }
    });
    address
}

/// Measures the CPU time of an agent whose default set is every check.
pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _volume = Volume::new(sandbox, "probes", Filesystem::Ext4, "");
    // Without a runtime, the check would only look for sockets, which costs less.
    let Some(containerd) = Containerd::start(sandbox) else { return };
    containerd.add_network();
    let (node, address) = (cluster.node("bench-probes"), healthy());
    let agent = Agent::start_with(sandbox, |command| {
        command
            .env("KUBECONFIG", cluster.kubeconfig("admin"))
            .env("NODE_NAME", node.name())
            .env("ROUTER_URL", format!("http://{address}/healthz/ready"))
            .env("KUBELET_URL", format!("http://{address}/healthz"))
            .env("CRI_SOCKET", containerd.socket())
            .env("DEFAULT_CHECKS", ALL)
            .env_remove("IO_ERROR_WINDOW")
            .env_remove("IO_STALL_AFTER");
    });
    thread::sleep(Duration::from_secs(3));
    let health = agent.health("");
    let failing: Vec<_> = health.checks.iter().filter(|check| !check.passed).collect();
    for check in failing {
        let why = check.reason.clone().unwrap_or_default();
        report.note(&format!("every check, of these fails: {}", check.name), &why);
    }
    let (cpu, began) = (cpu_time(&agent), Instant::now());
    thread::sleep(Duration::from_secs(scale.idle_seconds));
    let share = cpu_time(&agent).saturating_sub(cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let what = format!("every check once a second, CPU over {} s", scale.idle_seconds);
    report.below(&what, share * 100.0, 0.2, "% of a core");
    let threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).map_or(0, Iterator::count);
    report.note("every check, threads", &threads.to_string());
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let resident = agent.resident_kib() as f64 / 1024.0;
    report.below("every check, resident", resident, 16.0, "MiB");
}
