//! The weight of this host, in percent, for `HAProxy`'s agent-check.

use std::{fs, path::Path, time::Duration};

use procfs::{FromRead, LoadAverage};
use tocsin_runtime::tasks::Stop;
use tokio::sync::watch;
use tracing::debug;

use crate::{checks::disk_pressure::FullestFilesystem, host::Paths};

/// What the weight follows (`AGENT_WEIGHT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WeightSource {
    /// Always 100 %.
    #[default]
    Off,
    /// By the free bytes of the fullest filesystem that `disk_pressure` looks at.
    Disk,
    /// By the load of the last minute per processor.
    Load,
}

/// 1 second between two updates: `HAProxy` asks about as often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Rounds to steps of ten percent, so that the weight does not change with every answer. The result is between 10 and
/// 100: a weight of 0 would be a drain.
#[must_use]
fn rounded(percent: f64) -> u8 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10, and 1 for NaN"
    )]
    let steps = (percent / 10.0).round().clamp(1.0, 10.0) as u8;
    steps.max(1) * 10
}

/// 100 % for an idle host, 10 % for one whose load is the number of its processors or more.
fn of_load(load: f64, processors: f64) -> u8 {
    rounded(100.0 * (1.0 - load / processors))
}

/// Reads the one-minute load average from `/proc/loadavg`, which is memory: no disk is touched.
fn read_load(loadavg: &Path) -> Option<f64> {
    let load = LoadAverage::from_file(loadavg).ok()?;
    Some(f64::from(load.one)).filter(|load| load.is_finite())
}

/// How many processors the kernel's list format names, such as `0-3,6` (admin-guide/cputopology). `/sys` counts the
/// host's processors; the standard library counts those that a container may use.
fn count_cpu_list(list: &str) -> Option<u32> {
    list.trim()
        .split(',')
        .map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (from.parse::<u32>().ok()?, to.parse::<u32>().ok()?);
            to.checked_sub(from)?.checked_add(1)
        })
        .sum()
}

/// Updates the weight every second until `stop`. A value that cannot be read leaves the last weight as it is.
pub async fn run(
    source: WeightSource,
    disks: FullestFilesystem,
    paths: Paths,
    weight: watch::Sender<u8>,
    stop: Stop,
) {
    let update = async {
        let loadavg = paths.proc.join("loadavg");
        let online = fs::read_to_string(paths.sys.join("devices/system/cpu/online")).ok();
        let processors = online.and_then(|list| count_cpu_list(&list)).map_or(1.0, f64::from);
        loop {
            let now = match source {
                WeightSource::Off => Some(100),
                WeightSource::Load => read_load(&loadavg).map(|load| of_load(load, processors)),
                WeightSource::Disk => disks.free_percent().await.map(rounded),
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
        () = update => {}
        () = stop.requested() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_a_step_of_ten_and_never_zero() {
        for (percent, expected) in [
            (100.0, 100),
            (96.0, 100),
            (94.0, 90),
            (15.0, 20),
            (4.0, 10),
            (0.0, 10),
            (-50.0, 10),
            (f64::NAN, 10),
        ] {
            assert_eq!(rounded(percent), expected, "{percent}");
        }
        for (load, expected) in [(0.0, 100), (1.0, 50), (2.0, 10), (400.0, 10)] {
            assert_eq!(of_load(load, 2.0), expected, "{load}");
        }
    }

    #[test]
    fn the_load_is_the_first_number_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let loadavg = dir.path().join("loadavg");
        for (text, expected) in [
            ("0.50 0.25 0.61 1/123 4567\n", Some(0.5)),
            ("nan 0.50 0.61 1/123 4567\n", None),
            ("", None),
            ("0.50\n", None),
        ] {
            fs::write(&loadavg, text).unwrap();
            assert_eq!(read_load(&loadavg), expected, "{text:?}");
        }
        assert_eq!(read_load(&dir.path().join("missing")), None);
        assert!(read_load(Path::new("/proc/loadavg")).is_some());
    }

    #[test]
    fn processors_are_counted_from_the_kernel_s_list() {
        for (list, expected) in
            [("0-3,6\n", Some(5)), ("0", Some(1)), ("3-1", None), ("", None), ("0-", None)]
        {
            assert_eq!(count_cpu_list(list), expected, "{list:?}");
        }
    }
}
