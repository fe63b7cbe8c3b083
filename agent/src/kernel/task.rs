//! The kernel task: carries inputs to the ledger, starts the probes that it asks for, and publishes what it knows.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::anyhow;
use tokio::{
    sync::mpsc,
    time::{sleep, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    blind_spots::blind_spots,
    channels::{Command, TaskChannels},
    checkpoint::{Keeper, Kept, counts_of},
    ebpf::{
        BATCH, EventSource,
        inherited::Takeover,
        reader::{Event, kind_name},
    },
    ledger::{Ledger, Now, Probed},
    probe_runner::ProbeRunner,
    publish::{Publisher, watched},
    pulse::Pulse,
    recall::{Late, Recalled, recall},
    sampling::{
        sampler::Sampler,
        snapshot::Sample,
        thread::{self, SamplerHandle},
    },
    schedule::Schedule,
    settings::{BEAT_INTERVAL, SNAPSHOT_DEADLINE, START_DEADLINE, Settings},
    stats::{KernelStats, StatsReader},
    wake_ups::{WakeUp, WakeUps},
};
use crate::{
    host::{Paths, clock},
    model::{FaultView, RequiredMounts},
};

/// 5 ms between two snapshots at the start, while I/O that was in flight before the agent has not moved.
const START_INTERVAL: Duration = Duration::from_millis(5);

/// The task and what it owns.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Kernel {
    ledger: Ledger,
    keeper: Keeper,
    schedule: Schedule,
    wake_ups: WakeUps,
    sampler: SamplerHandle,
    probes: ProbeRunner,
    commands: mpsc::Receiver<Command>,
    publisher: Publisher,
    pulse: Pulse,
    stats: StatsReader,
    /// For programs that are loaded later than the agent starts.
    late: Late,
    required_mounts: Arc<RequiredMounts>,
    /// Why nothing is known: the mount table cannot be read.
    blind: Option<String>,
    snapshot_seconds: f64,
}

impl Kernel {
    /// Loads the hooks (or finds out why there are none), takes the first snapshot, and waits until the first view is
    /// right, for [`START_DEADLINE`] at most. An error means that the mount table cannot be opened.
    pub async fn start(
        config: &Settings,
        paths: &Paths,
        channels: TaskChannels,
    ) -> io::Result<Self> {
        // Hooks first: what happens from here on is not missed.
        let Recalled { wake_ups, error_marks, ledger, keeper, restored, stats, late, vanished } =
            recall(config, paths).await;
        let sampler = Sampler::new(paths, error_marks, config.mounts.clone(), vanished)?;
        let TaskChannels { commands, mut publisher, pulse } = channels;
        publisher.restored(restored);
        let mut kernel = Self {
            ledger,
            keeper,
            schedule: Schedule::new(Instant::now()),
            wake_ups,
            sampler: thread::spawn(sampler, config.reread_interval)?,
            probes: ProbeRunner::new(paths),
            commands,
            publisher,
            pulse,
            stats,
            late,
            required_mounts: Arc::default(),
            blind: Some("the mount table has not been read yet".to_owned()),
            snapshot_seconds: 0.0,
        };
        kernel.tell_xfs_events();
        kernel.settle_at_start().await;
        info!(filesystems = watched(kernel.ledger.table()), "watching");
        Ok(kernel)
    }

