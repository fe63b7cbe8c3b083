//! Device numbers.

use std::{fmt, num::ParseIntError, str::FromStr};

use serde::{Deserialize, Serialize};

/// The number of a block device or superblock, in the kernel's own form: major << 20 | minor
/// (`include/linux/kdev_t.h`). Every tracepoint has it in this form.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct Dev(pub u32);

/// The text is not a device number as `major:minor`.
#[derive(Debug, thiserror::Error)]
#[error("not a device number (major:minor): {0:?}")]
pub struct BadDev(String);

impl Dev {
    /// The number with these two parts.
    #[must_use]
    pub fn new(major: u32, minor: u32) -> Self {
        Self(major << 20 | (minor & 0xf_ffff))
    }

    /// The number that `stat(2)` gives as `st_dev` or `st_rdev`.
    #[must_use]
    pub fn from_stat(dev: u64) -> Self {
        Self::new(rustix::fs::major(dev), rustix::fs::minor(dev))
    }

    /// The number of the driver; 0 for a filesystem whose number is not that of a device (btrfs, overlay).
    #[must_use]
    pub fn major(self) -> u32 {
        self.0 >> 20
    }

    /// The number of the device within its driver.
    #[must_use]
    pub fn minor(self) -> u32 {
        self.0 & 0xf_ffff
    }
}

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}

impl From<Dev> for String {
    fn from(dev: Dev) -> Self {
        dev.to_string()
    }
}

impl TryFrom<String> for Dev {
    type Error = BadDev;

    fn try_from(text: String) -> Result<Self, BadDev> {
        text.parse()
    }
}

impl FromStr for Dev {
    type Err = BadDev;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |_: ParseIntError| BadDev(text.to_owned());
        let (major, minor) = text.trim().split_once(':').ok_or_else(|| BadDev(text.to_owned()))?;
        let (major, minor): (u32, u32) = (major.parse().map_err(bad)?, minor.parse().map_err(bad)?);
        if major > 0xfff || minor > 0xf_ffff {
            return Err(BadDev(text.to_owned()));
        }
        Ok(Self::new(major, minor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip() {
        for text in ["0:0", "7:3", "8:17", "253:1048575", "4095:0"] {
            assert_eq!(text.parse::<Dev>().unwrap().to_string(), text);
        }
        for text in ["", "7", "7:", ":3", "7:3:1", "-1:0", "4096:0", "0:1048576", "a:b"] {
            assert!(text.parse::<Dev>().is_err(), "{text:?}");
        }
        assert_eq!(Dev::new(7, 3).0, 7 << 20 | 3);
    }
}
