//! Invalid flags and values, ports in use, and names with odd characters.

use std::ffi::OsStr;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;

use e2e::agent::{Exited, TIMEOUT};
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};
use tokio::net::TcpSocket;

use crate::fault;

fn refused(sandbox: &Sandbox, arguments: &[&str]) -> Exited {
    Agent::refuses_to_start(sandbox, |command| {
        command.args(arguments);
    })
}

#[test]
fn a_wrong_flag_or_value_is_one_line_and_exit_2() {
    let Some(sandbox) = Sandbox::new() else { return };
    let cases: [(&[&str], &str); 8] = [
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--listen-port", "70000"], "70000"),
        (&["--listen-addr", "nowhere"], "nowhere"),
        (&["--io-error-window", "5"], "5"),
        (&["--io-error-window=-5m"], "-5m"),
        (&["--io-stall-after", "soon"], "soon"),
        (&["--default-checks", "bogus"], "bogus"),
        (&["--log-format", "xml"], "xml"),
    ];
    for (arguments, named) in cases {
        let exited = refused(&sandbox, arguments);
        assert_eq!(exited.status.code(), Some(2), "{arguments:?}: {exited:?}");
        let lines: Vec<_> = exited.log.iter().filter(|line| !line.trim().is_empty()).collect();
        assert_eq!(lines.len(), 1, "{arguments:?}: {exited:?}");
        assert!(lines[0].contains(named), "{arguments:?}: {exited:?}");
    }
}

#[test]
fn a_port_in_use_is_an_error_and_exit_1() {
    let Some(sandbox) = Sandbox::new() else { return };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    for flag in ["--listen-port", "--admin-port", "--agent-check-port"] {
        let exited = refused(&sandbox, &[flag, &port]);
        assert_eq!(exited.status.code(), Some(1), "{exited:?}");
        assert!(exited.log.iter().any(|line| line.contains(&port)), "{exited:?}");
    }
}

/// All threads accept from one socket. With one for each (`SO_REUSEPORT`), any process of the same user could add its own
/// and answer a share of the load balancers in the agent's name.
#[test]
fn nobody_else_gets_a_share_of_a_port() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    for (flag, taken) in [
        ("--listen-port", agent.health_address()),
        ("--agent-check-port", agent.agent_check_address()),
    ] {
        let exited = refused(&sandbox, &[flag, &taken.port().to_string()]);
        assert_eq!(exited.status.code(), Some(1), "{exited:?}");
        let intruder = TcpSocket::new_v4().unwrap();
        intruder.set_reuseaddr(true).unwrap();
        intruder.set_reuseport(true).unwrap();
        let bound = intruder.bind(taken).map_err(|error| error.kind());
        assert_eq!(bound, Err(ErrorKind::AddrInUse), "{flag}");
    }
    assert_eq!(agent.health("").status, 200);
}

#[test]
fn a_node_name_with_odd_bytes() {
    let Some(sandbox) = Sandbox::new() else { return };
    let odd = "no\"de\\ \n\t\u{1}\u{2028}é{}";
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("NODE_NAME", odd);
    });
    assert_eq!(agent.health("").status, 200);
    assert_eq!(agent.faults_page().node.as_deref(), Some(odd));
    assert_eq!(agent.get("/nodename").status, 200);
    assert_eq!(agent.admin("/metrics").status, 200);
    let lines = agent.log();
    assert!(!lines.is_empty());
    for line in lines {
        serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|error| {
            panic!("a log line that is not JSON ({error}): {line}");
        });
    }
}

#[test]
fn a_node_name_that_is_not_utf_8() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("NODE_NAME", OsStr::from_bytes(b"no\xffde"));
    });
    assert_eq!(agent.health("").status, 200);
    // What JSON cannot carry is replaced, as everywhere in Rust.
    assert_eq!(agent.faults_page().node.as_deref(), Some("no\u{fffd}de"));
    assert_eq!(agent.get("/nodename").body, "Node: \"no\u{fffd}de\"");
}

#[test]
fn a_mount_point_and_a_backing_file_with_odd_names() {
    let Some(sandbox) = Sandbox::new() else { return };
    // mountinfo writes blank, tab, newline, backslash and # in octal.
    let name = "a b\tc\nd\\040e#f\"g - h,ro é";
    let mut volume = Volume::new(&sandbox, name, Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[&volume.device().name()]);
    let fault = fault(&agent, "filesystem_ro", volume.device());
    assert_eq!(fault.mount_points, [volume.point_text()]);
    assert_eq!(agent.admin("/metrics").status, 200);
    volume.unmount();
    agent.wait_recovery(at, TIMEOUT);
}
