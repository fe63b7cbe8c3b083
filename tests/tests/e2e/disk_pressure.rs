//! `disk_pressure`: filesystems that run out of bytes or inodes, and some that hang.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::faulty_disk::{EVERYWHERE, Operation};
use e2e::sandbox::say;
use e2e::{Agent, FaultyDisk, Filesystem, LoopDevice, MIB, Mount, Sandbox, Volume, tool};
use rustix::fs::{FallocateFlags, StatVfs, fallocate, statvfs, syncfs};
use rustix::mount::MountFlags;
use rustix::process::Signal;

use crate::answers_do_not_wait;

/// Thresholds that the machine's own filesystems never reach.
const HARMLESS: &str = "/:0%,/:inodes:0%,/var/lib/kubelet:0%,/var/lib/containerd:0%,\
    /var/lib/containers:0%,inodes:0%";

const QUERY: &str = "?check=disk_pressure";

/// [`HARMLESS`] without the paths that do not exist: a configured path that does not exist is degraded.
pub(crate) fn harmless() -> String {
    let exists = |entry: &&str| {
        let (path, _) = entry.split_once(':').unwrap();
        path == "inodes" || Path::new(path).exists()
    };
    let entries: Vec<_> = HARMLESS.split(',').filter(exists).collect();
    entries.join(",")
}

fn start(sandbox: &Sandbox, thresholds: &str) -> Agent {
    Agent::start_with(sandbox, |command| {
        command
            .env("DISK_THRESHOLDS", format!("{},,{thresholds}", harmless()))
            .env("PROBE_INTERVAL", "100ms");
    })
}

/// Waits until the check fails for a reason with all these words.
fn wait_failure(agent: &Agent, words: &[&str]) -> String {
    let since = Instant::now();
    let reason =
        agent.wait_for(&format!("failing for a reason with {words:?}"), TIMEOUT, |agent| {
            let reason = agent.health(QUERY).failure("disk_pressure")?.to_owned();
            words.iter().all(|word| reason.contains(word)).then_some(reason)
        });
    say(&format!("MEASURED disk_pressure: 503 after {:?}: {reason}", since.elapsed()));
    reason
}

/// Waits until the check passes and is not degraded.
fn wait_pass(agent: &Agent) {
    agent.wait_for("disk_pressure passes", TIMEOUT, |agent| {
        let health = agent.health(QUERY);
        let check = health.check("disk_pressure")?;
        (health.status == 200 && check.degraded.is_none()).then_some(())
    });
}

fn degraded(agent: &Agent) -> Option<String> {
    agent.health(QUERY).degraded("disk_pressure").map(str::to_owned)
}

/// The free share, in per mille.
fn free(stat: &StatVfs) -> u64 {
    stat.f_bavail * 1000 / stat.f_blocks
}

/// Makes a file of the size that leaves `per_mille` of the bytes free.
pub(crate) fn fill(directory: &Path, per_mille: u64) {
    let path = directory.join("ballast");
    let file = File::options().create(true).truncate(false).write(true).open(path).unwrap();
    let stat = statvfs(directory).unwrap();
    let wanted = stat.f_blocks * per_mille / 1000;
    let held = file.metadata().unwrap().len();
    let length = (held + stat.f_bavail * stat.f_frsize).saturating_sub(wanted * stat.f_frsize);
    if length > held {
        fallocate(&file, FallocateFlags::empty(), 0, length).unwrap();
    } else {
        file.set_len(length).unwrap();
    }
    // Some filesystems count freed space as free only when that is on disk.
    syncfs(&file).unwrap();
    let found = free(&statvfs(directory).unwrap());
    assert!(found.abs_diff(per_mille) <= 20, "{found} per mille are free, not {per_mille}");
}

fn full_of_bytes(name: &str, filesystem: Filesystem) {
    let Some(sandbox) = Sandbox::new() else { return };
    if !e2e::require(filesystem.is_available(), &format!("there is no {}", filesystem.kind())) {
        return;
    }
    let volume = Volume::new(&sandbox, name, filesystem, "");
    let path = volume.point_text();
    let agent = start(&sandbox, &format!("{path}:50%"));
    wait_pass(&agent);
    fill(volume.point(), 550);
    // Also some samples later.
    std::thread::sleep(Duration::from_millis(300));
    wait_pass(&agent);

    fill(volume.point(), 450);
    wait_failure(&agent, &[&path, "% of bytes free (", " MiB of ", "below 50%"]);
    // The text stays the same while nothing changes.
    let said = |agent: &Agent| agent.health(QUERY).failure("disk_pressure").map(str::to_owned);
    agent.wait_for("a text that stays the same for some samples", TIMEOUT, |agent| {
        let before = said(agent)?;
        std::thread::sleep(Duration::from_millis(500));
        (said(agent)? == before).then_some(())
    });

    fill(volume.point(), 550);
    wait_failure(&agent, &[&path, "was below 50% and passes again above 60%"]);
    fs::remove_file(volume.path("ballast")).unwrap();
    syncfs(File::open(volume.point()).unwrap()).unwrap();
    wait_pass(&agent);
}

