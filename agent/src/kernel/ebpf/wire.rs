//! The types at the border to aya: values as they are in the kernel's maps, and aya's errors in one line.

use aya::maps::{Array, MapData, PerCpuArray, PerCpuHashMap};
use tocsin_ebpf::{CountKey, CountValue, Gate, Layouts};

/// A value as it is in the kernel's maps.
#[derive(Clone, Copy, Debug, Default)]
#[repr(transparent)]
pub(crate) struct Wire<T>(pub(crate) T);

// SAFETY: `repr(C)` structs of integers without padding (their sizes are tested below).
unsafe impl aya::Pod for Wire<CountKey> {}
// SAFETY: as above.
unsafe impl aya::Pod for Wire<CountValue> {}
// SAFETY: as above.
unsafe impl aya::Pod for Wire<Layouts> {}
// SAFETY: as above.
unsafe impl aya::Pod for Wire<Gate> {}

/// The exact counters.
pub(crate) type Counts = PerCpuHashMap<MapData, Wire<CountKey>, Wire<CountValue>>;
/// Events that found no room in [`Counts`].
pub(crate) type Uncounted = PerCpuArray<MapData, Wire<CountValue>>;
/// The time for which the programs count.
pub(crate) type GateMap = Array<MapData, Wire<Gate>>;

/// The message of an error, with those of its causes.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tocsin_ebpf::{CountKey, CountValue, Gate, Layouts, Record};

    #[test]
    fn records_have_no_padding() {
        assert_eq!(size_of::<Record>(), 48);
        assert_eq!(size_of::<CountKey>(), 12);
        assert_eq!(size_of::<CountValue>(), 32);
        assert_eq!(size_of::<Gate>(), 16);
        assert_eq!(size_of::<Layouts>(), 3 * 20 + 7 * 16 + 8);
    }

    #[test]
    fn a_gate_is_open_for_its_time() {
        for (from, until, now, open) in [
            (0, 0, 5, true),
            (5, 0, 4, false),
            (5, 0, 5, true),
            (0, 5, 4, true),
            (0, 5, 5, false),
            (u64::MAX, 5, 4, false),
        ] {
            assert_eq!(Gate { from, until }.is_open(now), open, "{from} {until} {now}");
        }
        assert!(!Gate::CLOSED.is_open(u64::MAX - 1));
    }
}
