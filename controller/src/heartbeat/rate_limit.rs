//! How often each client may ask: fixed windows, as the `X-RateLimit-*` headers of the replaced controller promise.
//! PURE but for the table of clients.
//!
//! A window begins with a client's first request and ends after the period; refused requests count too.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Clients that are remembered: 65,536, some 5 MiB. Beyond it those whose window ends first are forgotten, an eighth at
/// a time.
pub const CLIENTS: usize = 65_536;

/// Requests per client and window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Requests; zero or less refuses all of them.
    pub requests: i64,
    /// The length of a window; zero never refuses one.
    pub period: Duration,
}

/// What a request is told, in `X-RateLimit-*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Whether the request is beyond the limit.
    pub is_exceeded: bool,
    /// The limit.
    pub limit: i64,
    /// Requests that are left in this window.
    pub remaining: i64,
    /// When the window ends, in seconds since 1970.
    pub reset: u64,
    /// How long that is from now, in whole seconds, rounded up.
    pub retry_after: u64,
}

/// The clients with an open window.
#[derive(Debug)]
pub struct RateLimit {
    limit: Limit,
    most: usize,
    windows: HashMap<IpAddr, Window>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    ends: Instant,
    /// The same moment on the wall clock, which every answer of this window names.
    reset: u64,
    count: i64,
}

impl RateLimit {
    /// No client yet.
    #[must_use]
    pub fn new(limit: Limit, most: usize) -> Self {
        Self { limit, most, windows: HashMap::new() }
    }

    /// Counts a request.
    pub fn count(&mut self, client: IpAddr, now: Instant, wall: SystemTime) -> Quota {
        let Limit { requests, period } = self.limit;
        let fresh = || {
            let ends = wall.checked_add(period).unwrap_or(wall);
            let reset = ends.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            Window { ends: now.checked_add(period).unwrap_or(now), reset, count: 0 }
        };
        if !self.windows.contains_key(&client) && self.windows.len() >= self.most {
            self.forget(now);
        }
        let window = self.windows.entry(client).or_insert_with(fresh);
        if window.ends <= now {
            *window = fresh();
        }
        window.count = window.count.saturating_add(1);
        let left = window.ends.saturating_duration_since(now);
        Quota {
            // A window that ends at once counts nobody.
            is_exceeded: window.count > requests && !period.is_zero(),
            limit: requests,
            remaining: requests.saturating_sub(window.count).max(0),
            reset: window.reset,
            retry_after: left.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
        }
    }

    /// Clients that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Whether no client is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Forgets windows that have ended; if that is less than an eighth, also those that end first.
    fn forget(&mut self, now: Instant) {
        self.windows.retain(|_, window| window.ends > now);
        let target = self.most - self.most / 8;
        if self.windows.len() <= target {
            return;
        }
        let mut ends: Vec<Instant> = self.windows.values().map(|window| window.ends).collect();
        let excess = ends.len() - target;
        let (_, last, _) = ends.select_nth_unstable(excess);
        let last = *last;
        let mut left = excess;
        self.windows.retain(|_, window| {
            let goes = left > 0 && window.ends <= last;
            left -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn addr(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn exactly_the_limit_passes_and_the_window_is_fixed() {
        let mut rate = RateLimit::new(Limit { requests: 3, period: HOUR }, 10);
        let (now, wall) = (Instant::now(), UNIX_EPOCH + Duration::from_secs(1000));
        for (request, exceeded, remaining) in
            [(1, false, 2), (2, false, 1), (3, false, 0), (4, true, 0), (5, true, 0)]
        {
            let at = Duration::from_secs(request);
            let quota = rate.count(addr(1), now + at, wall + at);
            assert_eq!(
                (quota.is_exceeded, quota.remaining),
                (exceeded, remaining),
                "request {request}"
            );
            assert_eq!(
                (quota.limit, quota.reset),
                (3, 1000 + 1 + 3600),
                "the window of the first one"
            );
            assert_eq!(quota.retry_after, 3601 - request);
        }
        assert!(!rate.count(addr(2), now, wall).is_exceeded, "another client has its own");
        let next = rate.count(addr(1), now + Duration::from_secs(1) + HOUR, wall + HOUR);
        assert_eq!((next.is_exceeded, next.remaining), (false, 2));
    }

    #[test]
    fn nothing_passes_without_a_limit_and_everything_without_a_period() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        for requests in [0, -1] {
            let mut rate = RateLimit::new(Limit { requests, period: HOUR }, 10);
            let quota = rate.count(addr(1), now, wall);
            assert!(quota.is_exceeded && quota.remaining == 0, "{requests}");
        }
        let mut rate = RateLimit::new(Limit { requests: 1, period: Duration::ZERO }, 10);
        assert!((0..5).all(|_| !rate.count(addr(1), now, wall).is_exceeded));
    }

    #[test]
    fn the_table_is_bounded_and_the_youngest_windows_stay() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut rate = RateLimit::new(Limit { requests: 1, period: HOUR }, 64);
        for n in 0..10_000 {
            rate.count(addr(n), now + Duration::from_millis(n.into()), wall);
            assert!(rate.len() <= 64);
        }
        assert!(
            rate.count(addr(9_999), now + Duration::from_secs(10), wall).is_exceeded,
            "it is remembered"
        );
        // Ended windows go first.
        let later = now + 2 * HOUR;
        for n in 20_000..20_064 {
            rate.count(addr(n), later, wall);
        }
        assert!((20_000..20_064).all(|n| rate.count(addr(n), later, wall).is_exceeded));
    }
}