#[test]
fn an_ext4_full_of_bytes() {
    full_of_bytes("ext4", Filesystem::Ext4);
}

#[test]
fn an_xfs_full_of_bytes() {
    full_of_bytes("xfs", Filesystem::Xfs);
}

/// btrfs has no fixed number of inodes.
#[test]
fn a_btrfs_full_of_bytes() {
    full_of_bytes("btrfs", Filesystem::Btrfs);
}

#[test]
fn full_of_files() {
    let Some(sandbox) = Sandbox::new() else { return };
    let device = LoopDevice::over(&sandbox.file("few.img", 64 * MIB));
    let node = device.path();
    let arguments = ["-q", "-F", "-N", "400"].map(AsRef::as_ref);
    tool::run("mkfs.ext4", &[arguments.as_slice(), &[node.as_os_str()]].concat());
    let mount = Mount::new(&node, &sandbox.path("few"), "ext4", MountFlags::empty(), "");
    let point = mount.point();
    let path = point.to_string_lossy();
    let agent = start(&sandbox, &format!("{path}:1MiB,{path}:inodes:50%"));
    wait_pass(&agent);

    let stat = statvfs(point).unwrap();
    let some = |per_mille: u64| stat.f_files * per_mille / 1000;
    let file = |number: u64| point.join(format!("file{number}"));
    let used = stat.f_files - stat.f_ffree;
    (used..some(550)).for_each(|number| drop(File::create(file(number)).unwrap()));
    wait_failure(&agent, &[&path, "% of inodes free (", "below 50%"]);
    (some(450)..some(550)).for_each(|number| fs::remove_file(file(number)).unwrap());
    wait_failure(&agent, &[&path, "inodes", "was below 50% and passes again above 60%"]);
    (some(350)..some(450)).for_each(|number| fs::remove_file(file(number)).unwrap());
    wait_pass(&agent);
    drop(agent);
    mount.unmount();
}

#[test]
fn two_paths_on_one_filesystem() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let other = Mount::bind(volume.point(), &sandbox.path("other"));
    let (first, second) = (volume.point_text(), other.point().to_string_lossy().into_owned());
    let agent = start(&sandbox, &format!("{first}:1MiB,{second}:50%"));
    wait_pass(&agent);
    fill(volume.point(), 450);
    let named = format!("{first} (with {second}): ");
    let reason = wait_failure(&agent, &[&named, &format!("below 50% for {second}")]);
    assert!(!reason.contains("; "), "one filesystem is named once: {reason}");
    fill(volume.point(), 700);
    wait_pass(&agent);
}

#[test]
fn a_filesystem_that_hangs() {
    let Some(sandbox) = Sandbox::new() else { return };
    let hanging = FaultyDisk::new(&sandbox, "hanging", 64 * MIB);
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let (remote, local) = (hanging.point().to_string_lossy(), volume.point_text());
    let mut agent = start(&sandbox, &format!("{remote}:1%,{local}:50%"));
    wait_pass(&agent);

    let hang = hanging.control().hang(Operation::Statfs, EVERYWHERE);
    let stuck = format!("statfs of {remote} stuck for ");
    let since = Instant::now();
    let seconds = |agent: &Agent| {
        let text = degraded(agent)?;
        text.strip_prefix(&stuck)?.strip_suffix(" s")?.parse::<u64>().ok()
    };
    agent.wait_for("degraded", TIMEOUT, seconds);
    agent.wait_for("stuck for 3 s", TIMEOUT, |agent| seconds(agent).filter(|time| *time >= 3));
    assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(hanging.control().hanging(), 1, "statfs was called again while stuck");

    // No answer waits for it, and the other filesystem is still judged.
    answers_do_not_wait("disk_pressure while statfs hangs", 300, || {
        assert_eq!(agent.health(QUERY).status, 200);
    });
    fill(volume.point(), 450);
    let reason = wait_failure(&agent, &[&local, "below 50%"]);
    assert!(!reason.contains("stuck"), "{reason}");
    fill(volume.point(), 700);
    agent.wait_for("degraded again", TIMEOUT, seconds);

    drop(hang);
    wait_pass(&agent);

    // A call that never returns keeps the process: FUSE does not let go even of a killed thread. Its ports are free all
    // the same.
    let hang = hanging.control().hang(Operation::Statfs, EVERYWHERE);
    agent.wait_for("degraded", TIMEOUT, seconds);
    let ports = [agent.health_address(), agent.admin_address()].map(|at| at.port().to_string());
    agent.signal(Signal::TERM);
    let successor = || {
        Agent::try_start_with(&sandbox, |command| {
            command.env("LISTEN_PORT", &ports[0]).env("ADMIN_PORT", &ports[1]);
        })
    };
    let deadline = Instant::now() + TIMEOUT;
    let successor = loop {
        match successor() {
            Ok(successor) => break successor,
            Err(ended) => assert!(Instant::now() < deadline, "{ended:?}"),
        }
    };
    assert_eq!(successor.health("").status, 200);
    drop(hang);
    assert_eq!(agent.wait_exit().code(), Some(0));
}

