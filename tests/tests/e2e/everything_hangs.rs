//! Everything that the agent asks hangs at once, and no answer of the agent waits for it.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::{TIMEOUT, quick_stalls, run_cli};
use e2e::faulty_disk::{EVERYWHERE, Operation};
use e2e::http::{Connection, silent_server};
use e2e::sandbox::say;
use e2e::sync::SetOnDrop;
use e2e::{Agent, FaultyDisk, Filesystem, MIB, Sandbox, Volume, inject};

use crate::do_not_wait;
use crate::io_stall::hang_all;

/// How long the first answer may take: the longest time-out of a probe (the router's, 5 s), and time for a busy machine.
/// The time-outs one after the other would be 10 s.
const FIRST_ANSWER: Duration = Duration::from_secs(8);

/// All checks, as the program lists them.
fn all_checks(sandbox: &Sandbox) -> Vec<String> {
    let output = run_cli(sandbox, &["check", "--local", "bogus"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let names = said.trim().split_once("there are: ").unwrap().1;
    names.split(", ").map(str::to_owned).collect()
}

/// A nameserver that never answers, and is the only one in resolv.conf.
fn silent_resolver(sandbox: &Sandbox) -> (UdpSocket, TcpListener) {
    // All sandboxes share the machine's loopback, but this address is the process's own.
    let process = std::process::id() % 250 + 1;
    let address = format!("127.25.{process}.53");
    let socket = UdpSocket::bind((address.as_str(), 53)).unwrap();
    let listener = TcpListener::bind((address.as_str(), 53)).unwrap();
    let file = sandbox.path("resolv.conf");
    fs::write(&file, format!("nameserver {address}\n")).unwrap();
    let place = fs::canonicalize("/etc/resolv.conf").unwrap();
    rustix::mount::mount_bind(&file, &place).unwrap();
    (socket, listener)
}

/// Gets `/livez` until `stop`; gives how long each answer took.
fn watch_livez(agent: std::net::SocketAddr, stop: &AtomicBool) -> Vec<Duration> {
    let mut connection = Connection::open(agent).unwrap();
    let mut took = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        assert_eq!(connection.get("/livez").unwrap().status, 200);
        took.push(start.elapsed());
        thread::sleep(Duration::from_millis(5));
    }
    took
}

#[test]
fn no_answer_waits_while_everything_hangs() {
    let Some(sandbox) = Sandbox::new() else { return };
    let checks = all_checks(&sandbox);
    let remote = FaultyDisk::new(&sandbox, "remote", 64 * MIB);
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
    let runtime = sandbox.path("cri.sock");
    let _runtime = UnixListener::bind(&runtime).unwrap();
    let _resolver = silent_resolver(&sandbox);
    let [router, kubelet, own] = [0; 3].map(|_| format!("http://{}/health", silent_server()));

    let mut agent = Agent::start_with(&sandbox, |command| {
        quick_stalls(command);
        command
            .env("ROUTER_URL", router)
            .env("KUBELET_URL", kubelet)
            .env("HTTP_PROBES", format!("own={own}"))
            .env("CRI_SOCKET", &runtime)
            .env("DISK_THRESHOLDS", format!("/:0%,inodes:0%,{}:1%", remote.point().display()));
    });
    let device = volume.device().path();
    let address = agent.health_address();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let statfs = remote.control().hang(Operation::Statfs, EVERYWHERE);
        let disk = hang_all(&volume);
        let reader = scope.spawn(|| inject::read_block(&device, 32 * MIB));
        let livez = scope.spawn(|| watch_livez(address, &stop));
        // Also when the test fails: the scope waits for that thread.
        let stopping = SetOnDrop(&stop);

        let query = format!("?check={},own", checks.join(","));
        let start = Instant::now();
        let first = agent.health(&query);
        let took = start.elapsed();
        say(&format!("MEASURED {}: first answer after {took:?}", sandbox.name()));
        assert!(took < FIRST_ANSWER, "{took:?}");
        assert_eq!(first.status, 503);
        assert_eq!(first.checks.len(), checks.len() + 1);
        for check in &first.checks {
            say(&format!("{}: {:?} {:?}", check.name, check.reason, check.degraded));
        }
        for name in ["okd_router_1936", "kubelet", "container_runtime", "own"] {
            assert!(first.failure(name).is_some_and(|why| why.contains("no answer")), "{first:?}");
        }
        agent.wait_for("the stalled disk and the stuck filesystem", TIMEOUT, |agent| {
            let health = agent.health(&query);
            let stuck = health.check("disk_pressure")?.degraded.clone()?;
            (health.failure("io_stall").is_some() && stuck.contains("stuck for ")).then_some(())
        });

        // Longer than the longest time-out, so that every probe begins again meanwhile.
        let mut took = Vec::new();
        let start = Instant::now();
        while start.elapsed() < FIRST_ANSWER {
            let start = Instant::now();
            assert_eq!(agent.health(&query).status, 503);
            took.push(start.elapsed());
            thread::sleep(Duration::from_millis(10));
        }
        do_not_wait("/health while everything hangs", &mut took);
        assert!(!reader.is_finished());
        assert_eq!(remote.control().hanging(), 1, "statfs was called again while stuck");

        drop(stopping);
        let mut took = livez.join().unwrap();
        assert!(took.len() > 100, "{}", took.len());
        do_not_wait("/livez while everything hangs", &mut took);
        drop((statfs, disk));
        reader.join().unwrap().unwrap();
        agent.wait_for("the disk and the filesystem are well", TIMEOUT, |agent| {
            let health = agent.health("?check=io_stall,disk_pressure");
            let pressure = health.check("disk_pressure")?;
            (health.status == 200 && pressure.degraded.is_none()).then_some(())
        });
    });
    // None of the hanging calls keeps the agent from ending.
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.wait_exit().code(), Some(0));
}
