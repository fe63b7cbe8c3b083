//! `container_runtime` and a real containerd, and what else may sit behind a socket.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
use e2e::containerd::{Containerd, DEFAULT_SOCKET};
use e2e::sandbox::say;
use e2e::{Agent, Mount, Sandbox};
use rustix::mount::MountFlags;
use rustix::process::Signal;

const CHECK: &str = "container_runtime";

/// An agent that asks nothing else, ten times a second.
fn agent(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> Agent {
    Agent::start_with(sandbox, |command| {
        command.env("DEFAULT_CHECKS", CHECK).env("PROBE_INTERVAL", "100ms").env("NO_EBPF", "true");
        change(command);
    })
}

fn agent_of(sandbox: &Sandbox, socket: &Path) -> Agent {
    agent(sandbox, |command| {
        command.env("CRI_SOCKET", format!("unix://{}", socket.display()));
    })
}

/// Once in a state, an answer is quick, whatever the runtime does meanwhile.
fn answers_at_once(agent: &Agent, status: u16) {
    let mut answers: Vec<_> = (0..300)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(agent.health("").status, status);
            assert_eq!(agent.get("/livez").status, 200);
            let took = began.elapsed();
            thread::sleep(Duration::from_millis(5));
            took
        })
        .collect();
    answers.sort_unstable();
    let (median, worst) = (answers[answers.len() / 2], answers[answers.len() - 1]);
    say(&format!("MEASURED /health and /livez: median {median:?}, worst {worst:?}"));
    assert!(median < Duration::from_millis(5), "{median:?}");
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn containerd_says_whether_pods_can_be_started() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(mut containerd) = Containerd::start(&sandbox) else { return };
    let place = containerd.socket().display().to_string();
    let agent = agent_of(&sandbox, &containerd.socket());
    let no_network = [&*place, "NetworkReady is false: NetworkPluginNotReady: ", "cni"];
    // The very first answer is right.
    let first = agent.health("");
    assert!(first.failure(CHECK).unwrap().contains(no_network[1]), "{first:?}");
    agent.wait_failure(Instant::now(), CHECK, &no_network);

    let began = Instant::now();
    containerd.add_network();
    agent.wait_recovery(began, PATIENCE);
    let began = Instant::now();
    containerd.remove_network();
    agent.wait_failure(began, CHECK, &no_network);
    let began = Instant::now();
    containerd.add_network();
    agent.wait_recovery(began, PATIENCE);

    for _ in 0..3 {
        let began = Instant::now();
        containerd.kill();
        agent.wait_failure(began, CHECK, &[&place, "nobody listens on it"]);
        let began = Instant::now();
        containerd.start_again();
        agent.wait_recovery(began, PATIENCE);
    }
    // In order, it takes its socket along.
    let began = Instant::now();
    containerd.signal(Signal::TERM);
    agent.wait_failure(began, CHECK, &["no container runtime's socket, looked at", &place]);
}

#[test]
fn a_stopped_containerd_fails_in_time_and_holds_up_nobody() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(containerd) = Containerd::start(&sandbox) else { return };
    containerd.add_network();
    let agent = agent_of(&sandbox, &containerd.socket());
    agent.wait_recovery(Instant::now(), PATIENCE);
    let (files, running) = (open_files(agent.pid()), threads(agent.pid()));

    let began = Instant::now();
    containerd.signal(Signal::STOP);
    let place = containerd.socket().display().to_string();
    agent.wait_failure(began, CHECK, &[&place, "no answer within 1 s"]);
    answers_at_once(&agent, 503);
    let began = Instant::now();
    containerd.signal(Signal::CONT);
    agent.wait_recovery(began, PATIENCE);
    agent.wait_for("as many files and threads as before", PATIENCE, |agent| {
        let now = (open_files(agent.pid()), threads(agent.pid()));
        (now.0 <= files + 1 && now.1 <= running + 1).then_some(())
    });
    answers_at_once(&agent, 200);
}

