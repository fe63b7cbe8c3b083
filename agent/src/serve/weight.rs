//! How much of its share a host should get, as a percentage for `HAProxy`'s agent-check.

use std::{fs, path::PathBuf, time::Duration};

use tokio::sync::watch;
use tracing::debug;

use super::stopped;
use crate::{checks::disk_pressure::Fullest, host::Paths};

/// `AGENT_WEIGHT`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// Always 100 %.
    #[default]
    Off,
    /// By the free bytes of the fullest filesystem that `disk_pressure` looks at.
    Disk,
    /// By the load of the last minute per processor.
    Load,
}

/// 1 second between looks: `HAProxy` asks about as often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Steps of ten percent, so that a weight does not change with every answer; never 0, which would be a drain.
#[must_use]
fn step(percent: f64) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 10 and 100"
    )]
    let steps = (percent / 10.0).round().clamp(1.0, 10.0) as u8;
    steps * 10
}

/// 100 % for an idle host, 10 % for one with as much to do as it has processors, or more.
fn of_load(load: f64, processors: f64) -> u8 {
    step(100.0 * (1.0 - load / processors))
}

/// The first number of `/proc/loadavg`.
fn parse_load(text: &str) -> Option<f64> {
    text.split(' ').next()?.parse().ok().filter(|load: &f64| load.is_finite())
}

/// How many numbers a list such as `0-3,6` has. The host's processors, not those that a container may use.
fn count(list: &str) -> Option<u32> {
    list.trim()
        .split(',')
        .map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (from.parse::<u32>().ok()?, to.parse::<u32>().ok()?);
            to.checked_sub(from)?.checked_add(1)
        })
        .sum()
}

/// Looks until `stop`. What cannot be read changes nothing.
pub async fn run(
    source: Source,
    disks: Fullest,
    paths: Paths,
    weight: watch::Sender<u8>,
    stop: watch::Receiver<bool>,
) {
    let look = async {
        let file: PathBuf = paths.proc.join("loadavg");
        let processors = paths.sys.join("devices/system/cpu/online");
        let processors = fs::read_to_string(processors).ok();
        let processors = processors.and_then(|list| count(&list)).map_or(1.0, f64::from);
        loop {
            let now = match source {
                Source::Off => Some(100),
                // Memory, on every system: no disk is asked.
                Source::Load => fs::read_to_string(&file)
                    .ok()
                    .and_then(|text| parse_load(&text))
                    .map(|load| of_load(load, processors)),
                Source::Disk => disks.free_percent().await.map(step),
            };
            if now.is_none() {
                debug!(?source, "the weight could not be determined");
            }
            weight
                .send_if_modified(|was| now.is_some_and(|now| std::mem::replace(was, now) != now));
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = look => {}
        () = stopped(stop) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_ten_and_never_none() {
        for (percent, expected) in
            [(100.0, 100), (96.0, 100), (94.0, 90), (15.0, 20), (4.0, 10), (0.0, 10), (-50.0, 10)]
        {
            assert_eq!(step(percent), expected, "{percent}");
        }
        for (load, expected) in [(0.0, 100), (1.0, 50), (2.0, 10), (400.0, 10)] {
            assert_eq!(of_load(load, 2.0), expected, "{load}");
        }
        assert_eq!(parse_load("0.42 0.50 0.61 1/123 4567\n"), Some(0.42));
        assert_eq!(parse_load(""), None);
        assert_eq!(parse_load("nan 1"), None);
        assert_eq!(count("0-3,6\n"), Some(5));
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("3-1"), None);
        assert_eq!(count(""), None);
    }
}
