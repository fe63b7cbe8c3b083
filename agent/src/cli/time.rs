//! Times on the command line.

use std::time::Duration;

/// A time with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error} (give a unit, such as 500ms, 5s or 5m)"))
}
