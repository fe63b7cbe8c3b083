//! `HAProxy`'s agent-check, and the state file: the verdict for who does not speak HTTP.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
use e2e::sandbox::say;
use e2e::{Agent, ControlPlane, Filesystem, Sandbox, Volume, inject};

fn line(to: SocketAddr, sent: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(sent).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_line_at_once_and_the_end_whatever_is_sent() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.agent_check_address();
    let long = vec![b'x'; 3000];
    for sent in [&b""[..], b"be/srv\n", b"GET / HTTP/1.1\r\n\r\n", &long] {
        assert_eq!(line(to, sent), "up ready 100%\n");
    }
    // Many at once, most of whom never read, or never leave.
    let held: Vec<_> = (0..600).map(|_| TcpStream::connect(to).unwrap()).collect();
    let mut took: Vec<_> = (0..200)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(line(to, b""), "up ready 100%\n");
            began.elapsed()
        })
        .collect();
    took.sort();
    say(&format!("MEASURED {}: median {:?}, slowest {:?}", sandbox.name(), took[100], took[199]));
    assert!(took[100] < Duration::from_millis(10), "{:?}", took[100]);
    drop(held);
    let count = agent.admin("/metrics").body;
    assert!(count.contains("tocsin_agent_checks_total 804\n"), "{count}");
}

#[test]
fn a_fault_is_down_with_its_reason_and_a_recovery_is_up() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    let to = agent.agent_check_address();
    let at = inject::ext4_error(volume.device());
    let down = agent.wait_for("down", PATIENCE, |_| {
        let line = line(to, b"");
        line.starts_with("down ").then_some(line)
    });
    say(&format!("MEASURED {}: down after {:?}", sandbox.name(), at.elapsed()));
    let device = volume.device().name();
    assert!(down.starts_with("down ready 100% #") && down.contains(&device), "{down}");
    assert_eq!(down.matches('\n').count(), 1);
    volume.unmount();
    agent.wait_for("up", PATIENCE, |_| (line(to, b"") == "up ready 100%\n").then_some(()));
}

#[test]
fn a_cordon_is_a_drain_although_the_default_set_does_not_ask_for_it() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(plane) = ControlPlane::shared() else { return };
    let node = plane.node("drained");
    for (maint, expected) in [("false", "up drain\n"), ("true", "up maint\n")] {
        let agent = Agent::start_with(&sandbox, |command| {
            command
                .env("NODE_NAME", node.name())
                .env("KUBECONFIG", plane.kubeconfig("admin"))
                .env("AGENT_CHECK_MAINT", maint);
        });
        let to = agent.agent_check_address();
        let wait = |expected: &str| {
            agent.wait_for(expected, PATIENCE, |_| (line(to, b"") == expected).then_some(()));
        };
        wait("up ready 100%\n");
        node.cordon();
        wait(expected);
        assert_eq!(agent.get("/health").status, 200);
        assert_eq!(agent.get("/health?drain=404").status, 404);
        node.uncordon();
        wait("up ready 100%\n");
        assert_eq!(agent.get("/health?drain=404").status, 200);
    }
}

#[test]
fn a_weight_by_the_fullest_disk() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "data", Filesystem::Xfs, "");
    let agent = Agent::start_with(&sandbox, |command| {
        command
            .env("AGENT_WEIGHT", "disk")
            .env("DISK_THRESHOLDS", format!("{}:1%", volume.point_text()));
    });
    let to = agent.agent_check_address();
    let percent = || -> u64 {
        let line = line(to, b"");
        line.strip_prefix("up ready ")
            .and_then(|rest| rest.strip_suffix("%\n")?.parse().ok())
            .unwrap()
    };
    // The root's filesystem is among them too, and may be the fuller one as long as this one is empty.
    let space = rustix::fs::statvfs(volume.point()).unwrap();
    let free = usize::try_from(space.f_bavail * space.f_frsize).unwrap();
    fs::write(volume.path("most"), vec![1; free / 100 * 80]).unwrap();
    let little = agent.wait_for("a weight by the disk", PATIENCE, |_| {
        let percent = percent();
        (percent <= 20).then_some(percent)
    });
    fs::write(volume.path("rest"), vec![1; free / 100 * 12]).unwrap();
    agent.wait_for("less", PATIENCE, |_| (percent() == 10).then_some(()));
    say(&format!("MEASURED {}: {little}% and then 10%", sandbox.name()));

    let agent = Agent::start_with(&sandbox, |command| {
        command.env("AGENT_WEIGHT", "load");
    });
    let line = line(agent.agent_check_address(), b"");
    assert!(line.starts_with("up ready ") && line.ends_with("0%\n"), "{line}");
}

#[test]
fn a_state_file_follows_the_verdict_and_stays() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let path = sandbox.path("run/tocsin/state");
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("STATE_FILE", &path);
    });
    let says = |expected: &str| {
        agent.wait_for(expected, PATIENCE, |_| {
            let text = fs::read_to_string(&path).ok()?;
            // Never half of it.
            assert!(text.ends_with('\n') && text.lines().count() == 2, "{text:?}");
            text.starts_with(expected).then_some(text)
        })
    };
    assert_eq!(says("0\n"), "0\nready\n");
    let at = inject::ext4_error(volume.device());
    let text = says("1\n");
    say(&format!("MEASURED {}: not ready after {:?}", sandbox.name(), at.elapsed()));
    assert!(text.starts_with("1\nnot-ready "), "{text:?}");
    assert!(text.contains(&volume.device().name()), "{text:?}");
    volume.unmount();
    says("0\n");
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
    assert_eq!(agent.terminate().code(), Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "0\nready\n");
}

#[test]
fn a_state_file_that_cannot_be_written_is_told() {
    const FAILURES: &str = "tocsin_state_file_failures_total ";
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("STATE_FILE", Path::new("/proc/tocsin/state"));
    });
    // It is tried every second, and each failure is counted.
    agent.wait_for("the failures are counted", PATIENCE, |agent| {
        let metrics = agent.admin("/metrics").body;
        let counted = metrics.lines().find_map(|line| line.strip_prefix(FAILURES));
        (counted?.trim().parse::<u64>().ok()? >= 3).then_some(())
    });
    assert_eq!(agent.health("").status, 200);
    assert_eq!(agent.wait_told(&["/proc/tocsin/state"]), 1, "{:?}", agent.log());
}
