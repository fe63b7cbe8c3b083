//! `container_runtime`, with a real containerd, and with other servers behind the socket.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::containerd::{Containerd, DEFAULT_SOCKET};
use e2e::{Agent, Mount, Sandbox};
use rustix::mount::MountFlags;
use rustix::process::Signal;

use crate::answers_do_not_wait;
use crate::disk_pressure::harmless;

const CHECK: &str = "container_runtime";

/// An agent whose only check is this one, ten times a second.
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

/// Answers are quick, whatever the runtime does meanwhile.
fn answers_are_quick(agent: &Agent, status: u16) {
    answers_do_not_wait(&format!("/health and /livez ({status})"), 300, || {
        assert_eq!(agent.health("").status, status);
        assert_eq!(agent.get("/livez").status, 200);
    });
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[test]
fn containerd_that_cannot_start_pods_fails() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(mut containerd) = Containerd::start(&sandbox) else { return };
    let place = containerd.socket().display().to_string();
    let agent = agent_of(&sandbox, &containerd.socket());
    let no_network = [&*place, "NetworkReady is false: NetworkPluginNotReady: ", "cni"];
    // The first answer has the first sample.
    let first = agent.health("");
    assert!(first.failure(CHECK).unwrap().contains(no_network[1]), "{first:?}");
    agent.wait_failure(Instant::now(), CHECK, &no_network);

    let began = Instant::now();
    containerd.add_network();
    agent.wait_recovery(began, TIMEOUT);
    let began = Instant::now();
    containerd.remove_network();
    agent.wait_failure(began, CHECK, &no_network);
    let began = Instant::now();
    containerd.add_network();
    agent.wait_recovery(began, TIMEOUT);

    for _ in 0..3 {
        let began = Instant::now();
        containerd.kill();
        agent.wait_failure(began, CHECK, &[&place, "nobody listens on it"]);
        let began = Instant::now();
        containerd.start_again();
        agent.wait_recovery(began, TIMEOUT);
    }
    // A containerd that stops in order removes its socket.
    let began = Instant::now();
    containerd.signal(Signal::TERM);
    agent.wait_failure(began, CHECK, &["no container runtime's socket, looked at", &place]);
}

#[test]
fn a_containerd_that_hangs_fails_in_time_and_delays_no_answer() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(containerd) = Containerd::start(&sandbox) else { return };
    containerd.add_network();
    let agent = agent_of(&sandbox, &containerd.socket());
    agent.wait_recovery(Instant::now(), TIMEOUT);
    let (files, running) = (open_files(agent.pid()), threads(agent.pid()));

    let began = Instant::now();
    containerd.signal(Signal::STOP);
    let place = containerd.socket().display().to_string();
    agent.wait_failure(began, CHECK, &[&place, "no answer within 1 s"]);
    answers_are_quick(&agent, 503);
    let began = Instant::now();
    containerd.signal(Signal::CONT);
    agent.wait_recovery(began, TIMEOUT);
    agent.wait_for("as many files and threads as before", TIMEOUT, |agent| {
        let now = (open_files(agent.pid()), threads(agent.pid()));
        (now.0 <= files + 1 && now.1 <= running + 1).then_some(())
    });
    answers_are_quick(&agent, 200);
}

#[test]
fn the_socket_is_found_in_the_default_places_of_the_host() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(containerd) = Containerd::start_apart(&sandbox) else { return };
    containerd.add_network();
    let socket = containerd.socket();
    // As in a container: the host's mount namespace is another one, with another /run.
    let agent = agent(&sandbox, |command| {
        command.env("MOUNT_TABLE", format!("/proc/{}/mountinfo", containerd.pid()));
    });
    agent.wait_recovery(Instant::now(), TIMEOUT);

    // The open connection still works, but nothing can connect any more.
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
    // Another server in its place, which does not answer.
    let began = Instant::now();
    let listener = UnixListener::bind(&socket).unwrap();
    agent.wait_failure(began, CHECK, &[DEFAULT_SOCKET, "no answer within 1 s"]);
    drop(listener);
}

#[test]
fn disk_pressure_watches_the_filesystem_of_the_images() {
    let Some(sandbox) = Sandbox::new() else { return };
    let disk = sandbox.path("containerd/root");
    let source = Path::new("tmpfs");
    let _disk = Mount::new(source, &disk, "tmpfs", MountFlags::empty(), "size=32m");
    let Some(containerd) = Containerd::start(&sandbox) else { return };
    // Nine tenths: within the limit of other filesystems, above that of the images'.
    fs::write(disk.join("layers"), vec![1; 29 << 20]).unwrap();
    let agent = agent(&sandbox, |command| {
        command
            .env("CRI_SOCKET", containerd.socket())
            .env("DEFAULT_CHECKS", "disk_pressure")
            .env("DISK_THRESHOLDS", harmless());
    });
    let images = containerd.images().display().to_string();
    agent.wait_failure(Instant::now(), "disk_pressure", &[&images]);
    let began = Instant::now();
    fs::remove_file(disk.join("layers")).unwrap();
    agent.wait_recovery(began, TIMEOUT);
}

/// What a server behind the socket does that is no runtime.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    /// Sends nothing.
    Hangs,
    /// Sends these bytes.
    Sends(&'static [u8]),
    /// Speaks HTTP/2, sends PINGs, and never answers.
    Pings,
}

fn serve(mut stream: UnixStream, behaviour: Behaviour) {
    let mut received = [0; 4096];
    match behaviour {
        Behaviour::Hangs => {}
        Behaviour::Sends(text) => {
            let _preface = stream.read(&mut received);
            let _sent = stream.write_all(text);
        }
        Behaviour::Pings => {
            // SETTINGS, then PING for ever.
            let _sent = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
            let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            while stream.write_all(&ping).is_ok() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
    while stream.read(&mut received).is_ok_and(|count| count > 0) {}
}

#[test]
fn other_servers_fail_in_time_and_leave_no_file_open() {
    let Some(sandbox) = Sandbox::new() else { return };
    for (name, behaviour, words) in [
        ("silent", Behaviour::Hangs, "no answer within 1 s"),
        ("http1", Behaviour::Sends(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "no HTTP/2 answer"),
        ("garbage", Behaviour::Sends(&[0xff; 100]), "no HTTP/2 answer"),
        ("zeroes", Behaviour::Sends(&[0; 100]), "no HTTP/2 answer"),
        ("pings", Behaviour::Pings, "no answer within 1 s"),
    ] {
        let socket = sandbox.path(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            // Until the test program ends.
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || serve(stream, behaviour));
            }
        });
        let agent = agent_of(&sandbox, &socket);
        let began = Instant::now();
        agent.wait_failure(began, CHECK, &[&*socket.display().to_string(), words]);
        let files = open_files(agent.pid());
        answers_are_quick(&agent, 503);
        let now = open_files(agent.pid());
        assert!(now <= files + 2, "{name}: {files} open files, then {now}");
    }
}

#[test]
fn a_socket_that_is_no_path_is_an_error_at_the_start() {
    let Some(sandbox) = Sandbox::new() else { return };
    for value in ["containerd.sock", "tcp://127.0.0.1:1", "unix://run/x"] {
        let ended = Agent::refuses_to_start(&sandbox, |command| {
            command.env("CRI_SOCKET", value);
        });
        assert_eq!(ended.status.code(), Some(2));
        let words = format!("CRI_SOCKET: {value:?} is neither an absolute path nor a unix:// URL");
        assert!(ended.log.join("\n").contains(&words), "{:?}", ended.log);
    }
}
