//! nginx, keepalived and Envoy with the files of `deploy/lb`. `HAProxy` has a file of its own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::daemon::Daemon;
use e2e::pool::{HOSTS, Host};
use e2e::sandbox::say;
use e2e::{NetNs, Sandbox, require, tool};

use crate::pool_scenario::{self, FRONTEND, PoolScenario, example_text};

fn is_installed(program: &str) -> bool {
    require(tool::is_installed(program), &format!("{program} is not installed"))
}

/// The disk of one host breaks and is repaired; no client notices.
fn a_broken_host(pool: &PoolScenario<Daemon>) {
    let victim = &pool.hosts[1];
    let slow = pool.slow_requests();
    let at = Instant::now();
    victim.break_disk();
    victim.run(move |host| {
        host.agent().wait_failure(at, "filesystem_ro", &[]);
    });
    // Envoy needs a round of its health checks to notice; nginx notices at the next request.
    thread::sleep(Duration::from_millis(300));
    pool.gets_no_more_requests(victim);
    slow.finish();
    victim.repair_disk();
    pool.clients.wait_served_by(victim.name(), TIMEOUT);
}

/// Starts nginx with the example, in which only the paths that it writes to are changed.
fn nginx(sandbox: &Sandbox) -> Daemon {
    let file = sandbox.path("nginx.conf");
    let text =
        example_text("nginx.conf").replacen("\nhttp {\n", "\nhttp {\n    access_log off;\n", 1);
    assert!(text.contains("access_log off;\n    #"), "the http block of the example has changed");
    fs::write(&file, text).unwrap();
    let pid = sandbox.path("nginx.pid");
    // One process, so that none can be left behind.
    let how = format!("daemon off; master_process off; error_log stderr; pid {};", pid.display());
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).args(["-g", &how]);
    let mut nginx = Daemon::start(command, sandbox.path("nginx.log"));
    nginx.wait_for("listening", TIMEOUT, || TcpStream::connect(SocketAddr::from(FRONTEND)).is_ok());
    nginx
}

#[test]
fn nginx_asks_before_every_request() {
    if !is_installed("nginx") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    pool_scenario::run(
        &sandbox,
        |_| {},
        |_| nginx(&sandbox),
        |pool| {
            a_broken_host(pool);
            // nginx keeps a host whose agent does not answer.
            let host = &pool.hosts[0];
            host.stop_agent();
            pool.clients.wait_served_by(host.name(), TIMEOUT);
            host.start_agent();
        },
    );
}

/// Debian has no package of Envoy: the test runs where the environment's `ENVOY` names the program.
#[test]
fn envoy_takes_out_a_broken_host() {
    let Some(program) = std::env::var_os("ENVOY") else {
        say("SKIP envoy_takes_out_a_broken_host: ENVOY is not set");
        return;
    };
    let Some(sandbox) = Sandbox::new() else { return };
    let start = |_: &[Host; 3]| {
        let file = sandbox.path("envoy.yaml");
        fs::write(&file, example_text("envoy.yaml")).unwrap();
        let mut command = Command::new(&program);
        command.arg("-c").arg(&file).args(["--concurrency", "1", "--log-level", "warning"]);
        command.args(["--use-dynamic-base-id"]);
        let mut envoy = Daemon::start(command, sandbox.path("envoy.log"));
        envoy.wait_for("ready", TIMEOUT, || hosts_in_service() == [3, 3]);
        envoy
    };
    pool_scenario::run(
        &sandbox,
        |_| {},
        start,
        |pool| {
            let seen = thread::scope(|scope| {
                // Envoy's gRPC health check sees the same verdict.
                let lowest = scope.spawn(|| {
                    let mut lowest = [3, 3];
                    let until = Instant::now() + Duration::from_secs(2);
                    while Instant::now() < until {
                        let now = hosts_in_service();
                        lowest = [lowest[0].min(now[0]), lowest[1].min(now[1])];
                        thread::sleep(Duration::from_millis(20));
                    }
                    lowest
                });
                a_broken_host(pool);
                lowest.join().unwrap()
            });
            assert_eq!(seen, [2, 2], "hosts in service, by HTTP and by gRPC");
        },
    );
}

