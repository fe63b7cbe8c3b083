//! A week in an hour: mounts, umounts, faults, devices that come and go, and restarts of the agent, at random, against a
//! model of what the agent has to say. What the agent holds stays flat.
//!
//! `TOCSIN_WEEK_SECONDS` is how long it runs (40; 3600 for the whole week), `TOCSIN_WEEK_SEED` makes the same choices again.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

use crate::memory::{Kept, can_pin, kill};

const VOLUMES: usize = 4;
const OPTIONS: &str = "errors=remount-ro";

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Choices that are the same for the same seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

/// A volume, and what is true of it.
struct Place {
    volume: Volume,
    is_mounted: bool,
    /// It has become read-only by an error.
    is_broken: bool,
}

impl Place {
    fn new(sandbox: &Sandbox, number: u64) -> Self {
        let volume = Volume::new(sandbox, &format!("v{number}"), Filesystem::Ext4, OPTIONS);
        Self { volume, is_mounted: true, is_broken: false }
    }

    fn unmount(&mut self) {
        self.volume.unmount();
        if std::mem::take(&mut self.is_broken) {
            self.volume.repair();
        }
        self.is_mounted = false;
    }
}

type Figure = fn(&Held) -> u64;

/// What the agent holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    rss_kib: u64,
    files: u64,
    checkpoint: u64,
}

impl Held {
    fn by(agent: &Agent, kept: &Kept) -> Self {
        let files = fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count() as u64;
        let checkpoint = fs::metadata(&kept.checkpoint).map_or(0, |file| file.len());
        Self { rss_kib: agent.resident_kib(), files, checkpoint }
    }
}

/// The median of one figure in a part of the measurements.
fn median(held: &[Held], figure: fn(&Held) -> u64) -> u64 {
    let mut figures: Vec<_> = held.iter().map(figure).collect();
    figures.sort_unstable();
    figures[figures.len() / 2]
}

/// Waits until the agent says what the model says.
fn agrees(agent: &Agent, places: &[Place]) {
    let broken = places.iter().filter(|place| place.is_broken);
    let expected: BTreeSet<_> = broken.map(|place| place.volume.point_text()).collect();
    agent.wait_for(&format!("read-only: {expected:?}"), TIMEOUT * 2, |agent| {
        let faults = agent.faults();
        let found: BTreeSet<_> =
            faults.iter().flat_map(|fault| fault.mount_points.iter().cloned()).collect();
        let read_only = faults.iter().filter(|fault| fault.kind == "filesystem_ro").count();
        let status = if expected.is_empty() { 200 } else { 503 };
        let is_told = found == expected && read_only == expected.len();
        (is_told && agent.health("").status == status).then_some(())
    });
}

#[test]
fn a_week_in_an_hour() {
    let Some(sandbox) = Sandbox::new_unwatched() else { return };
    if !can_pin() {
        return;
    }
    let seconds = setting("TOCSIN_WEEK_SECONDS", 40);
    let seed = setting("TOCSIN_WEEK_SEED", u64::from(std::process::id())).max(1);
    say(&format!("{}: {seconds} s with TOCSIN_WEEK_SEED={seed}", sandbox.name()));
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let kept = Kept::new(&sandbox);
    let mut devices = 0;
    let mut make = || {
        devices += 1;
        Place::new(&sandbox, devices)
    };
    let mut places: Vec<_> = (0..VOLUMES).map(|_| make()).collect();
    let mut agent = kept.start(&sandbox);
    let hooks = kept.hooks();
    let (mut held, mut restarts) = (Vec::new(), 0);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let chosen = &mut places[random.below(VOLUMES)];
        let action = random.below(16);
        if action == 15 {
            // The checkpoint follows a change within 100 ms. What ended in these is open for the agent
            // after one that was killed; at SIGTERM the last change is written too.
            std::thread::sleep(Duration::from_millis(300));
        }
        match action {
            0..6 if chosen.is_mounted => chosen.unmount(),
            0..9 if !chosen.is_mounted => {
                chosen.volume.mount(OPTIONS);
                chosen.is_mounted = true;
            }
            6..10 if chosen.is_mounted && !chosen.is_broken => {
                inject::ext4_error(chosen.volume.device());
                chosen.is_broken = true;
            }
            10..14 => {
                if chosen.is_mounted {
                    chosen.unmount();
                }
                let image = chosen.volume.point().with_extension("img");
                *chosen = make();
                fs::remove_file(image).unwrap();
            }
            14 => {
                restarts += 1;
                assert_eq!(agent.terminate().code(), Some(0));
                agent = kept.start(&sandbox);
            }
            15 => {
                restarts += 1;
                kill(agent);
                agent = kept.start(&sandbox);
            }
            _ => {}
        }
        agrees(&agent, &places);
        agent.wait_for("one set of pinned hooks", TIMEOUT, |_| {
            (kept.directories().len() == 1 && kept.hooks() == hooks).then_some(())
        });
        held.push(Held::by(&agent, &kept));
    }
    let part = held.len() / 4;
    assert!(part >= 4, "only {} steps", held.len());
    let (first, last) = (&held[part..2 * part], &held[held.len() - part..]);
    say(&format!(
        "MEASURED {}: {} steps, {restarts} restarts; {:?} at a quarter, {:?} at the end",
        sandbox.name(),
        held.len(),
        first[0],
        last[part - 1],
    ));
    // (figure, how much more there may be: faults that are open or not make this difference)
    let figures: [(&str, Figure, u64); 3] = [
        ("resident KiB", |held| held.rss_kib, 4 * 1024),
        ("open files", |held| held.files, 10),
        // Here each device has a new number. The counters of the latest 128 without a filesystem take 24 KiB.
        ("bytes of the checkpoint", |held| held.checkpoint, 32 * 1024),
    ];
    for (name, figure, more) in figures {
        let (before, after) = (median(first, figure), median(last, figure));
        assert!(after <= before + more, "{name}: {before} at a quarter, {after} at the end");
    }
}
