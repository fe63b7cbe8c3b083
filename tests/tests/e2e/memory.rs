//! What an agent knows outlives it: open faults, cleared faults, and the events that nobody was there to see.

use std::fs::{self, OpenOptions};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use e2e::agent::{self, TIMEOUT, run_cli};
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::http::Connection;
use e2e::sandbox::{require, say};
use e2e::sync::SetOnDrop;
use e2e::{Agent, Emitted, Filesystem, MIB, Mount, Sandbox, Volume, inject};
use rustix::mount::MountFlags;
use rustix::process::Signal;

use crate::fault;

/// Where the agents of one test keep what the next one has to know.
pub(crate) struct Kept {
    _bpffs: Mount,
    pins: PathBuf,
    pub(crate) checkpoint: PathBuf,
}

impl Kept {
    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        let point = sandbox.path("bpf");
        let bpffs = Mount::new(Path::new("bpf"), &point, "bpf", MountFlags::empty(), "");
        let checkpoint = sandbox.path("run/checkpoint.json");
        Self { _bpffs: bpffs, pins: point.join("tocsin"), checkpoint }
    }

    fn settings(&self, command: &mut Command) {
        command.env("CHECKPOINT_FILE", &self.checkpoint).env("BPF_PIN_DIR", &self.pins);
        // Faults must not close by themselves while the test looks.
        command.env("IO_ERROR_WINDOW", "10m");
    }

    pub(crate) fn start(&self, sandbox: &Sandbox) -> Agent {
        Agent::start_with(sandbox, |command| self.settings(command))
    }

    /// The directories of agents; none if there is no directory for them.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.pins).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }

    /// The hooks that are pinned.
    pub(crate) fn hooks(&self) -> usize {
        let files = self.directories().into_iter().flat_map(|path| fs::read_dir(path).unwrap());
        let names = files.map(|file| file.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("link_")).count()
    }

    /// Waits until a checkpoint that was written after that time has what the agent knows: it is written 100 ms later at
    /// most.
    fn wait_checkpoint(&self, agent: &Agent, after: SystemTime, has: impl Fn(&str) -> bool) {
        agent.wait_for("the checkpoint", TIMEOUT, |_| {
            let is_new = fs::metadata(&self.checkpoint).ok()?.modified().ok()? >= after;
            let text = fs::read_to_string(&self.checkpoint).ok()?;
            (is_new && has(&text)).then_some(())
        });
    }
}

/// Whether hooks can be pinned on this kernel.
pub(crate) fn can_pin() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    require(version >= (5, 15), "hooks can be pinned from Linux 5.15 on")
}

/// Kills an agent as the kernel does when memory runs out.
pub(crate) fn kill(mut agent: Agent) {
    agent.signal(Signal::KILL);
    agent.wait_exit();
}

/// A device whose end fails every read, and where that begins.
fn cut(sandbox: &Sandbox, name: &str) -> Option<(Volume, u64)> {
    let missing = 60 * MIB;
    let volume = Volume::new(sandbox, name, Filesystem::Ext4, "");
    let backing = OpenOptions::new().write(true).open(sandbox.path(format!("{name}.img")));
    backing.and_then(|file| file.set_len(missing)).unwrap();
    let fails = inject::read_block(&volume.device().path(), missing).is_err();
    require(fails, "a loop device over a short file reads zeroes").then_some((volume, missing))
}

