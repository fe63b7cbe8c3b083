//! The demo: in a terminal, filesystems break and are repaired, and `/health` follows.
//!
//! It runs in a mount namespace of its own and leaves nothing behind. It exits with an error if the agent does not answer
//! as it should.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "it prints, or panics")]

use std::io::{IsTerminal, stdout};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use e2e::agent::{IO_ERROR_WINDOW, QUICK_STALL_AFTER, TIMEOUT, quick_stalls, run_cli};
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::http::{Connection, Response};
use e2e::{Agent, Filesystem, MIB, Sandbox, Volume, inject};

fn main() -> ExitCode {
    let Some(sandbox) = Sandbox::new() else { return ExitCode::FAILURE };
    let start = Instant::now();
    title("A host, and an agent that watches its storage");
    let mut volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let disk = Volume::breakable(&sandbox, "disk", Filesystem::Ext4WithoutJournal, "");
    inject::write_synced(&disk.path("file"), 4096).expect("write to a good disk");
    // The blocks of this file alone: other writes, such as the agent's own test write, succeed.
    let blocks = inject::ext4_ranges(disk.device(), "/file").remove(0);
    step(&format!("an ext4 filesystem on {}", place(&volume)));
    step(&format!("another one on {}, whose disk can be broken on command", place(&disk)));
    let at = Instant::now();
    let agent = Agent::start_with(&sandbox, quick_stalls);
    let answer = get(&agent);
    step(&format!("tocsin agent started; first answer after {}", since(at)));
    show(&agent, &answer, 200);

    title("The filesystem reports an error and the kernel stops all writing");
    let answer = break_and_watch(&agent, || {
        inject::ext4_error(volume.device());
    });
    show(&agent, &answer, 503);
    step("and a moment later, when the agent has tried to write:");
    wait_until(&agent, "filesystem_ro", false);
    show(&agent, &get(&agent), 503);
    step("$ tocsin faults");
    let url = format!("http://{}", agent.admin_address());
    let table = run_cli(&sandbox, &["faults", "--admin-url", &url]);
    print!("{}", String::from_utf8_lossy(&table.stdout));

    title("Repaired: umount, e2fsck, mount");
    volume.unmount();
    volume.repair();
    volume.mount("errors=remount-ro");
    wait_until(&agent, "filesystem_ro", true);
    show(&agent, &get(&agent), 200);

    title("One write does not reach the other disk (EIO)");
    let answer = break_and_watch(&agent, || {
        disk.control().fail(Operation::Write, Errno::EIO, blocks);
        inject::write_block(&disk.path("file"), 0).expect_err("the disk is broken");
    });
    show(&agent, &answer, 503);
    disk.control().heal();
    step(&format!(
        "no further error for IO_ERROR_WINDOW ({IO_ERROR_WINDOW:?} here, 5 min by default):"
    ));
    wait_until(&agent, "io_errors", true);
    show(&agent, &get(&agent), 200);

    title("The disk hangs: no error, no answer");
    let device = disk.device().path();
    thread::scope(|scope| {
        let hang = disk.control().hang(Operation::Read, EVERYWHERE);
        let reader = scope.spawn(|| inject::read_block(&device, 32 * MIB));
        step(&format!(
            "a read that hangs for IO_STALL_AFTER ({QUICK_STALL_AFTER:?} here, 5 s by default):"
        ));
        wait_until(&agent, "io_stall", false);
        show(&agent, &get(&agent), 503);
        drop(hang);
        reader.join().expect("join the reader").expect("the read succeeds in the end");
    });
    step("and it answers again:");
    wait_until(&agent, "io_stall", true);
    show(&agent, &get(&agent), 200);

    title("Over");
    assert!(agent.terminate().success(), "the agent ends in order");
    drop((volume, disk));
    drop(sandbox);
    step(&format!("agent, mounts and loop devices are gone; that took {}", since(start)));
    ExitCode::SUCCESS
}

/// Gets `/health` without a pause while something breaks; gives the first response that is not 200.
fn break_and_watch(agent: &Agent, break_it: impl FnOnce()) -> Response {
    let address = agent.health_address();
    thread::scope(|scope| {
        let watcher = scope.spawn(move || {
            let mut connection = Connection::open(address).expect("connect to the agent");
            let end = Instant::now() + TIMEOUT;
            loop {
                let answer = connection.get("/health").expect("an answer");
                if answer.status != 200 || Instant::now() > end {
                    return answer;
                }
            }
        });
        break_it();
        let answer = watcher.join().expect("join the watcher");
        assert_eq!(answer.status, 503, "the agent did not notice");
        let kernel = agent.faults().iter().filter_map(|fault| fault.kernel_ns).min();
        if let Some(took) = kernel.and_then(|at| answer.first_byte_ns.checked_sub(at)) {
            let took = std::time::Duration::from_nanos(took);
            step(&format!("503 reached the load balancer {took:.1?} after the kernel noticed"));
        }
        answer
    })
}

/// Waits until a check passes or fails; when it passes, all checks have to.
fn wait_until(agent: &Agent, check: &str, passes: bool) {
    let what = format!("{check} {}", if passes { "passes" } else { "fails" });
    agent.wait_for(&what, TIMEOUT, |agent| {
        let health = agent.health("");
        let all = health.status == 200;
        (health.passed(check) == passes && all == passes).then_some(())
    });
}

fn get(agent: &Agent) -> Response {
    agent.get("/health")
}

fn place(volume: &Volume) -> String {
    format!("{} at {}", volume.device().path().display(), volume.point().display())
}

fn since(at: Instant) -> String {
    format!("{:.1?}", at.elapsed())
}

fn title(text: &str) {
    let (bold, plain) = if stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    println!("\n{bold}{text}{plain}");
}

fn step(text: &str) {
    println!("  {text}");
}

fn show(agent: &Agent, answer: &Response, expected: u16) {
    step(&format!("$ curl http://{}/health", agent.health_address()));
    let (colour, plain) = match (stdout().is_terminal(), answer.status) {
        (false, _) => ("", ""),
        (true, 200) => ("\x1b[32m", "\x1b[0m"),
        (true, _) => ("\x1b[31m", "\x1b[0m"),
    };
    step(&format!("{colour}{}{plain} {}", answer.status, answer.body));
    assert_eq!(answer.status, expected, "not the expected status");
}