/// The number of healthy hosts in Envoy's clusters `nodes` and `grpc`.
fn hosts_in_service() -> [usize; 2] {
    // Envoy sends chunks, which the tests' own client does not read.
    let output = tool::output("curl", &["-s", "http://127.0.0.1:9901/clusters"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ["nodes::", "grpc::"].map(|cluster| {
        let healthy =
            |line: &&str| line.starts_with(cluster) && line.ends_with("health_flags::healthy");
        text.lines().filter(healthy).count()
    })
}

/// Two hosts with a link between them; keepalived gives the virtual address to one of them.
struct Pair<'a> {
    networks: [&'a NetNs; 2],
    hosts: [Host; 2],
}

/// The virtual address of the example.
const VIRTUAL_ADDRESS: &str = "192.0.2.100/24";

impl Pair<'_> {
    /// The hosts that have the virtual address now: none, one, or for a moment both.
    fn owners(&self) -> Vec<usize> {
        let has = |number: &usize| {
            self.networks
                .get(*number)
                .is_some_and(|net| net.ip("-brief address show dev eth0").contains(VIRTUAL_ADDRESS))
        };
        (0..2).filter(has).collect()
    }

    fn wait_owner(&self, number: usize, why: &str) {
        let began = Instant::now();
        while self.owners() != [number] {
            assert!(began.elapsed() < TIMEOUT, "{why}: {:?} have the address", self.owners());
            thread::sleep(Duration::from_millis(5));
        }
        let took = began.elapsed().as_secs_f64() * 1e3;
        say(&format!("MEASURED keepalived: {why}: at {} after {took:.0} ms", HOSTS[number].0));
    }
}

/// Starts a host's keepalived, on that host's thread.
fn keepalived(sandbox: &Sandbox, host: &Host, number: usize) -> Daemon {
    let own = sandbox.path(host.name());
    let run = sandbox.path(format!("{}.run", host.name()));
    let text =
        example_text("keepalived.conf").replace("/run/tocsin/", &format!("{}/", run.display()));
    let text = if number == 0 { text } else { text.replace("priority 150", "priority 100") };
    let file = own.with_extension("conf");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("keepalived");
    command
        .args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"])
        .arg(&file);
    command.arg("--pid").arg(own.with_extension("pid"));
    command.arg("--vrrp_pid").arg(own.with_extension("vrrp"));
    let log = own.with_extension("log");
    host.run(move |_| Daemon::start(command, log))
}

#[test]
fn keepalived_moves_the_address_away() {
    if !is_installed("keepalived") || !is_installed("curl") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let (Some(a), Some(b)) = (NetNs::new(), NetNs::new()) else { return };
    a.veth("eth0", &b, "eth0");
    thread::scope(|scope| {
        let (networks, sandbox) = ([&a, &b], &sandbox);
        let mut hosts = networks.into_iter().zip(HOSTS).map(|(network, (name, address))| {
            network.ip(&format!("address add {address}/24 dev eth0"));
            // The script of the example asks the loopback.
            let everywhere = |command: &mut Command| {
                command.env("LISTEN_ADDR", "0.0.0.0");
            };
            network.run(|| Host::start(scope, sandbox, (name, address), everywhere))
        });
        let hosts = [hosts.next().unwrap(), hosts.next().unwrap()];
        let _daemons = [0, 1].map(|number| keepalived(sandbox, &hosts[number], number));
        let pair = Pair { networks, hosts };
        pair.wait_owner(0, "both are healthy");
        pair.hosts[0].break_disk();
        pair.wait_owner(1, "the first one's disk is broken");
        pair.hosts[1].break_disk();
        pair.wait_owner(0, "both are broken");
        pair.hosts[1].repair_disk();
        pair.wait_owner(1, "the second one is repaired");
        pair.hosts[0].repair_disk();
        pair.wait_owner(0, "both are repaired");
        // The state file stays while the agent restarts, and the address does not move.
        pair.hosts[0].stop_agent();
        thread::sleep(Duration::from_secs(2));
        assert_eq!(pair.owners(), [0]);
        pair.wait_owner(1, "the first one has no agent for a while");
        pair.hosts[0].start_agent();
        pair.wait_owner(0, "it is back");
    });
}
