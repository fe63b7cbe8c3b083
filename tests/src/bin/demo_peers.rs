//! `cargo xtask demo peers`: five agents in network namespaces. One is unplugged, then the network splits, then all is
//! healed. It takes half a minute, and leaves nothing behind.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "it prints, or panics")]

use std::collections::BTreeSet;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use e2e::Sandbox;
use e2e::peer_net::{Node, Outside, Post};
use e2e::switch::Switch;

const AGENTS: usize = 5;
/// How long the demo waits for what takes two seconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Two seconds in which the agents hear of what has just happened.
const SECOND_THOUGHT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let began = Instant::now();
    let Some(sandbox) = Sandbox::new() else { return ExitCode::FAILURE };
    let Some(switch) = Switch::new(AGENTS + 1) else { return ExitCode::FAILURE };
    let outside = Outside::start(&switch, AGENTS);
    let url = outside.url("/peer");
    thread::scope(|scope| {
        step("five agents start, each in a network namespace of its own");
        let nodes = Node::start_all(scope, &sandbox, &switch, AGENTS, move |_, command| {
            command
                .env("NO_EBPF", "true")
                .env("PEER_STATUS_URL", &url)
                .env("PEER_RECOVERY", "true");
        });
        complete_matrix(&nodes[0]);
        let mut keys = BTreeSet::new();
        let mut wait = |since: Instant, count: usize| {
            let expected = keys.len() + count;
            while keys.len() < expected {
                assert!(since.elapsed() < PATIENCE, "nobody reports it");
                thread::sleep(Duration::from_millis(10));
                // A successor may tell again what it does not know to be accepted, with the same key.
                for post in outside.posts("/peer") {
                    if keys.insert(post.key.clone()) {
                        report(&post, since);
                    }
                }
            }
        };

        step("node-1 is unplugged");
        let since = Instant::now();
        switch.plug(0, false);
        wait(since, 1);
        step("node-1 is plugged in again");
        let since = Instant::now();
        switch.plug(0, true);
        wait(since, 1);
        thread::sleep(SECOND_THOUGHT);

        step(
            "the network splits: node-1, node-2 and node-3 on one side, node-4 and node-5 on the other",
        );
        let since = Instant::now();
        switch.partition(&[0, 1, 2], &[3, 4]);
        wait(since, 2);
        thread::sleep(SECOND_THOUGHT);
        println!("what the larger side sees:\n");
        matrix(&nodes[0]);
        println!("what the smaller side sees, which tells nobody:\n");
        matrix(&nodes[4]);

        step("the network is healed");
        let since = Instant::now();
        switch.heal();
        wait(since, 2);
        complete_matrix(&nodes[0]);
        drop(nodes);
    });
    println!("Over: agents and namespaces are gone; that took {:.1?}", began.elapsed());
    ExitCode::SUCCESS
}

fn step(text: &str) {
    println!("\n== {text}\n");
}

/// One webhook, and how long after the cause it came.
fn report(post: &Post, since: Instant) {
    let took = post.at.saturating_duration_since(since).as_secs_f64();
    println!("after {took:.2} s, a webhook: {}", post.body);
}

/// The matrix, once every agent has probed every other one and has heard from all of them.
fn complete_matrix(node: &Node) {
    let since = Instant::now();
    let is_complete = |text: &str| {
        let mut rows = text.lines().filter(|line| line.contains(" node-"));
        rows.all(|row| !row.contains(" ?") && !row.contains("LOST") && !row.contains("dead"))
    };
    while !is_complete(&peers(node)) && since.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(200));
    }
    matrix(node);
}

fn matrix(node: &Node) {
    println!("{}", peers(node));
}

/// What `tocsin peers` prints on a node.
fn peers(node: &Node) -> String {
    let admin = node.ask(|agent| format!("http://{}", agent.admin_address()));
    node.run(move |_| {
        let output = Command::new(e2e::agent::binary())
            .args(["peers", "--admin-url", &admin])
            .output()
            .expect("run tocsin peers");
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}
