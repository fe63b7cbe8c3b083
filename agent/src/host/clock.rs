//! The kernel's clock.

use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` in nanoseconds since boot. `bpf_ktime_get_ns` gives the same, so the times of kernel events can be
/// compared with it.
#[must_use]
pub fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Both are positive, and 584 years do not overflow.
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}
