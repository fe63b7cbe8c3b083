//! The kernel task: carries events, looks and probe results to the ledger, does what it asks for, and
//! publishes what it says. It never waits for a disk itself.

use std::{
    fs::File,
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tokio::{
    io::unix::AsyncFd,
    sync::mpsc,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    Command, KernelStats, TaskChannels,
    blind_spots::blind_spots,
    fanotify::{self, ErrorEvents},
    ledger::{Action, Ledger, Now, Probed},
    looker::{self, AskForLook, Looked, Looker},
    probe::{Probe, Root, look_at_root, write_probe},
    publish::Publisher,
    reader::{self, Event, NamedCount, kind_name},
    wake::{BATCH, Hooks, filesystem_error, mount_poll, mounts_changed, ring_readable},
};
use crate::{
    errno,
    host::{Bounded, Paths, clock},
    kernel::settings::{self, Settings},
    model::{Dev, FaultView, MOUNT_POINTS_SHOWN},
};

/// After an event the result may show late: look again after these times.
const LOOKS_AFTER_EVENT: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(10),
    Duration::from_millis(100),
    Duration::from_secs(1),
];

/// A look may take at most this share of the time: one look, then forty times as long without.
const LOOK_REST: u32 = 40;

/// The task and all it owns.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Kernel {
    ledger: Ledger,
    paths: Paths,
    bounded: Bounded,
    hooks: Result<Hooks, String>,
    fanotify: Option<ErrorEvents>,
    mount_poll: Option<AsyncFd<File>>,
    ask: AskForLook,
    looks: mpsc::Receiver<Looked>,
    /// Running probes: one per filesystem at most.
    probes: JoinSet<Probed>,
    commands: mpsc::Receiver<Command>,
    publisher: Publisher,
    /// The ledger's version that was published last.
    published: u64,
    /// Looks still owed to the last event: its time, and the next of [`LOOKS_AFTER_EVENT`].
    burst: Option<(Instant, usize)>,
    /// A look is being made.
    looking: Option<Instant>,
    /// When the counters are read next, and when an event came last.
    tick_at: Instant,
    last_event: Option<Instant>,
    /// Not before this, so that looks of a huge table leave time for others.
    rest_until: Instant,
    look_seconds: f64,
    blind: Option<String>,
    /// All events that were counted, and events for which no program ran.
    counted: u64,
    missed: u64,
}

impl Kernel {
    /// Loads the hooks (or finds out why not), makes the first look and waits, within
    /// [`settings::START_DEADLINE`], until what it says of this host is right.
    pub async fn start(
        config: &Settings,
        paths: &Paths,
        channels: TaskChannels,
    ) -> io::Result<Self> {
        let TaskChannels { commands, publisher } = channels;
        // Hooks first: what happens from here on is not missed.
        let hooks = if config.no_ebpf {
            Err("eBPF is off (NO_EBPF)".to_owned())
        } else {
            Hooks::load(config, paths)
        };
        let (mut fanotify, mut marks) = (None, None);
        if let Err(why) = &hooks {
            warn!(why, "no kernel events: falling back to polling");
            match fanotify::new() {
                Ok((events, watched)) => (fanotify, marks) = (Some(events), Some(watched)),
                Err(error) => info!(%error, "no fanotify error events either"),
            }
        }
        let looker = Looker::new(paths, marks)?;
        let (ask, looks) = looker::spawn(looker, config.reread_interval)?;
        let mut kernel = Self {
            ledger: Ledger::new(config.rules.clone()),
            paths: paths.clone(),
            bounded: Bounded::default(),
            fanotify,
            mount_poll: mount_poll(paths),
            hooks,
            ask,
            looks,
            probes: JoinSet::new(),
            commands,
            publisher,
            published: u64::MAX,
            burst: None,
            looking: None,
            tick_at: Instant::now(),
            last_event: None,
            rest_until: Instant::now(),
            look_seconds: 0.0,
            blind: Some("the mount table has not been read yet".to_owned()),
            counted: 0,
            missed: 0,
        };
        kernel.tell_xfs_events();
        kernel.settle_at_start().await;
        info!(filesystems = watched(&kernel.ledger), "watching");
        Ok(kernel)
    }

