//! How much is measured.

/// The extent of the measurements.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Faults of `detect`, for each of its two ways.
    pub(crate) injections: usize,
    /// Storms of `storm`.
    pub(crate) storms: usize,
    /// Failed requests of each storm.
    pub(crate) storm_errors: u64,
    /// Faults of another filesystem during each storm.
    pub(crate) storm_injections: usize,
    /// How long CPU time is measured, in seconds.
    pub(crate) idle_seconds: u64,
    /// Deaths of `mesh`, for each of its three ways.
    pub(crate) deaths: usize,
    /// Starts of the agent.
    pub(crate) starts: usize,
    /// Changes of the Node to not ready and back.
    pub(crate) flips: usize,
    /// How long load balancers probe in `requests`, in seconds.
    pub(crate) probe_seconds: u64,
    /// Faults of `haproxy`, for each configuration.
    pub(crate) haproxy_faults: usize,
    /// Rounds of `http`, for each side.
    pub(crate) http_rounds: usize,
    /// Length of such a round, in seconds.
    pub(crate) http_seconds: u64,
    /// Faults of `loop`.
    pub(crate) loop_rounds: usize,
}

/// For figures that count.
pub(crate) const FULL: Scale = Scale {
    injections: 1000,
    storms: 5,
    storm_errors: 1_000_000,
    storm_injections: 100,
    idle_seconds: 60,
    deaths: 20,
    starts: 20,
    flips: 100,
    probe_seconds: 600,
    haproxy_faults: 200,
    http_rounds: 9,
    http_seconds: 3,
    loop_rounds: 100,
};

/// For a look within a minute or two.
pub(crate) const QUICK: Scale = Scale {
    injections: 100,
    storms: 1,
    storm_errors: 100_000,
    storm_injections: 20,
    idle_seconds: 5,
    deaths: 3,
    starts: 5,
    flips: 20,
    probe_seconds: 10,
    haproxy_faults: 30,
    http_rounds: 3,
    http_seconds: 1,
    loop_rounds: 20,
};
