//! nginx, keepalived and Envoy with the files of `deploy/lb`; `HAProxy` has a module of its own.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
use e2e::daemon::Daemon;
use e2e::pool::{HOSTS, Host};
use e2e::sandbox::say;
use e2e::{NetNs, Sandbox, require, tool};

use crate::shop::{FRONT, Shop, shop, text};

fn is_here(program: &str) -> bool {
    require(tool::is_installed(program), &format!("{program} is not installed"))
}

/// A disk breaks on one of three hosts, and is repaired; nobody notices.
fn a_broken_host(shop: &Shop<Daemon>) {
    let victim = &shop.hosts[1];
    let slow = shop.slow_requests();
    let at = Instant::now();
    victim.break_disk();
    victim.run(move |machine| {
        machine.agent().wait_failure(at, "filesystem_ro", &[]);
    });
    // As long as a round of Envoy's questions takes; nginx needs none of it.
    thread::sleep(Duration::from_millis(300));
    shop.serves_no_more(victim);
    slow.finished();
    victim.repair_disk();
    shop.customers.wait_served_by(victim.name(), PATIENCE);
}

/// The file in the sandbox, with nothing changed but what it would write to the machine.
fn nginx(sandbox: &Sandbox) -> Daemon {
    let file = sandbox.path("nginx.conf");
    let text = text("nginx.conf").replacen("\nhttp {\n", "\nhttp {\n    access_log off;\n", 1);
    assert!(text.contains("access_log off;\n    #"), "no http block where it was");
    fs::write(&file, text).unwrap();
    let pid = sandbox.path("nginx.pid");
    // One process: there is nothing that could be left behind.
    let how = format!("daemon off; master_process off; error_log stderr; pid {};", pid.display());
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).args(["-g", &how]);
    let mut nginx = Daemon::start(command, sandbox.path("nginx.log"));
    nginx.wait_for("listening", PATIENCE, || TcpStream::connect(SocketAddr::from(FRONT)).is_ok());
    nginx
}

#[test]
fn nginx_asks_before_every_request() {
    if !is_here("nginx") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    shop(
        &sandbox,
        |_| {},
        |_| nginx(&sandbox),
        |shop| {
            a_broken_host(shop);
            // A host whose agent is not there is none that is not well.
            let host = &shop.hosts[0];
            host.stop_agent();
            shop.customers.wait_served_by(host.name(), PATIENCE);
            host.start_agent();
        },
    );
}

/// There is no Debian package of it: `ENVOY` says where it is, and without that there is no test.
#[test]
fn envoy_takes_a_broken_host_out() {
    let Some(program) = std::env::var_os("ENVOY") else {
        say("SKIP envoy_takes_a_broken_host_out: ENVOY is not set");
        return;
    };
    let Some(sandbox) = Sandbox::new() else { return };
    let start = |_: &[Host; 3]| {
        let file = sandbox.path("envoy.yaml");
        fs::write(&file, text("envoy.yaml")).unwrap();
        let mut command = Command::new(&program);
        command.arg("-c").arg(&file).args(["--concurrency", "1", "--log-level", "warning"]);
        command.args(["--use-dynamic-base-id"]);
        let mut envoy = Daemon::start(command, sandbox.path("envoy.log"));
        envoy.wait_for("ready", PATIENCE, || hosts_in_service() == [3, 3]);
        envoy
    };
    shop(
        &sandbox,
        |_| {},
        start,
        |shop| {
            let seen = thread::scope(|scope| {
                // The gRPC check goes by the same answer.
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
                a_broken_host(shop);
                lowest.join().unwrap()
            });
            assert_eq!(seen, [2, 2], "hosts in service, by HTTP and by gRPC");
        },
    );
}

/// Healthy hosts of the clusters `nodes` and `grpc`, by Envoy's own account.
fn hosts_in_service() -> [usize; 2] {
    // Envoy answers in chunks, which the tests' own client does not read.
    let output = tool::output("curl", &["-s", "http://127.0.0.1:9901/clusters"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ["nodes::", "grpc::"].map(|cluster| {
        let healthy =
            |line: &&str| line.starts_with(cluster) && line.ends_with("health_flags::healthy");
        text.lines().filter(healthy).count()
    })
}

/// A pair of hosts with a cable between them, and the address that one of them has.
struct Pair<'a> {
    networks: [&'a NetNs; 2],
    hosts: [Host; 2],
}

/// The examples' address that moves.
const MOVES: &str = "192.0.2.100/24";

impl Pair<'_> {
    /// Which of them has the address now: nobody, one, or for a moment both.
    fn owners(&self) -> Vec<usize> {
        let has = |number: &usize| {
            self.networks
                .get(*number)
                .is_some_and(|net| net.ip("-brief address show dev eth0").contains(MOVES))
        };
        (0..2).filter(has).collect()
    }

    fn wait_owner(&self, number: usize, why: &str) {
        let began = Instant::now();
        while self.owners() != [number] {
            assert!(began.elapsed() < PATIENCE, "{why}: {:?} have the address", self.owners());
            thread::sleep(Duration::from_millis(5));
        }
        let took = began.elapsed().as_secs_f64() * 1e3;
        say(&format!("MEASURED keepalived: {why}: at {} after {took:.0} ms", HOSTS[number].0));
    }
}

/// One host's keepalived, started by that host's thread.
fn keepalived(sandbox: &Sandbox, host: &Host, number: usize) -> Daemon {
    let own = sandbox.path(host.name());
    let run = sandbox.path(format!("{}.run", host.name()));
    let text = text("keepalived.conf").replace("/run/tocsin/", &format!("{}/", run.display()));
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
    if !is_here("keepalived") || !is_here("curl") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let (Some(a), Some(b)) = (NetNs::new(), NetNs::new()) else { return };
    a.cable("eth0", &b, "eth0");
    thread::scope(|scope| {
        let (networks, sandbox) = ([&a, &b], &sandbox);
        let mut hosts = networks.into_iter().zip(HOSTS).map(|(network, (name, address))| {
            network.ip(&format!("address add {address}/24 dev eth0"));
            // The examples' script asks the loopback.
            let everywhere = |command: &mut Command| {
                command.env("LISTEN_ADDR", "0.0.0.0");
            };
            network.run(|| Host::start(scope, sandbox, (name, address), everywhere))
        });
        let hosts = [hosts.next().unwrap(), hosts.next().unwrap()];
        let _daemons = [0, 1].map(|number| keepalived(sandbox, &hosts[number], number));
        let pair = Pair { networks, hosts };
        pair.wait_owner(0, "both are well");
        pair.hosts[0].break_disk();
        pair.wait_owner(1, "the first one's disk is broken");
        pair.hosts[1].break_disk();
        pair.wait_owner(0, "both are broken");
        pair.hosts[1].repair_disk();
        pair.wait_owner(1, "the second one is repaired");
        pair.hosts[0].repair_disk();
        pair.wait_owner(0, "both are repaired");
        // Its last word stays, and nothing moves, while it is restarted.
        pair.hosts[0].stop_agent();
        thread::sleep(Duration::from_secs(2));
        assert_eq!(pair.owners(), [0]);
        pair.wait_owner(1, "the first one has no agent for a while");
        pair.hosts[0].start_agent();
        pair.wait_owner(0, "it is back");
    });
}
