//! What an agent leaves in the kernel for the next one: its counters and its attached hooks, pinned below a directory of
//! bpffs, so that events are counted while no agent runs.
//!
//! Each agent that starts makes a directory of its own, `v<version>-<instance>`, and takes over from those that it finds
//! there: its own hooks are attached first, then its gate opens at the moment at which theirs close, and then theirs are
//! removed. So no moment is unwatched, whether the earlier agent was of the same build or of another one.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
    programs::{
        ProgramInfo, TracePoint,
        links::{FdLink, PinnedLink},
        trace_point::TracePointLinkId,
    },
};
use rustix::{
    fs::statfs,
    thread::{MembarrierCommand, membarrier},
};
use tocsin_ebpf::{Gate, PINNED_VERSION};
use tracing::{info, warn};

use super::{
    hooks::runs_for_errors_alone,
    inherited::{Inherited, Takeover},
    pin_lock::{NoLock, lock},
    reader,
    wire::{Counts, GateMap, Uncounted, Wire, with_causes},
};
use crate::host::clock;

/// `BPF_FS_MAGIC` in include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// 5 milliseconds from the decision to take over until the gates move: enough to write every gate before.
const HANDOVER: Duration = Duration::from_nanos(HANDOVER_NANOS);
const HANDOVER_NANOS: u64 = 5_000_000;
/// The maps that are pinned, and their names in the directory.
const MAPS: [(&str, &str); 3] =
    [("COUNTS", "counts"), ("UNCOUNTED", "uncounted"), ("GATE", "gate")];
/// What the name of a pinned hook begins with.
const LINK: &str = "link_";
/// What the name of a pinned program begins with.
const PROGRAM: &str = "program_";

/// Why nothing can be pinned.
#[derive(Debug, thiserror::Error)]
pub enum NoPins {
    /// It was not asked for.
    #[error("BPF_PIN_DIR is empty")]
    Off,
    /// The directory is not in a bpffs.
    #[error("{0} is not in a bpffs (mount -t bpf bpf /sys/fs/bpf)")]
    NotBpffs(PathBuf),
    /// Another agent runs on this host and has its own objects there.
    #[error("another agent on this host uses {0}")]
    Held(PathBuf),
    /// The directory cannot be used.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// The directory for pinned objects, held by this agent alone.
#[derive(Debug)]
pub struct PinDir {
    root: PathBuf,
    /// This agent's own directory.
    own: PathBuf,
    _lock: OwnedFd,
}

/// A directory that an earlier agent has left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Predecessor {
    path: PathBuf,
    /// `None` if it is of another version, whose objects cannot be read.
    instance: Option<u64>,
}

impl PinDir {
    /// Opens the directory for the agent with this number, and makes it if it is missing.
    pub fn open(root: &Path, instance: u64) -> Result<Self, NoPins> {
        if root.as_os_str().is_empty() {
            return Err(NoPins::Off);
        }
        let failed = |error: io::Error| NoPins::Io(root.to_owned(), error);
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
        let fs_type = statfs(existing).map_err(|error| failed(error.into()))?.f_type;
        // The type is signed or unsigned, and of 32 or 64 bits, as the architecture has it.
        #[expect(clippy::cast_sign_loss, reason = "a magic number, compared bit by bit")]
        if fs_type as u64 & 0xffff_ffff != BPF_FS_MAGIC {
            return Err(NoPins::NotBpffs(root.to_owned()));
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        let lock = lock(root).map_err(|why| match why {
            NoLock::Held => NoPins::Held(root.to_owned()),
            NoLock::Io(error) => failed(error),
        })?;
        let own = root.join(format!("v{PINNED_VERSION}-{instance}"));
        Ok(Self { root: root.to_owned(), own, _lock: lock })
    }

    /// The directories that earlier agents have left, the oldest first. What others keep beside them is not ours to touch: an
    /// administrator may have named a directory that is shared, like /sys/fs/bpf itself.
    fn predecessors(&self) -> Vec<Predecessor> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut found: Vec<_> = entries
            .map(|entry| entry.path())
            .filter(|path| *path != self.own && is_an_agents(path))
            .map(|path| Predecessor { instance: instance_of(&path), path })
            .collect();
        found.sort_by_key(|predecessor| predecessor.instance);
        found
    }
}

/// What this agent has pinned.
pub(crate) struct Pins {
    dir: PinDir,
    gate: GateMap,
    /// They keep the hooks attached also if somebody removes the pins while this process runs.
    hooks: Vec<PinnedLink>,
    /// Pinning a hook has failed: nothing is pinned any more, and nothing will be.
    has_given_up: bool,
}

