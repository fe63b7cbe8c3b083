//! Durations as Go writes them: `1h30m`, `300ms`, `1.5h`.

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What a duration may look like, but for the sign that [`Delay`] allows; the reference's pattern.
const PATTERN: &str = "([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$";

/// A duration in a spec, in the user's own words.
///
/// The words are kept, so that an object which is read and written again does not change. An odd one never makes
/// the whole object unreadable: the API server has checked it against the schema, and [`GoDuration::get`] saturates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GoDuration(pub String);

impl GoDuration {
    /// Its length; zero where the text is no duration, which the schema rules out.
    #[must_use]
    pub fn get(&self) -> SignedDuration {
        parse(&self.0).unwrap_or(SignedDuration::ZERO)
    }
}

impl From<&str> for GoDuration {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": format!("^{PATTERN}") })
    }
}

/// A [`GoDuration`] that may be negative: `healthyDelay` says "never" that way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Delay(pub GoDuration);

impl JsonSchema for Delay {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Delay".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": format!("^-?{PATTERN}") })
    }
}

/// The longest duration that is told apart from a longer one: Go's, 292 years.
const LONGEST: SignedDuration = SignedDuration::from_nanos(i64::MAX);

/// The length of `text`, or `None` where it is no duration.
///
/// Go's `time.ParseDuration`, but that what is too long saturates at 292 years instead of being an error.
#[must_use]
pub fn parse(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = SignedDuration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total = total.saturating_add(part(number, unit)?).min(LONGEST);
        rest = tail;
    }
    Some(if negative { -total } else { total })
}

/// The length of one number with its unit.
fn part(number: &str, unit: &str) -> Option<SignedDuration> {
    let nanos: i128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    // What does not fit is far beyond LONGEST.
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().unwrap_or(i64::MAX.into()) };
    let mut scale = nanos;
    let mut below = 0;
    for digit in fraction.bytes() {
        scale /= 10;
        below += i128::from(digit - b'0') * scale;
    }
    let nanos = whole.saturating_mul(nanos).saturating_add(below);
    Some(SignedDuration::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let cases = [
            ("300s", Some(300_000)),
            ("5m0s", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("300ms", Some(300)),
            ("1.5h", Some(5_400_000)),
            ("0.5s", Some(500)),
            (".5s", Some(500)),
            ("2000us", Some(2)),
            ("2000µs", Some(2)),
            ("0s", Some(0)),
            ("0", Some(0)),
            ("-1s", Some(-1_000)),
            ("-1m30s", Some(-90_000)),
            ("", None),
            ("-", None),
            ("5", None),
            ("s", None),
            ("5 s", None),
            ("1d", None),
            ("1.2.3s", None),
        ];
        for (text, millis) in cases {
            let read = parse(text);
            assert_eq!(read, millis.map(SignedDuration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn what_is_too_long_saturates() {
        for text in [
            "99999999999999999999h",
            "9999999h9999999h",
            "99999999999999999999999999999999999999999s",
        ] {
            assert_eq!(parse(text), Some(LONGEST), "{text}");
        }
    }
}