#[test]
fn a_restarted_agent_forgets_nothing() {
    let Some(sandbox) = Sandbox::new() else { return };
    if !can_pin() {
        return;
    }
    let Some((short, missing)) = cut(&sandbox, "short") else { return };
    let kept = Kept::new(&sandbox);
    let going_on = Volume::new(&sandbox, "continue", Filesystem::Ext4, "errors=continue");
    let failing = Volume::breakable(&sandbox, "failing", Filesystem::Ext4WithoutJournal, "");
    let cleared = Volume::new(&sandbox, "cleared", Filesystem::Ext4, "errors=continue");
    let agent = kept.start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    assert!(kept.hooks() >= 3, "{:?}", kept.directories());

    let at = inject::ext4_error(going_on.device());
    agent.wait_failure(at, "io_errors", &[&going_on.point_text()]);
    inject::ext4_error(cleared.device());
    failing.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    inject::write_synced(&failing.path("file"), 4096).unwrap_err();
    let id = agent.wait_for("the third fault", TIMEOUT, |agent| {
        let on = |device: &str| agent.faults().into_iter().find(|fault| fault.device == device);
        on(failing.device().number())?;
        on(cleared.device().number()).map(|fault| fault.id)
    });
    let before = SystemTime::now();
    assert!(run_cli(&sandbox, &["faults", "clear", &id]).status.success());
    let opened = fault(&agent, "filesystem_error", going_on.device()).opened;
    let has = |text: &str, volume: &Volume| {
        text.contains(&format!("\"dev\":\"{}\",\"opened\"", volume.device().number()))
    };
    kept.wait_checkpoint(&agent, before, |text| {
        has(text, &going_on) && has(text, &failing) && !has(text, &cleared)
    });

    // Killed: what it said is said by the first answer of the next one, and what happened in between is counted.
    kill(agent);
    let device = short.device().path();
    assert_eq!(inject::read_block_times(&device, missing, 1000), 1000);
    let agent = kept.start(&sandbox);
    let first = agent.health("");
    assert_eq!(first.status, 503, "{first:?}");
    assert_eq!(fault(&agent, "filesystem_error", going_on.device()).opened, opened);
    fault(&agent, "io_error", failing.device());
    let missed = fault(&agent, "io_error", short.device());
    assert_eq!(
        (missed.count, agent.kernel_count("block_read", short.device().number())),
        (1000, 1000)
    );
    assert!(agent.faults().iter().all(|fault| fault.id != id), "it was cleared");
    agent.wait_for("one agent's pins", TIMEOUT, |_| (kept.directories().len() == 1).then_some(()));

    // Another agent beside it leaves its things alone, and so does --unpin.
    let other = Agent::start_with(&sandbox, |command| {
        kept.settings(command);
        command.env("CONTROL_SOCKET", sandbox.path("other.sock"));
    });
    other.wait_for_log(&["another agent runs on this host"]);
    assert!(other.terminate().success());
    assert_eq!(kept.directories().len(), 1);
    let pins = kept.pins.to_str().unwrap();
    let unpin = || run_cli(&sandbox, &["agent", "--unpin", "--bpf-pin-dir", pins]);
    let refused = unpin();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another agent"), "{refused:?}");

    // Objects of another version are replaced, and everything is looked at once.
    assert!(agent.terminate().success());
    let [directory] = kept.directories().try_into().unwrap();
    let name = directory.file_name().unwrap().to_str().unwrap().replace("v1-", "v0-");
    fs::rename(&directory, kept.pins.join(name)).unwrap();
    let agent = kept.start(&sandbox);
    assert_eq!(agent.health("").status, 503);
    agent.wait_for_log(&["what an earlier agent has counted cannot be read", "another version"]);
    agent.wait_for("one agent's pins", TIMEOUT, |_| {
        matches!(&*kept.directories(), [one] if one.to_string_lossy().contains("v1-")).then_some(())
    });
    assert_eq!(agent.kernel_count("block_read", short.device().number()), 1000);

    // Without pins the checkpoint still knows.
    assert!(agent.terminate().success());
    assert!(unpin().status.success());
    assert!(!kept.pins.exists());
    let agent = Agent::start_with(&sandbox, |command| {
        kept.settings(command);
        command.env("BPF_PIN_DIR", "none");
    });
    assert_eq!(agent.health("").status, 503);
    assert_eq!(agent.kernel_count("block_read", short.device().number()), 1000);
    assert!(!kept.pins.exists());

    // A damaged checkpoint is ignored, and said; the agent looks at everything.
    assert!(agent.terminate().success());
    fs::write(&kept.checkpoint, "{\"version\":1").unwrap();
    let agent = kept.start(&sandbox);
    agent.wait_for_log(&["the checkpoint is ignored", "damaged"]);
    agent.wait_for("a look at everything", TIMEOUT, |agent| {
        // The disk still fails, which a test write shows.
        agent.faults().iter().any(|fault| fault.device == failing.device().number()).then_some(())
    });
    failing.control().heal();
}

