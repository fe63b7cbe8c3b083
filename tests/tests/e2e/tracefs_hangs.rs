//! tracefs does not answer: the agent starts without kernel events and takes them when they come, and a hook of a module
//! that is loaded later holds up nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use e2e::agent::TIMEOUT;
use e2e::{Agent, Filesystem, Mount, Sandbox, Volume, inject};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::MountFlags;

use crate::names;

const FAILED: &str = "block/block_rq_error";
const SHUT_DOWN: &str = "ext4/ext4_shutdown";

/// A directory in the place of tracefs, with the agent's tracepoints in it.
struct FakeTracefs {
    real: Mount,
    fake: Mount,
}

impl FakeTracefs {
    /// All tracepoints are there, but for one.
    fn new(sandbox: &Sandbox, without: &str) -> Self {
        let none = MountFlags::empty();
        let real = sandbox.path("tracefs");
        let real = Mount::new(Path::new("tracefs"), &real, "tracefs", none, "");
        let place = Path::new("/sys/kernel/tracing");
        let fake = Mount::new(Path::new("tmpfs"), place, "tmpfs", none, "");
        let tracefs = Self { real, fake };
        for event in [FAILED, "block/block_bio_complete", "ext4/ext4_error", SHUT_DOWN] {
            if event != without {
                let format =
                    fs::read(tracefs.real.point().join("events").join(event).join("format"));
                fs::write(tracefs.event(event).join("format"), format.unwrap()).unwrap();
            }
        }
        tracefs
    }

    /// The directory of a tracepoint, with its number in it.
    fn event(&self, event: &str) -> PathBuf {
        let [real, fake] = [&self.real, &self.fake].map(|at| at.point().join("events").join(event));
        fs::create_dir_all(&fake).unwrap();
        fs::write(fake.join("id"), fs::read(real.join("id")).unwrap()).unwrap();
        fake
    }

    /// From now on a tracepoint is there, and reading its format hangs: it is a pipe.
    fn hang(&self, event: &str) {
        let format = self.event(event).join("format");
        let _was_there = fs::remove_file(&format);
        mknodat(CWD, &format, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    /// Gives the reader of a format what it waits for.
    fn answer(&self, event: &str) {
        let [real, fake] = [&self.real, &self.fake].map(|at| at.point().join("events").join(event));
        fs::write(fake.join("format"), fs::read(real.join("format")).unwrap()).unwrap();
    }
}

fn is_attached(agent: &Agent, event: &str) -> bool {
    let name = event.replace('/', ":");
    agent.faults_page().hooks.iter().any(|hook| hook.name == name && hook.state == "attached")
}

fn degraded(agent: &Agent, check: &str) -> String {
    agent.health("").degraded(check).unwrap_or_default().to_owned()
}

#[test]
fn a_hook_that_hangs_holds_nothing_up() {
    let Some(sandbox) = Sandbox::new() else { return };
    let tracefs = FakeTracefs::new(&sandbox, SHUT_DOWN);
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let [device, point] = names(&volume);

    // At the start: the agent polls, and says so.
    tracefs.hang(FAILED);
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let why = degraded(&agent, "io_errors");
    assert!(why.contains("loading the kernel programs takes more than"), "{why}");
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, TIMEOUT);

    // The programs come after all.
    tracefs.answer(FAILED);
    agent.wait_for("the hook is attached", TIMEOUT, |agent| {
        is_attached(agent, FAILED).then_some(())
    });
    agent.wait_for("no check is degraded", TIMEOUT, |agent| {
        let is_well = |check: &&str| degraded(agent, check).is_empty();
        ["filesystem_ro", "io_errors"].iter().all(is_well).then_some(())
    });
    assert!(!is_attached(&agent, SHUT_DOWN));

    // A module is loaded, and its tracepoint hangs: everything else goes on.
    tracefs.hang(SHUT_DOWN);
    agent.wait_for("degraded", 3 * TIMEOUT, |agent| {
        degraded(agent, "filesystem_ro")
            .contains("attaching kernel hooks takes more than")
            .then_some(())
    });
    assert_eq!(agent.get("/livez").status, 200);
    assert!(agent.metric("tocsin_look_age_seconds").unwrap() < 3.0);
    volume.mount("errors=remount-ro");
    let errors = agent.kernel_count("ext4_error", volume.device().number());
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    agent.wait_for("the event is counted", TIMEOUT, |agent| {
        (agent.kernel_count("ext4_error", volume.device().number()) > errors).then_some(())
    });
    tracefs.answer(SHUT_DOWN);
    agent.wait_for("the last hook", TIMEOUT, |agent| is_attached(agent, SHUT_DOWN).then_some(()));
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, TIMEOUT);
    assert!(degraded(&agent, "filesystem_ro").is_empty());
}
