//! Random delays that keep many processes from acting at the same moment.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// A random duration from zero to `most`: the keys of the standard library's hasher are random, and a delay is no
/// secret.
#[must_use]
pub fn up_to(most: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() >> 32;
    most.mul_f64(f64::from(u32::try_from(random).unwrap_or(u32::MAX)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_spread() {
        let second = Duration::from_secs(1);
        let all: Vec<_> = (0..1000).map(|_| up_to(second)).collect();
        assert!(all.iter().all(|delay| *delay <= second));
        let late = all.iter().filter(|delay| **delay > second / 2).count();
        assert!((300..700).contains(&late), "{late} of 1000 are in the second half");
        assert_eq!(up_to(Duration::ZERO), Duration::ZERO);
    }
}
