//! Runs the probes that the ledger asks for.

use std::{
    future::pending,
    path::{Path, PathBuf},
};

use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::{
    detached_mount::in_namespace,
    ledger::{Action, Probed},
    probe::{Probe, Report, Root, Sync, check_root, write_probe},
    sampling::mounts::MountTable,
    sectors::{Sector, device_path, read_sectors},
    settings,
};
use crate::{
    host::{Bounded, Paths, clock},
    model::Dev,
};

/// What a probe does, apart from a look at the root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing.
    Check,
    /// It syncs the root directory.
    Sync,
    /// It writes a file, and syncs it in this way.
    Write(Sync),
}

/// The mount to probe.
struct Place {
    /// Of the watched namespace.
    root: PathBuf,
    /// Below that root.
    point: PathBuf,
    /// To read.
    sectors: Vec<Sector>,
    /// Of the call.
    name: String,
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
    ///
    /// Where it does not write, it reads these sectors.
    pub(super) fn start(&mut self, action: Action, sectors: Vec<Sector>, table: &MountTable) {
        let Action { dev, write, verify } = action;
        let Some(filesystem) = table.filesystems.get(&dev) else { return };
        let is_ext = matches!(filesystem.fs_type.as_str(), "ext2" | "ext3" | "ext4");
        let mode = match (write, verify) {
            // What ext4 could not write to its journal shows when the journal is committed.
            (true, _) if is_ext => Mode::Write(Sync::Device(device_path(table.device_name(dev)))),
            (true, true) => Mode::Write(Sync::File),
            (true, false) => Mode::Write(Sync::None),
            (false, _) if is_ext && !filesystem.read_only => Mode::Sync,
            (false, _) => Mode::Check,
        };
        let started = clock::monotonic();
        let bounded = self.bounded.clone();
        // The number of the mount is in the name, so that a probe that is stuck on a filesystem does not hold up those of
        // another one that is mounted from the same device later.
        let place = filesystem.probe_mount().map(|mount| Place {
            root: self.paths.root.clone(),
            point: mount.point.clone(),
            sectors,
            name: format!("probe {dev} {}", mount.id),
        });
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
    place: Option<Place>,
    dev: Dev,
    mode: Mode,
    started: u64,
) -> Probed {
    let late = Probed {
        dev,
        started,
        root: Root::Late,
        write: matches!(mode, Mode::Write(_)).then_some(Probe::Late),
        full: false,
        unreadable: None,
    };
    let Some(Place { root, point, sectors, name }) = place else { return late };
    let call = move || {
        in_namespace(&root, |root| (probe(root, &point, dev, &mode), read_sectors(root, &sectors)))
    };
    match bounded.run(name, settings::PROBE_DEADLINE, call).await {
        Ok(Ok(((root, report), unreadable))) => {
            let full = report.as_ref().is_some_and(|report| report.full);
            let write = report.map(|report| report.probe);
            Probed { dev, started, root, write, full, unreadable }
        }
        Ok(Err(_)) | Err(_) => late,
    }
}

/// Probes the filesystem that is mounted on `point` below `root`.
fn probe(root: &Path, point: &Path, dev: Dev, mode: &Mode) -> (Root, Option<Report>) {
    let path = root.join(point.strip_prefix("/").unwrap_or(point));
    let state = check_root(&path, dev, *mode == Mode::Sync);
    let report = match mode {
        Mode::Check | Mode::Sync => None,
        Mode::Write(Sync::Device(device)) => {
            Some(write_probe(&path, dev, &Sync::Device(root.join(device))))
        }
        Mode::Write(sync) => Some(write_probe(&path, dev, sync)),
    };
    (state, report)
}
