//! Everything that the agent asks hangs at once, and who asks the agent does not notice.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::{PATIENCE, run_cli};
use e2e::faultfs::{EVERYWHERE, Operation};
use e2e::http::Connection;
use e2e::sandbox::say;
use e2e::{Agent, FaultFs, Filesystem, MIB, Sandbox, Volume, inject};

use crate::io_stall::hang_all;

/// The longest time-out of a probe, the router's, and some time for a busy machine.
const FIRST_ANSWER: Duration = Duration::from_millis(5_000 + 1_500);

/// Every check that there is, as the program itself lists them.
fn all_checks(sandbox: &Sandbox) -> Vec<String> {
    let output = run_cli(sandbox, &["check", "--local", "bogus"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let names = said.trim().split_once("there are: ").unwrap().1;
    names.split(", ").map(str::to_owned).collect()
}

/// The URL of a server that takes connections and never says a word.
fn silent_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // Until the test program ends.
    thread::spawn(move || listener.incoming().map(Result::unwrap).collect::<Vec<_>>());
    format!("http://{address}/health")
}

/// A name server that reads nothing and answers nothing, and the one this namespace knows.
fn silent_resolver(sandbox: &Sandbox) -> (UdpSocket, TcpListener) {
    // The sandboxes of one machine share its loopback, but not this address.
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

/// Asks for `/livez` until it is told to stop; how often, and how long it took at most.
fn watch_livez(agent: std::net::SocketAddr, stop: &AtomicBool) -> (usize, Duration) {
    let mut connection = Connection::open(agent).unwrap();
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        assert_eq!(connection.get("/livez").unwrap().status, 200);
        slowest = slowest.max(start.elapsed());
        asked += 1;
        thread::sleep(Duration::from_millis(5));
    }
    (asked, slowest)
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn everything_hangs_and_the_answer_does_not() {
    let Some(sandbox) = Sandbox::new() else { return };
    let checks = all_checks(&sandbox);
    let remote = FaultFs::new(&sandbox, "remote", 64 * MIB);
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
    let runtime = sandbox.path("cri.sock");
    let _runtime = UnixListener::bind(&runtime).unwrap();
    let _resolver = silent_resolver(&sandbox);
    let (router, kubelet, own) = (silent_server(), silent_server(), silent_server());

    let mut agent = Agent::start_with(&sandbox, |command| {
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
        // Also where the test fails: the scope waits for that thread.
        let stopping = StopOnDrop(&stop);

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
        agent.wait_for("the stalled disk and the stuck filesystem", PATIENCE, |agent| {
            let health = agent.health(&query);
            let stuck = health.check("disk_pressure")?.degraded.clone()?;
            (health.failure("io_stall").is_some() && stuck.contains("stuck for ")).then_some(())
        });

        // For longer than the longest time-out, so that every probe begins anew meanwhile.
        let mut took = Vec::new();
        let start = Instant::now();
        while start.elapsed() < FIRST_ANSWER {
            let start = Instant::now();
            assert_eq!(agent.health(&query).status, 503);
            took.push(start.elapsed());
            thread::sleep(Duration::from_millis(10));
        }
        took.sort_unstable();
        let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
        say(&format!(
            "MEASURED {}: {} answers, median {median:?}, slowest {slowest:?}",
            sandbox.name(),
            took.len()
        ));
        assert!(median < Duration::from_millis(5), "{median:?}");
        assert!(!reader.is_finished());
        assert_eq!(remote.control().hanging(), 1, "the filesystem was asked again while stuck");

        drop(stopping);
        let (asked, slowest) = livez.join().unwrap();
        say(&format!("MEASURED {}: {asked} /livez, slowest {slowest:?}", sandbox.name()));
        assert!(asked > 100, "{asked}");
        drop((statfs, disk));
        reader.join().unwrap().unwrap();
        agent.wait_for("the disk and the filesystem are well", PATIENCE, |agent| {
            let health = agent.health("?check=io_stall,disk_pressure");
            let pressure = health.check("disk_pressure")?;
            (health.status == 200 && pressure.degraded.is_none()).then_some(())
        });
    });
    // And none of them keeps it from ending.
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.wait_exit().code(), Some(0));
}