/// Asks for `/health` without pause; counts the answers, and those that are not 503.
fn ask(address: SocketAddr, done: &AtomicBool, answers: &AtomicU64, wrong: &Mutex<Vec<String>>) {
    while !done.load(Ordering::Relaxed) {
        let Ok(mut connection) = Connection::open(address) else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        while let Ok(answer) = connection.get("/health/io_errors") {
            answers.fetch_add(1, Ordering::Relaxed);
            if answer.status != 503 {
                wrong.lock().unwrap().push(answer.body);
            }
            if done.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Every failed read is an event. Gives those of them for which this kernel ran programs at all.
fn with_programs(emitted: Option<Emitted>, failed: u64) -> u64 {
    let Some(counts) = emitted.map(|emitted| emitted.counts()) else { return failed };
    assert_eq!(counts.emitted, failed);
    counts.programs
}

/// Waits until that many failed reads are counted, or counted as missed; gives the former. (What is missed can be an event
/// of another test.)
fn wait_counted(agent: &Agent, device: &str, events: u64) -> u64 {
    agent.wait_for("every event", TIMEOUT, |agent| {
        let counted = agent.kernel_count("block_read", device);
        (counted + agent.missed_events() >= events).then_some(counted)
    })
}

#[test]
fn a_storm_is_counted_to_the_last_event() {
    const READERS: u64 = 4;
    const EACH: u64 = 25_000;
    let Some(sandbox) = Sandbox::new() else { return };
    let Some((victim, missing)) = cut(&sandbox, "storm") else { return };
    let mut other = Volume::new(&sandbox, "beside", Filesystem::Ext4, "");
    let [name, point] = crate::names(&other);
    let agent = Agent::start(&sandbox);
    let emitted = Emitted::new(&sandbox, victim.device());
    let bytes = emitted.as_ref().map_or(4096, Emitted::request);
    let (device, number) = (victim.device().path(), victim.device().number());
    let failed: u64 = thread::scope(|scope| {
        let read = || inject::read_times(&device, missing, bytes, EACH);
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        agent.wait_failure(Instant::now(), "io_errors", &[number]);
        // Another filesystem breaks meanwhile.
        let at = inject::shut_down(other.point());
        agent.wait_failure(at, "filesystem_ro", &[&name, &point]);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum()
    });
    assert_eq!(failed, READERS * EACH);
    let programs = with_programs(emitted, failed);
    let counted = wait_counted(&agent, number, programs);
    assert!(counted <= programs, "{counted} counted, {programs} emitted");
    other.unmount();
}

#[test]
fn upgrade_under_fire() {
    const RESTARTS: u64 = 10;
    let Some(sandbox) = Sandbox::new() else { return };
    if !can_pin() {
        return;
    }
    let Some((victim, missing)) = cut(&sandbox, "fire") else { return };
    let kept = Kept::new(&sandbox);
    let other_build = sandbox.path("tocsin");
    fs::copy(agent::binary(), &other_build).unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = |command: &mut Command| {
        kept.settings(command);
        command.env("LISTEN_PORT", address.port().to_string());
    };
    let (device, number) = (victim.device().path(), victim.device().number());
    let (done, failed) = (AtomicBool::new(false), AtomicU64::new(0));
    let (answers, wrong) = (AtomicU64::new(0), Mutex::default());
    let emitted = Emitted::new(&sandbox, victim.device());
    let bytes = emitted.as_ref().map_or(4096, Emitted::request);
    let mut agent = Agent::start_with(&sandbox, settings);
    assert_eq!(inject::read_times(&device, missing, bytes, 1), 1);
    agent.wait_failure(Instant::now(), "io_errors", &[number]);
    failed.fetch_add(1, Ordering::Relaxed);
    let agent = thread::scope(|scope| {
        let stop = SetOnDrop(&done);
        scope.spawn(|| ask(address, &done, &answers, &wrong));
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let times = inject::read_times(&device, missing, bytes, 100);
                failed.fetch_add(times, Ordering::Relaxed);
            }
        });
        for restart in 0..RESTARTS {
            thread::sleep(Duration::from_millis(100 * (restart % 3)));
            if restart % 2 == 0 {
                kill(agent);
            } else {
                assert!(agent.terminate().success());
            }
            agent = Agent::start_with(&sandbox, |command| {
                if restart % 3 == 0 {
                    *command = {
                        let mut other = Command::new(&other_build);
                        other.args(command.get_args());
                        other.env_clear();
                        let set =
                            command.get_envs().filter_map(|(name, value)| Some((name, value?)));
                        other.envs(set);
                        other
                    };
                }
                settings(command);
            });
        }
        drop(stop);
        agent
    });
    let failed = failed.load(Ordering::Relaxed);
    let programs = with_programs(emitted, failed);
    let counted = wait_counted(&agent, number, programs);
    let cpus = thread::available_parallelism().unwrap().get() as u64;
    say(&format!(
        "MEASURED upgrade_under_fire: {RESTARTS} restarts, {failed} failed requests, {} without a program, {counted} counted, {} answers",
        failed - programs,
        answers.load(Ordering::Relaxed)
    ));
    // While one agent takes over from another, an event can be counted by both.
    assert!(counted <= programs + RESTARTS * cpus, "{counted} counted, {programs} emitted");
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {answers:?} answers: {}", wrong.len(), wrong[0]);
    assert!(answers.load(Ordering::Relaxed) > RESTARTS);
    agent.wait_for("one agent's pins", TIMEOUT, |_| (kept.directories().len() == 1).then_some(()));
    kill(agent);
    let pins = kept.pins.to_str().unwrap();
    assert!(run_cli(&sandbox, &["agent", "--unpin", "--bpf-pin-dir", pins]).status.success());
    assert!(!kept.pins.exists());
}
