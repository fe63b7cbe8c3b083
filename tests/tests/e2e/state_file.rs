//! The state file (`STATE_FILE`): the verdict for programs that read a file, such as keepalived's script.

use std::fs;
use std::path::Path;

use e2e::agent::TIMEOUT;
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

#[test]
fn the_state_file_follows_the_verdict_and_stays() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let path = sandbox.path("run/tocsin/state");
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("STATE_FILE", &path);
    });
    let says = |expected: &str| {
        agent.wait_for(expected, TIMEOUT, |_| {
            let text = fs::read_to_string(&path).ok()?;
            // A reader never sees a part of it.
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
        "no other file is left in its directory"
    );
    assert_eq!(agent.terminate().code(), Some(0));
    assert_eq!(fs::read_to_string(&path).unwrap(), "0\nready\n");
}

#[test]
fn a_state_file_that_cannot_be_written_is_counted_and_logged() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("STATE_FILE", Path::new("/proc/tocsin/state"));
    });
    // The agent tries every second, counts each failure, and logs one of them.
    agent.wait_for("the failures are counted", TIMEOUT, |agent| {
        (agent.counter("tocsin_state_file_failures_total") >= 3).then_some(())
    });
    assert_eq!(agent.health("").status, 200);
    assert_eq!(agent.wait_for_log(&["/proc/tocsin/state"]), 1, "{:?}", agent.log());
}
