//! Runs the probes that the ledger asks for.

use std::{future::pending, path::PathBuf};

use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{
    ledger::{Action, Probed},
    probe::{Probe, Root, check_root, write_probe},
    sampling::mounts::MountTable,
    settings,
};
use crate::{
    host::{Bounded, Paths, clock},
    model::Dev,
};

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// It checks the root directory.
    Check,
    /// It checks the root directory and syncs it.
    Sync,
    /// It checks the root directory and writes a file.
    Write,
}

/// Running probes: at most one per filesystem, because the ledger asks for no second one before the first comes back.
#[derive(Debug)]
pub(super) struct ProbeRunner {
    paths: Paths,
    bounded: Bounded,
    running: JoinSet<Probed>,
}

impl ProbeRunner {
    /// A runner that finds mount points by these paths.
    pub(super) fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone(), bounded: Bounded::default(), running: JoinSet::new() }
    }

    /// Starts a probe of a filesystem of `table`.
    pub(super) fn start(&mut self, action: Action, table: &MountTable) {
        let Action { dev, write } = action;
        let Some(filesystem) = table.filesystems.get(&dev) else { return };
        let mode = if write {
            Mode::Write
        } else if filesystem.fs_type == "ext4" && !filesystem.read_only {
            Mode::Sync
        } else {
            Mode::Check
        };
        let started = clock::monotonic();
        let bounded = self.bounded.clone();
        // The number of the mount is in the name, so that a probe that is stuck on a filesystem does not hold up those of
        // another one that is mounted from the same device later.
        let place = filesystem
            .probe_mount()
            .map(|mount| (self.paths.inside(&mount.point), format!("probe {dev} {}", mount.id)));
        self.running.spawn(async move { run(&bounded, place, dev, mode, started).await });
    }

    /// Waits for the next probe to come back; for ever if none is running.
    pub(super) async fn next(&mut self) -> Probed {
        loop {
            match self.running.join_next().await {
                Some(Ok(probed)) => return log(probed),
                Some(Err(error)) => warn!(%error, "a probe's task died"),
                None => pending().await,
            }
        }
    }

    /// The next probe that has come back already.
    pub(super) fn try_next(&mut self) -> Option<Probed> {
        loop {
            match self.running.try_join_next()? {
                Ok(probed) => return Some(log(probed)),
                Err(error) => warn!(%error, "a probe's task died"),
            }
        }
    }

    /// Whether no probe is running.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Number of calls that are running or stuck, which may outlive their probes.
    pub(super) fn calls(&self) -> usize {
        self.bounded.running()
    }
}

fn log(probed: Probed) -> Probed {
    debug!(dev = %probed.dev, root = ?probed.root, write = ?probed.write, "probe");
    probed
}

async fn run(
    bounded: &Bounded,
    place: Option<(PathBuf, String)>,
    dev: Dev,
    mode: Mode,
    started: u64,
) -> Probed {
    let late = Probed {
        dev,
        started,
        root: Root::Late,
        write: (mode == Mode::Write).then_some(Probe::Late),
        full: false,
    };
    let Some((path, name)) = place else { return late };
    let call = move || {
        let root = check_root(&path, dev, mode == Mode::Sync);
        let report = (mode == Mode::Write).then(|| write_probe(&path, dev));
        (root, report)
    };
    match bounded.run(name, settings::PROBE_DEADLINE, call).await {
        Ok((root, report)) => {
            let full = report.as_ref().is_some_and(|report| report.full);
            let write = report.map(|report| report.probe);
            Probed { dev, started, root, write, full }
        }
        Err(_stuck) => late,
    }
}