impl Pins {
    /// Pins the counters and the gate. Where an earlier agent's programs still count, those of this one do not count before
    /// [`take_over`](Self::take_over).
    pub(crate) fn new(dir: PinDir, ebpf: &mut Ebpf) -> Result<Self, String> {
        let made = fs::DirBuilder::new().mode(0o700).create(&dir.own);
        made.map_err(|error| format!("{}: {error}", dir.own.display()))?;
        for (name, file) in MAPS {
            let map = ebpf.map(name).ok_or_else(|| format!("no map {name} in the object"))?;
            map.pin(dir.own.join(file)).map_err(|error| with_causes(&error))?;
        }
        let gate = ebpf.take_map("GATE").ok_or("no map GATE in the object")?;
        let mut gate = GateMap::try_from(gate).map_err(|error| with_causes(&error))?;
        if !dir.predecessors().is_empty() {
            gate.set(0, Wire(Gate::CLOSED), 0).map_err(|error| with_causes(&error))?;
        }
        Ok(Self { dir, gate, hooks: Vec::new(), has_given_up: false })
    }

    /// Pins an attached hook: it stays attached when this process ends. An error means that the hook is detached, and that
    /// nothing is pinned any more.
    pub(crate) fn pin_hook(
        &mut self,
        program: &mut TracePoint,
        link: TracePointLinkId,
        event: &str,
    ) -> Result<(), String> {
        let path = self.dir.own.join(format!("{LINK}{event}"));
        let link = program.take_link(link).map_err(|error| with_causes(&error));
        let pinned = link.and_then(|link| {
            // Before Linux 5.15 there is no link for the event of a tracepoint.
            let link = FdLink::try_from(link).map_err(|error| with_causes(&error))?;
            // For the number of events that it misses.
            let place = self.dir.own.join(format!("{PROGRAM}{event}"));
            program.pin(place).map_err(|error| with_causes(&error))?;
            link.pin(path).map_err(|error| with_causes(&error))
        });
        match pinned {
            Ok(pinned) => self.hooks.push(pinned),
            Err(why) => {
                self.give_up();
                return Err(why);
            }
        }
        Ok(())
    }

    /// Number of hooks that are pinned.
    pub(crate) fn hooks(&self) -> usize {
        if self.has_given_up { 0 } else { self.hooks.len() }
    }

    /// Whether hooks can be pinned, as far as is known.
    pub(crate) fn is_working(&self) -> bool {
        !self.has_given_up
    }

    /// Goes on without pins: the programs count from now on. Hooks that were pinned stay attached while this process runs.
    fn give_up(&mut self) {
        self.has_given_up = true;
        if let Err(error) = self.gate.set(0, Wire(Gate::default()), 0) {
            warn!(%error, "the gate of the kernel programs cannot be opened");
        }
        self.forget_predecessors();
        let _nothing_there = fs::remove_dir_all(&self.dir.own);
    }

    /// Takes over from the agents before: opens the gate at the moment at which theirs close, reads what they counted, and
    /// detaches their hooks. Their counters stay until [`forget_predecessors`](Self::forget_predecessors).
    pub(crate) fn take_over(&mut self) -> Result<Takeover, String> {
        if self.has_given_up {
            return Ok(Takeover::default());
        }
        let predecessors = self.dir.predecessors();
        let at = clock::monotonic() + HANDOVER_NANOS;
        let opened = self.gate.set(0, Wire(Gate { from: at, until: 0 }), 0);
        opened.map_err(|error| with_causes(&error))?;
        let mut takeover = Takeover::default();
        let mut readable = Vec::new();
        for predecessor in &predecessors {
            let name = predecessor.path.file_name().unwrap_or_default().to_string_lossy();
            match predecessor.instance.ok_or("another version".to_owned()).and_then(|instance| {
                close_gate(&predecessor.path, at)?;
                Ok(instance)
            }) {
                Ok(instance) => readable.push((instance, &predecessor.path)),
                Err(why) => {
                    warn!(directory = %name, why, "what an earlier agent has counted cannot be read");
                    takeover.unreadable.push(name.into_owned());
                }
            }
        }
        if !readable.is_empty() {
            // Until the gates have moved, and programs that read the time before that have ended.
            thread::sleep(HANDOVER + Duration::from_millis(1));
            wait_for_programs();
        }
        for (instance, path) in readable {
            match counts(path) {
                Ok(counts) => {
                    let missed = missed(path);
                    takeover.inherited.push(Inherited { instance, counts, missed });
                }
                Err(why) => {
                    warn!(directory = %path.display(), why, "what an earlier agent has counted cannot be read");
                    takeover.unreadable.push(path.display().to_string());
                }
            }
        }
        for predecessor in &predecessors {
            detach(&predecessor.path);
        }
        if !predecessors.is_empty() {
            info!(agents = predecessors.len(), "took over the counters that an earlier agent left");
        }
        Ok(takeover)
    }

    /// Removes what earlier agents have left.
    pub(crate) fn forget_predecessors(&self) {
        for predecessor in self.dir.predecessors() {
            if let Err(error) = fs::remove_dir_all(&predecessor.path) {
                warn!(path = %predecessor.path.display(), %error, "an earlier agent's objects stay pinned");
            }
        }
    }
}