    /// The first look, its probes, and I/O that was in flight before us.
    async fn settle_at_start(&mut self) {
        let deadline = Instant::now() + settings::START_DEADLINE;
        loop {
            self.look_now();
            tokio::select! {
                Some(looked) = self.looks.recv() => self.looked(looked),
                () = sleep_until(deadline) => break,
            }
            while let Some(probed) = self.probes.try_join_next() {
                self.probe_came_back(probed);
            }
            let unsettled = !self.probes.is_empty() || self.ledger.unmoved_since_start();
            if !unsettled || Instant::now() >= deadline {
                break;
            }
            tokio::select! {
                Some(probed) = self.probes.join_next() => self.probe_came_back(probed),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
        self.ledger.presume_stalled(now());
        self.publish_stats();
        self.publish();
    }

    /// Runs until the commands' senders are gone or something it needs has died.
    pub async fn run(mut self) -> anyhow::Error {
        let mut hooks_at = Instant::now() + settings::HOOK_RETRY;
        let mut events = Vec::with_capacity(BATCH);
        loop {
            let next = self.next_wake();
            tokio::select! {
                result = ring_readable(&mut self.hooks, &mut events) => {
                    if let Err(error) = result {
                        return anyhow::anyhow!("the ring buffer cannot be read: {error}");
                    }
                    self.events(&mut events);
                }
                () = mounts_changed(self.mount_poll.as_ref()) => self.start_burst(),
                () = filesystem_error(self.fanotify.as_ref()) => self.start_burst(),
                looked = self.looks.recv() => match looked {
                    Some(looked) => self.looked(looked),
                    None => return anyhow::anyhow!("the looker thread has died"),
                },
                Some(probed) = self.probes.join_next() => self.probe_came_back(probed),
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return anyhow::anyhow!("nobody can send commands any more"),
                },
                () = sleep_until(next) => {}
                () = sleep_until(self.tick_at) => {
                    self.publish_stats();
                    self.is_looker_stuck();
                    let now = Instant::now();
                    let pause = if self.is_eventful(now) { settings::COUNTERS_INTERVAL } else { settings::IDLE_INTERVAL };
                    self.tick_at = now + pause;
                    if now >= hooks_at {
                        hooks_at = now + settings::HOOK_RETRY;
                        self.retry_hooks();
                    }
                }
            }
            self.wake();
            self.publish();
            self.ask.tell_all(self.ledger.needs_time());
        }
    }

    /// When the next look of a burst or the next probe is due.
    fn next_wake(&self) -> Instant {
        let burst =
            self.burst.map(|(at, step)| (at + LOOKS_AFTER_EVENT[step]).max(self.rest_until));
        let burst = burst.filter(|_| self.looking.is_none());
        let probe = self.ledger.next_probe().map(|due| {
            Instant::now() + Duration::from_nanos(due.saturating_sub(clock::monotonic()))
        });
        let far = Instant::now() + Duration::from_hours(1);
        burst.into_iter().chain(probe).min().unwrap_or(far)
    }

    fn wake(&mut self) {
        if let Some((at, step)) = self.burst
            && self.looking.is_none()
            && Instant::now() >= (at + LOOKS_AFTER_EVENT[step]).max(self.rest_until)
        {
            self.look_now();
            self.burst = (step + 1 < LOOKS_AFTER_EVENT.len()).then_some((at, step + 1));
        }
        self.ledger.start_probes(now());
        self.act();
    }

    fn start_burst(&mut self) {
        // A burst that has just begun will do; one that is in its long steps begins anew.
        if !matches!(self.burst, Some((_, 0 | 1))) {
            self.burst = Some((Instant::now(), 0));
        }
    }

    fn look_now(&mut self) {
        if self.looking.is_none() && self.ask.ask() {
            self.looking = Some(Instant::now());
        }
    }

    /// Whether counters may have moved in a way that the ledger has to know: what was not sent (too many, or no
    /// room) comes in the same second as what was.
    fn is_eventful(&self, now: Instant) -> bool {
        self.last_event.is_some_and(|at| now.duration_since(at) < 3 * settings::COUNTERS_INTERVAL)
    }

    fn events(&mut self, events: &mut Vec<Event>) {
        let arrived = Instant::now();
        self.last_event = Some(arrived);
        self.tick_at = self.tick_at.min(arrived + settings::COUNTERS_INTERVAL);
        let now = now();
        for event in events.drain(..) {
            debug!(kind = kind_name(event.kind), dev = %event.dev, errno = event.errno,
                place = event.place, detail = event.detail, "kernel event");
            self.ledger.event(&event, now);
        }
        self.start_burst();
        self.act();
    }

    fn looked(&mut self, Looked { look, cost }: Looked) {
        self.looking = None;
        self.look_seconds = cost.as_secs_f64();
        self.rest_until = Instant::now() + cost * LOOK_REST;
        match look {
            Ok(look) => {
                self.blind = None;
                self.ledger.look(&look, now());
            }
            Err(error) => {
                let why = format!("the mount table cannot be read: {error}");
                if self.blind.as_ref() != Some(&why) {
                    warn!(why, "blind");
                }
                self.blind = Some(why);
            }
        }
        self.act();
    }

    /// A look that does not come back means that nothing can be said.
    fn is_looker_stuck(&mut self) {
        if self.ask.age() > settings::LOOK_DEADLINE {
            let deadline = settings::LOOK_DEADLINE;
            self.blind = Some(format!("reading the mount table has taken more than {deadline:?}"));
        } else if self.blind.is_some() {
            self.look_now();
        }
    }

    /// Starts the probes that the ledger asks for.
    fn act(&mut self) {
        for Action { dev, write } in self.ledger.take_actions() {
            let table = self.ledger.table();
            let Some(filesystem) = table.filesystems.get(&dev) else { continue };
            let ext4 = filesystem.fs_type == "ext4";
            let mount = filesystem.probe_mount();
            let how = if write {
                How::Write
            } else if ext4 && !filesystem.read_only {
                How::Sync
            } else {
                How::Look
            };
            let started = clock::monotonic();
            let bounded = self.bounded.clone();
            // The mount's number is in the name: what is stuck on an old life of a device is not in the way.
            let place =
                mount.map(|m| (self.paths.inside(&m.point), format!("probe {dev} {}", m.id)));
            self.probes.spawn(async move { run_probe(&bounded, place, dev, how, started).await });
        }
    }

    fn probe_came_back(&mut self, probed: Result<Probed, JoinError>) {
        match probed {
            Ok(probed) => {
                debug!(dev = %probed.dev, root = ?probed.root, write = ?probed.write, "probe");
                self.ledger.probed(&probed, now());
                self.act();
            }
            Err(error) => warn!(%error, "a probe's task died"),
        }
    }

    fn command(&mut self, command: Command) {
        // Many who ask at once get one reading, made after all of them asked.
        let mut refreshes = Vec::new();
        let mut next = Some(command);
        while let Some(command) = next {
            match command {
                Command::Clear(id, answer) => {
                    let cleared = self.ledger.clear(&id, now());
                    info!(id, cleared, "clear asked for");
                    self.publish();
                    let _nobody_waits = answer.send(cleared);
                }
                Command::Refresh(done) => refreshes.push(done),
            }
            next = self.commands.try_recv().ok();
        }
        if !refreshes.is_empty() {
            self.publish_stats();
        }
        for done in refreshes {
            let _nobody_waits = done.send(());
        }
    }

    fn retry_hooks(&mut self) {
        if let Ok(hooks) = &mut self.hooks {
            hooks.loader.attach_missing();
            self.tell_xfs_events();
        }
    }

    /// The one loss that shows nowhere but in its event and in its root directory.
    fn tell_xfs_events(&mut self) {
        let attached = |hooks: &Hooks| hooks.loader.is_attached("xfs_force_shutdown");
        self.ledger.xfs_events(self.hooks.as_ref().is_ok_and(attached));
    }

    fn publish(&mut self) {
        let blind_spots = blind_spots(self.blind.as_deref(), &self.hooks, &self.ledger);
        let version = self.ledger.version();
        if self.published == version && self.publisher.has_blind_spots(&blind_spots) {
            return;
        }
        self.published = version;
        self.publisher.publish(FaultView { blind_spots, ..self.ledger.view() });
    }

    /// Reads the kernel's counters into the ledger and for the outside.
    fn publish_stats(&mut self) {
        let mut stats = KernelStats {
            forgotten: self.ledger.forgotten(),
            probes_running: self.bounded.running(),
            look_seconds: self.look_seconds,
            ..KernelStats::default()
        };
        if let Ok(hooks) = &self.hooks {
            match reader::counts(&hooks.counts) {
                Ok(counts) => {
                    // Only while events come: it takes a file for each program.
                    let total = counts.iter().map(|count| count.count).sum();
                    if self.counted != total {
                        self.counted = total;
                        self.missed = hooks.loader.missed();
                    }
                    self.ledger.counted(&counts, now());
                    let table = self.ledger.table();
                    let named = counts.iter().map(|count| NamedCount {
                        kind: kind_name(count.kind),
                        device: count.dev,
                        device_name: table.device_name(count.dev).to_owned(),
                        errno: if count.errno == 0 {
                            String::new()
                        } else {
                            errno::name(count.errno).into_owned()
                        },
                        count: count.count,
                        suppressed: count.suppressed,
                        dropped: count.dropped,
                    });
                    stats.counts = named.collect();
                }
                Err(error) => {
                    warn!(%error, "the kernel's counters cannot be read");
                    stats.counts.clone_from(&self.publisher.stats().counts);
                }
            }
            stats.hooks = hooks.loader.hooks();
            stats.uncounted = reader::uncounted(&hooks.uncounted);
            stats.missed = self.missed;
        }
        self.publisher.publish_stats(stats);
        self.act();
    }
}

fn now() -> Now {
    Now { mono: clock::monotonic(), wall: SystemTime::now() }
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// Looks at the root directory.
    Look,
    /// Syncs it as well.
    Sync,
    /// Looks, and writes.
    Write,
}

async fn run_probe(
    bounded: &Bounded,
    place: Option<(PathBuf, String)>,
    dev: Dev,
    how: How,
    started: u64,
) -> Probed {
    let nothing = Probed {
        dev,
        started,
        root: Root::Late,
        write: (how == How::Write).then_some(Probe::Late),
        full: false,
    };
    let Some((path, name)) = place else { return nothing };
    let call = move || {
        let root = look_at_root(&path, dev, how == How::Sync);
        let report = (how == How::Write).then(|| write_probe(&path, dev));
        (root, report)
    };
    match bounded.run(name, settings::PROBE_DEADLINE, call).await {
        Ok((root, report)) => {
            let full = report.as_ref().is_some_and(|report| report.full);
            let write = report.map(|report| report.probe);
            Probed { dev, started, root, write, full }
        }
        Err(_stuck) => nothing,
    }
}

/// The filesystems that are watched, for the first lines of the log: `/ (ext4 on vda)`.
fn watched(ledger: &Ledger) -> String {
    let table = ledger.table();
    let names = table.filesystems.values().take(MOUNT_POINTS_SHOWN).map(|filesystem| {
        let mount = filesystem.best_mount().map(|mount| mount.point.display().to_string());
        let disk = filesystem.members.first().map_or("?", |member| member.name.as_str());
        format!("{} ({} on {disk})", mount.unwrap_or_default(), filesystem.fs_type)
    });
    let more = table.filesystems.len().saturating_sub(MOUNT_POINTS_SHOWN);
    let more = (more > 0).then(|| format!("and {more} more"));
    names.chain(more).collect::<Vec<_>>().join(", ")
}
