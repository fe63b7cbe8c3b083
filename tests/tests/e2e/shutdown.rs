//! How the agent stops: signals, requests under way, idle connections.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::http::{connect, read_to_close};
use e2e::sandbox::say;
use e2e::{Agent, Sandbox, http2};
use rustix::process::Signal;

#[test]
fn sigterm_and_sigint_end_the_agent_in_order() {
    let Some(sandbox) = Sandbox::new() else { return };
    for signal in [Signal::TERM, Signal::INT] {
        let mut agent = Agent::start(&sandbox);
        // A connection that is open and idle does not delay the end.
        assert_eq!(agent.health("").status, 200);
        agent.signal(signal);
        assert_eq!(agent.wait_exit().code(), Some(0), "{signal:?}");
        assert!(!agent.control_socket().exists(), "the control socket is still there");
    }
    // The control socket of a killed agent does not keep the next one from starting.
    let mut agent = Agent::start(&sandbox);
    agent.signal(Signal::KILL);
    agent.wait_exit();
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.terminate().code(), Some(0));
}

/// An agent that got SIGTERM while a client was in the middle of its request.
fn stopping_with_half_a_request(sandbox: &Sandbox) -> (Agent, TcpStream) {
    let agent = Agent::start(sandbox);
    let mut client = TcpStream::connect(agent.health_address()).unwrap();
    client.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n").unwrap();
    // The same listener responses, so it has accepted the other connection before the signal.
    assert_eq!(agent.health("").status, 200);
    agent.signal(Signal::TERM);
    agent.wait_for_log(&["stopping"]);
    (agent, client)
}

#[test]
fn a_request_that_has_begun_is_responseed_before_the_end() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (mut agent, mut client) = stopping_with_half_a_request(&sandbox);
    client.write_all(b"\r\n").unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.contains(r#""status":"ready""#), "{response}");
    assert_eq!(agent.wait_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_agent_at_once() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (mut agent, _client) = stopping_with_half_a_request(&sandbox);
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait_exit().code(), Some(1));
    agent.wait_for_log(&["second signal"]);
}

#[test]
fn a_stop_closes_idle_connections_and_ends_calls_that_are_never_complete() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut agent = Agent::start(&sandbox);
    let to = agent.health_address();
    let silent = connect(to);
    // HTTP/2 without a request, and a gRPC call that is never complete.
    let mut greeting = connect(to);
    greeting.write_all(&http2::preface(1000)).unwrap();
    let mut half = connect(to);
    let mut bytes = http2::preface(1000);
    let grpc = [("content-type", "application/grpc")];
    bytes.extend(http2::request(1, "POST", "/grpc.health.v1.Health/Check", &grpc, false));
    half.write_all(&bytes).unwrap();
    let mut kept = connect(to);
    kept.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    let mut some = [0; 1024];
    assert!(kept.read(&mut some).unwrap() > 0);
    let began = Instant::now();
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.wait_exit().code(), Some(0));
    let took = began.elapsed();
    say(&format!("MEASURED {}: stopped after {took:?}", sandbox.name()));
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(read_to_close(&kept), "");
    // The kernel has not even passed this connection to the agent; it is reset when the client sends something.
    let mut silent = silent;
    silent.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    let end = silent.read(&mut some);
    assert!(end.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionReset), "{end:?}");
    for stream in [greeting, half] {
        let mut bytes = Vec::new();
        // The end may be a reset: what counts is the GOAWAY before it.
        let _end = (&mut &stream).read_to_end(&mut bytes);
        let (mut kinds, mut rest) = (Vec::new(), &*bytes);
        while let Some((kind, _, _, more)) = http2::next(rest) {
            kinds.push(kind);
            rest = more;
        }
        assert!(kinds.contains(&http2::GOAWAY), "{kinds:?}");
    }
}