/// Removes everything that agents have left below `root`; returns how many directories that were. An agent that runs is an
/// error.
pub fn unpin(root: &Path) -> Result<usize, NoPins> {
    if !root.exists() {
        return Ok(0);
    }
    let dir = PinDir::open(root, 0)?;
    let predecessors = dir.predecessors();
    let failed = |error: io::Error| NoPins::Io(root.to_owned(), error);
    for predecessor in &predecessors {
        fs::remove_dir_all(&predecessor.path).map_err(failed)?;
    }
    match fs::remove_dir(root) {
        // Others keep something there, or it is where the bpffs is mounted.
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
            ) =>
        {
            Err(failed(error))
        }
        _ => Ok(predecessors.len()),
    }
}

/// Whether an agent of any version gave a directory its name: `v<version>-<instance>`, both in digits.
fn is_an_agents(path: &Path) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let name = path.file_name().and_then(|name| name.to_str());
    let numbers = name.and_then(|name| name.strip_prefix('v')?.split_once('-'));
    numbers.is_some_and(|(version, instance)| is_number(version) && is_number(instance))
}

/// The number of the agent that made a directory, if it is of this version.
fn instance_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix(&format!("v{PINNED_VERSION}-"))?.parse().ok()
}

/// Waits until every program has ended that runs now: on a virtual machine, a processor can stand still for longer than any
/// sleep, between the time that a program reads and its count. This command waits for a grace period of RCU, and a program
/// runs inside a read-side section of RCU (kernel/sched/membarrier.c, `trace_call_bpf`).
fn wait_for_programs() {
    if membarrier(MembarrierCommand::Global).is_err() {
        // A kernel with `nohz_full` does not have it.
        thread::sleep(Duration::from_millis(50));
    }
}

/// Closes the gate of an earlier agent, unless it is closed from an earlier time on.
fn close_gate(directory: &Path, at: u64) -> Result<(), String> {
    let map = MapData::from_pin(directory.join("gate")).map_err(|e| with_causes(&e))?;
    let map = Map::from_map_data(map).map_err(|error| with_causes(&error))?;
    let mut gate = GateMap::try_from(map).map_err(|error| with_causes(&error))?;
    let Wire(Gate { from, until }) = gate.get(&0, 0).map_err(|error| with_causes(&error))?;
    if until == 0 || until > at {
        let closed = Wire(Gate { from, until: at });
        gate.set(0, closed, 0).map_err(|error| with_causes(&error))?;
    }
    Ok(())
}

/// What an earlier agent counted.
fn counts(directory: &Path) -> Result<Vec<reader::Count>, String> {
    let map = MapData::from_pin(directory.join("counts")).map_err(|e| with_causes(&e))?;
    let map = Map::from_map_data(map).map_err(|error| with_causes(&error))?;
    let counts = Counts::try_from(map).map_err(|error| with_causes(&error))?;
    reader::counts(&counts).map_err(|error| with_causes(&error))
}

/// Events that the programs of an earlier agent missed, or had no room to count.
fn missed(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let programs = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().strip_prefix(PROGRAM).is_some_and(runs_for_errors_alone)
    });
    let missed = programs.filter_map(|entry| {
        let program = ProgramInfo::from_pin(entry.path()).ok()?.fd().ok()?;
        reader::missed(program.as_fd())
    });
    let uncounted = MapData::from_pin(directory.join("uncounted"))
        .and_then(Map::from_map_data)
        .and_then(Uncounted::try_from)
        .map_or(0, |map| reader::uncounted(&map));
    missed.sum::<u64>() + uncounted
}

/// Detaches the hooks of an earlier agent.
fn detach(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(LINK)
            && let Err(error) = fs::remove_file(entry.path())
        {
            warn!(path = %entry.path().display(), %error, "an earlier agent's hook stays attached");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_says_its_version_and_its_agent() {
        // (name, whether an agent made it, which one of this version)
        for (name, is_ours, instance) in [
            ("v1-12345", true, Some(12345)),
            ("v1-", false, None),
            ("v0-12345", true, None),
            ("v12-12345", true, None),
            ("v1-x", false, None),
            ("v-1", false, None),
            ("v1-2-3", false, None),
            ("other", false, None),
            ("cilium", false, None),
            ("systemd", false, None),
            ("v1", false, None),
        ] {
            let path = Path::new("/sys/fs/bpf/tocsin").join(name);
            assert_eq!(is_an_agents(&path), is_ours, "{name}");
            assert_eq!(instance_of(&path), instance, "{name}");
        }
    }

    #[test]
    fn only_a_bpffs_will_do() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(PinDir::open(&dir.path().join("a/b"), 1), Err(NoPins::NotBpffs(_))));
        assert!(!dir.path().join("a").exists());
        assert!(matches!(PinDir::open(Path::new(""), 1), Err(NoPins::Off)));
        assert!(matches!(unpin(&dir.path().join("a")), Ok(0)));
    }
}