#[test]
fn several_that_hang() {
    let Some(sandbox) = Sandbox::new() else { return };
    let remote = ["a", "b", "c"].map(|name| FaultyDisk::new(&sandbox, name, 64 * MIB));
    let path = |at: usize| remote[at].point().display().to_string();
    let stuck = |at: usize| format!("statfs of {} stuck for ", path(at));
    let agent = start(&sandbox, &format!("{}:1%,{}:1%,{}:1%", path(0), path(1), path(2)));
    wait_pass(&agent);
    let wait_stuck = |which: &[usize]| {
        agent.wait_for(&format!("stuck are {which:?}"), TIMEOUT, |agent| {
            let text = degraded(agent)?;
            (0..3).all(|at| text.contains(&stuck(at)) == which.contains(&at)).then_some(())
        });
    };
    let hang = |at: usize| remote[at].control().hang(Operation::Statfs, EVERYWHERE);
    let [first, second] = [hang(0), hang(1)];
    wait_stuck(&[0, 1]);
    let third = hang(2);
    wait_stuck(&[0, 1, 2]);
    drop(first);
    wait_stuck(&[1, 2]);
    let first = hang(0);
    wait_stuck(&[0, 1, 2]);
    // Long enough for several samples.
    std::thread::sleep(Duration::from_secs(2));
    for remote in &remote {
        assert_eq!(
            remote.control().hanging(),
            1,
            "statfs of {} was called again while stuck",
            remote.point().display()
        );
    }
    drop((first, second, third));
    wait_pass(&agent);
}

#[test]
fn a_path_that_is_not_there() {
    let Some(sandbox) = Sandbox::new() else { return };
    let path = sandbox.path("later");
    let agent = start(&sandbox, &format!("{}:1%", path.display()));
    let said = agent.wait_for("degraded", TIMEOUT, degraded);
    assert_eq!(said, format!("{} does not exist", path.display()));
    fs::create_dir(&path).unwrap();
    wait_pass(&agent);
}

/// The paths of an agent in a container are those of the host.
#[test]
fn paths_are_those_of_the_watched_namespace() {
    let Some(sandbox) = Sandbox::new() else { return };
    // This path is in this test's namespace alone.
    let hidden = sandbox.path("hidden");
    fs::create_dir(&hidden).unwrap();
    // These paths are in both namespaces; the link leads to a directory of the watched one.
    let shared = tempfile::tempdir().unwrap();
    let link = shared.path().join("link");
    std::os::unix::fs::symlink(shared.path(), &link).unwrap();
    // This thread has a namespace of its own, and the process's main thread another.
    let outside = format!("/proc/{}/mountinfo", std::process::id());
    for (path, there) in [(hidden.as_path(), false), (shared.path(), true), (&link, true)] {
        let agent = Agent::start_with(&sandbox, |command| {
            let thresholds = format!("/:0%,inodes:0%,{}:0%", path.display());
            command.env("DISK_THRESHOLDS", thresholds).env("MOUNT_TABLE", &outside);
        });
        let missing = format!("{} does not exist", path.display());
        let said = agent.wait_for("an answer", TIMEOUT, |agent| {
            let health = agent.health(QUERY);
            let check = health.check("disk_pressure")?.clone();
            check.passed.then_some(check.degraded)
        });
        assert_eq!(said, (!there).then_some(missing), "{}", path.display());
    }
}

#[test]
fn bad_thresholds_are_one_line_and_exit_2() {
    let Some(sandbox) = Sandbox::new() else { return };
    for (text, named) in [
        ("/data", "\"/data\": not path:limit or inodes:percent"),
        ("data:10%", "the path does not begin with /"),
        ("/:10%,/data:ten%", "\"/data:ten%\": \"ten%\" is not a number"),
        ("/data:10", "\"10\" has no unit"),
        ("/data:10PiB", "\"PiB\" is not a unit"),
        ("/data:101%", "101% is more than 100%"),
        ("inodes:5Gi", "a limit of inodes is a percentage"),
        ("/data:1%,/data:2%", "another limit of this kind for the same path"),
        ("/da\nta:1%", "\"/da\\nta:1%\": the path has a control character"),
    ] {
        let ended = Agent::refuses_to_start(&sandbox, |command| {
            command.env("DISK_THRESHOLDS", text);
        });
        assert_eq!(ended.status.code(), Some(2), "{text:?}: {ended:?}");
        assert_eq!(ended.log.len(), 1, "{text:?}: {ended:?}");
        assert!(ended.log[0].contains("DISK_THRESHOLDS: "), "{text:?}: {ended:?}");
        assert!(ended.log[0].contains(named), "{text:?}: {ended:?}");
    }
}