    /// Takes snapshots until the probes of the first one are back and I/O that was in flight before the agent has moved.
    async fn settle_at_start(&mut self) {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            self.request_snapshot();
            tokio::select! {
                Some(sample) = self.sampler.next() => self.sampled(sample),
                () = sleep_until(deadline.into()) => break,
            }
            // What was counted while no agent ran: what it means may need a probe.
            self.publish_stats();
            while let Some(probed) = self.probes.try_next() {
                self.probed(&probed);
            }
            self.start_probes();
            let is_settled = self.probes.is_idle() && !self.ledger.unmoved_since_start();
            if is_settled || Instant::now() >= deadline {
                break;
            }
            tokio::select! {
                probed = self.probes.next() => self.probed(&probed),
                () = sleep(START_INTERVAL) => {}
            }
        }
        self.ledger.presume_stalled(now());
        self.publish_stats();
        self.follow_up();
    }

    /// Runs until the senders of commands are dropped or something that it needs has died; says which.
    pub async fn run(mut self) -> anyhow::Error {
        let error = match self.work().await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        // What changed in the last 100 ms, too.
        if !self.wake_ups.is_loading() {
            let kept = self.kept();
            self.keeper.finish(kept).await;
        }
        error
    }

    async fn work(&mut self) -> anyhow::Result<Infallible> {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            let (next, counters_at) = (self.next_deadline(), self.schedule.counters_at());
            tokio::select! {
                woken = self.wake_ups.next(&mut events) => match woken? {
                    WakeUp::Events => self.events(&mut events),
                    WakeUp::Notification => self.schedule.notification(Instant::now()),
                    WakeUp::Hooks => self.tell_xfs_events(),
                    WakeUp::Loaded(takeover) => self.loaded_late(&takeover),
                },
                sample = self.sampler.next() => {
                    self.sampled(sample.ok_or_else(|| anyhow!("the sampler's thread has died"))?);
                }
                probed = self.probes.next() => self.probed(&probed),
                is_written = self.keeper.written() => self.checkpoint_written(is_written),
                command = self.commands.recv() => {
                    let gone = || anyhow!("nobody can send commands any more");
                    self.command(command.ok_or_else(gone)?);
                }
                () = sleep_until(next.into()) => {}
                () = sleep_until(counters_at.into()) => self.routine(),
                () = sleep(BEAT_INTERVAL) => self.watch_sampler(),
            }
            self.follow_up();
        }
    }

    /// When the next snapshot of a burst or the next probe is due.
    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let probe = self
            .ledger
            .next_probe()
            .map(|due| now + Duration::from_nanos(due.saturating_sub(clock::monotonic())));
        let far = now + Duration::from_hours(1);
        let missed = self.wake_ups.source().ok().map(|_| self.schedule.missed_at());
        let due =
            self.schedule.next_snapshot().into_iter().chain(probe).chain(self.checkpoint_due());
        due.chain(missed).min().unwrap_or(far)
    }

    /// What follows every input: a snapshot and probes that are due are begun, and what has changed is published.
    fn follow_up(&mut self) {
        if self.schedule.begin_missed(Instant::now()) {
            self.look_for_missed();
        }
        if self.schedule.begin_due_snapshot(Instant::now()) {
            self.sampler.request();
        }
        self.start_probes();
        self.publish();
        self.keep();
        self.sampler.send_every(self.ledger.needs_every_snapshot());
        self.pulse.beat(self.sampler.age());
    }

    /// Looks for events that the kernel has missed, and takes a snapshot at once if there are any.
    fn look_for_missed(&mut self) {
        if let Ok(source) = self.wake_ups.source()
            && self.stats.look_for_missed(source, &mut self.ledger)
        {
            self.keeper.changed();
            self.schedule.notification(Instant::now());
        }
    }

    /// Starts the probes that are due: the only place that takes the ledger's actions.
    fn start_probes(&mut self) {
        self.ledger.start_probes(now());
        for action in self.ledger.take_actions() {
            let sectors = self.ledger.sectors_to_read(action);
            self.probes.start(action, sectors, self.ledger.table());
        }
    }

    /// Requests a snapshot that is not part of a burst.
    fn request_snapshot(&mut self) {
        if self.schedule.begin_snapshot() {
            self.sampler.request();
        }
    }

    fn events(&mut self, events: &mut Vec<Event>) {
        self.schedule.event(Instant::now());
        self.keeper.changed();
        let now = now();
        for event in events.drain(..) {
            debug!(kind = kind_name(event.kind), dev = %event.dev, errno = event.errno,
                place = event.place, detail = event.detail, "kernel event");
            if !self.ledger.event(&event, now) {
                self.schedule.unknown_device();
            }
        }
    }

    fn sampled(&mut self, sample: Sample) {
        self.schedule.snapshot_came(Instant::now(), sample.cost);
        self.snapshot_seconds = sample.cost.as_secs_f64();
        match sample.snapshot {
            Ok(snapshot) => {
                self.blind = None;
                self.ledger.snapshot(&snapshot, now());
                self.required_mounts = snapshot.required_mounts;
            }
            Err(error) => {
                let why = format!("the mount table cannot be read: {error}");
                if self.blind.as_ref() != Some(&why) {
                    warn!(why, "blind");
                }
                self.blind = Some(why);
            }
        }
    }

    fn probed(&mut self, probed: &Probed) {
        // Also a result that nobody sees: the checkpoint must not have the next agent explain the same event again.
        self.keeper.changed();
        self.ledger.probed(probed, now());
    }

    fn command(&mut self, command: Command) {
        // Requests that come together get one reading, made after the last of them.
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

    /// What is done every second or few: the counters are read, the sampler is watched, missing hooks are tried again.
    fn routine(&mut self) {
        self.publish_stats();
        self.watch_sampler();
        let now = Instant::now();
        self.schedule.counters_were_read(now);
        if self.schedule.begin_hooks(now) {
            self.wake_ups.attach_missing();
        }
    }

    fn loaded_late(&mut self, takeover: &Takeover) {
        self.late.adopt(takeover, &mut self.wake_ups, &mut self.ledger);
        self.tell_xfs_events();
        self.publish_stats();
    }

    /// Notices a sampler that is stuck: then nothing is known.
    fn watch_sampler(&mut self) {
        if self.sampler.age() > SNAPSHOT_DEADLINE {
            let why = format!("reading the mount table has taken more than {SNAPSHOT_DEADLINE:?}");
            self.blind = Some(why);
        } else if self.blind.is_some() {
            self.request_snapshot();
        }
    }

    /// Tells the ledger whether an event will tell of an xfs that shuts down.
    fn tell_xfs_events(&mut self) {
        let is_attached = |source: &EventSource| source.hooks().is_attached("xfs_force_shutdown");
        self.ledger.set_xfs_events(self.wake_ups.source().is_ok_and(is_attached));
    }

    fn publish(&mut self) {
        let version = self.ledger.version();
        let blind_spots = blind_spots(self.blind.as_deref(), &self.wake_ups, &self.ledger);
        let required_mounts = &*self.required_mounts;
        if !self.publisher.is_current(version, &blind_spots, required_mounts) {
            self.keeper.changed();
            let required_mounts = required_mounts.clone();
            let view = FaultView { blind_spots, required_mounts, ..self.ledger.view() };
            self.publisher.publish(version, view);
        }
    }

    /// Writes the checkpoint, if it is due.
    fn keep(&mut self) {
        if self.checkpoint_due().is_some_and(|due| due <= Instant::now()) {
            let kept = self.kept();
            self.keeper.write(kept);
        }
    }

    /// When to write the checkpoint. Not before the counters of the agent before are taken over: they and its checkpoint
    /// belong together.
    fn checkpoint_due(&self) -> Option<Instant> {
        self.keeper.due().filter(|_| !self.wake_ups.is_loading())
    }

    /// What the next agent has to know.
    fn kept(&self) -> Kept {
        let source = self.wake_ups.source().ok();
        let inherited = source.map_or(0, EventSource::carried_missed);
        Kept {
            instance: self.keeper.instance(),
            carried: source.map(|source| counts_of(source.carried())).unwrap_or_default(),
            missed: (inherited, self.stats.missed()),
            memory: self.ledger.memory(),
        }
    }

    /// What an earlier agent left in the kernel is removed when it is in the checkpoint.
    fn checkpoint_written(&mut self, is_written: bool) {
        if is_written {
            self.wake_ups.forget_predecessors();
        }
    }

    /// Reads the kernel's counters, also into the ledger, and publishes them.
    fn publish_stats(&mut self) {
        if let Ok(source) = self.wake_ups.source() {
            self.stats.read_uncounted(source);
        }
        self.look_for_missed();
        let (source, before) = (self.wake_ups.source_mut(), self.publisher.stats());
        let total = self.stats.total();
        let stats = self.stats.read(source, &before, &mut self.ledger, now());
        if self.stats.total() != total {
            self.keeper.changed();
        }
        self.publisher.publish_stats(KernelStats {
            forgotten: self.ledger.forgotten(),
            checkpoint_failures: self.keeper.failures(),
            probes_running: self.probes.calls(),
            snapshot_seconds: self.snapshot_seconds,
            ..stats
        });
    }
}

fn now() -> Now {
    Now { mono: clock::monotonic(), wall: SystemTime::now() }
}