#[test]
fn the_socket_is_looked_for_where_runtimes_have_it_on_the_host() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(containerd) = Containerd::start_apart(&sandbox) else { return };
    containerd.add_network();
    let socket = containerd.socket();
    // As in a container: the host is another mount namespace, with another /run.
    let agent = agent(&sandbox, |command| {
        command.env("MOUNT_TABLE", format!("/proc/{}/mountinfo", containerd.pid()));
    });
    agent.wait_recovery(Instant::now(), PATIENCE);

    // The connection still works, but who wants to start a pod finds nobody.
    let began = Instant::now();
    fs::remove_file(&socket).unwrap();
    let reason = agent.wait_failure(began, CHECK, &["no container runtime's socket, looked at "]);
    for place in [
        DEFAULT_SOCKET,
        "/run/crio/crio.sock",
        "/var/run/crio/crio.sock",
        "/run/cri-dockerd.sock",
        "/run/k3s/containerd/containerd.sock",
        "/var/snap/microk8s/common/run/containerd.sock",
    ] {
        assert!(reason.contains(place), "{reason}");
    }
    // Somebody else in its place.
    let began = Instant::now();
    let listener = UnixListener::bind(&socket).unwrap();
    agent.wait_failure(began, CHECK, &[DEFAULT_SOCKET, "no answer within 1 s"]);
    drop(listener);
}

#[test]
fn disk_pressure_asks_where_images_are() {
    let Some(sandbox) = Sandbox::new() else { return };
    let disk = sandbox.path("containerd/root");
    let source = Path::new("tmpfs");
    let _disk = Mount::new(source, &disk, "tmpfs", MountFlags::empty(), "size=32m");
    let Some(containerd) = Containerd::start(&sandbox) else { return };
    // Nine tenths: enough for other filesystems, too much where images are.
    fs::write(disk.join("layers"), vec![1; 29 << 20]).unwrap();
    let agent = agent(&sandbox, |command| {
        command.env("CRI_SOCKET", containerd.socket()).env("DEFAULT_CHECKS", "disk_pressure");
    });
    let images = containerd.images().display().to_string();
    agent.wait_failure(Instant::now(), "disk_pressure", &[&images]);
    let began = Instant::now();
    fs::remove_file(disk.join("layers")).unwrap();
    agent.wait_recovery(began, PATIENCE);
}

/// What may sit behind a socket instead of a runtime.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Says nothing, until the other side gives up.
    Hangs,
    /// Says this.
    Says(&'static [u8]),
    /// HTTP/2 that acknowledges everything and never answers.
    Pings,
}

fn serve(mut stream: UnixStream, does: Does) {
    let mut heard = [0; 4096];
    match does {
        Does::Hangs => {}
        Does::Says(text) => {
            let _preface = stream.read(&mut heard);
            let _sent = stream.write_all(text);
        }
        Does::Pings => {
            // SETTINGS, then PING for ever.
            let _sent = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
            let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            while stream.write_all(&ping).is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    while stream.read(&mut heard).is_ok_and(|count| count > 0) {}
}

#[test]
fn other_servers_fail_in_time_and_leave_nothing_behind() {
    let Some(sandbox) = Sandbox::new() else { return };
    for (name, does, words) in [
        ("silent", Does::Hangs, "no answer within 1 s"),
        ("http1", Does::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no HTTP/2 answer"),
        ("garbage", Does::Says(&[0xff; 100]), "no HTTP/2 answer"),
        ("zeroes", Does::Says(&[0; 100]), "no HTTP/2 answer"),
        ("pings", Does::Pings, "no answer within 1 s"),
    ] {
        let socket = sandbox.path(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            // For as long as the process lives: nothing waits for it.
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || serve(stream, does));
            }
        });
        let agent = agent_of(&sandbox, &socket);
        let began = Instant::now();
        agent.wait_failure(began, CHECK, &[&*socket.display().to_string(), words]);
        let files = open_files(agent.pid());
        answers_at_once(&agent, 503);
        let now = open_files(agent.pid());
        assert!(now <= files + 2, "{name}: {files} open files, then {now}");
    }
}

#[test]
fn a_place_that_cannot_be_one_is_an_error_at_the_start() {
    let Some(sandbox) = Sandbox::new() else { return };
    for value in ["containerd.sock", "tcp://127.0.0.1:1", "unix://run/x"] {
        let ended = Agent::try_start_with(&sandbox, |command| {
            command.env("CRI_SOCKET", value);
        });
        let Err(ended) = ended else { panic!("it started with {value:?}") };
        assert_eq!(ended.status.code(), Some(2));
        let words = format!("CRI_SOCKET: {value:?} is neither an absolute path nor a unix:// URL");
        assert!(ended.log.join("\n").contains(&words), "{:?}", ended.log);
    }
}
