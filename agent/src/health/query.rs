//! The query string of a request for `/health`: pure.

use crate::checks::settings;

/// A request with more names than this is refused: there are not that many checks, and an answer has a bounded size.
pub const MAX_NAMES: usize = 32;

/// Why a request gets no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// HTTP status 500: the operator has to act.
    #[error("NODE_NAME is not set, and {0} needs it")]
    NoNodeName(String),
    /// HTTP status 400.
    #[error("more than {MAX_NAMES} checks in one request")]
    TooMany,
    /// HTTP status 400.
    #[error("the name of a check has at most {} bytes", settings::NAME_BYTES)]
    NoName,
}

/// What a request for `/health` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthQuery {
    /// Names of checks, trimmed and without repetition; empty for the default set.
    pub checks: Vec<String>,
    /// Names of checks to leave out.
    pub exclude: Vec<String>,
    /// The answer is text for people instead of JSON.
    pub verbose: bool,
    /// A node that is only cordoned is answered with 404 instead of 503, which `HAProxy`'s `http-check
    /// disable-on-404` takes for "no new sessions, keep the existing ones".
    pub drain_is_404: bool,
}

impl HealthQuery {
    /// Parses a query string. A parameter may be repeated; unknown parameters are ignored.
    pub fn parse(query: &str) -> Result<Self, Refused> {
        let mut parsed = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "check" => add_names(&mut parsed.checks, &value)?,
                "exclude" => add_names(&mut parsed.exclude, &value)?,
                // As on the z-pages of Kubernetes: the name alone is enough.
                "verbose" => parsed.verbose = !matches!(&*value, "false" | "0"),
                "drain" => parsed.drain_is_404 = value == "404",
                _ => {}
            }
        }
        Ok(parsed)
    }
}

fn add_names(names: &mut Vec<String>, value: &str) -> Result<(), Refused> {
    for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if name.len() > settings::NAME_BYTES {
            return Err(Refused::NoName);
        }
        if names.iter().all(|other| other != name) {
            if names.len() == MAX_NAMES {
                return Err(Refused::TooMany);
            }
            names.push(name.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_two_names_and_no_more() {
        let names =
            |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
        assert!(HealthQuery::parse(&format!("check={}", names(32))).is_ok());
        assert_eq!(HealthQuery::parse(&format!("check={}", names(33))), Err(Refused::TooMany));
        let repeated = vec!["a"; 1000].join(",");
        assert_eq!(HealthQuery::parse(&format!("check={repeated}")).unwrap().checks, ["a"]);
        for (name, is_one) in [
            ("x".repeat(settings::NAME_BYTES), true),
            ("x".repeat(settings::NAME_BYTES + 1), false),
            ("a%00b".to_owned(), true),
        ] {
            for parameter in ["check", "exclude"] {
                let found = HealthQuery::parse(&format!("{parameter}={name}"));
                assert_eq!(found.is_ok(), is_one, "{parameter}={name}");
            }
        }
    }

    #[test]
    fn switches_are_read() {
        for (query, verbose, drain_is_404) in [
            ("", false, false),
            ("verbose", true, false),
            ("verbose=1", true, false),
            ("verbose=false", false, false),
            ("verbose=0&drain=404", false, true),
            ("drain=1&other=1", false, false),
        ] {
            let parsed = HealthQuery::parse(query).unwrap();
            assert_eq!((parsed.verbose, parsed.drain_is_404), (verbose, drain_is_404), "{query}");
        }
    }
}
