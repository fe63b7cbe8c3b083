//! The form of the body of `/health`, which the request's `Accept` headers choose. Pure.

/// The form of the body of `/health`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `application/json`: the JSON of the readiness endpoint that this replaces.
    #[default]
    Json,
    /// `application/health+json`
    HealthJson,
}

impl Format {
    /// The form that all `Accept` headers of a request together ask for (RFC 9110, 12.5.1). `application/health+json`
    /// has to be named, with a weight that is at least that of `application/json`; wildcards mean JSON.
    #[must_use]
    pub fn accepted<'v>(headers: impl IntoIterator<Item = &'v [u8]>) -> Self {
        let (mut health, mut json) = (0, 0);
        for range in headers.into_iter().flat_map(|value| value.split(|byte| *byte == b',')) {
            let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let weight = if name.eq_ignore_ascii_case(b"application/health+json") {
                &mut health
            } else if name.eq_ignore_ascii_case(b"application/json") {
                &mut json
            } else {
                continue;
            };
            *weight = parts.find_map(parse_weight).unwrap_or(1000).max(*weight);
        }
        if health > 0 && health >= json { Self::HealthJson } else { Self::Json }
    }
}

/// The weight in `q=0.5`, in thousandths (RFC 9110, 12.4.2); `None` for every other parameter.
fn parse_weight(parameter: &[u8]) -> Option<u16> {
    let (b'q' | b'Q', value) = parameter.split_first()? else { return None };
    let value = std::str::from_utf8(value.trim_ascii().strip_prefix(b"=")?.trim_ascii()).ok()?;
    let (whole, rest) = value.split_once('.').unwrap_or((value, ""));
    if rest.len() > 3 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{rest:0<3}").parse::<u16>().ok()?;
    Some((whole.parse::<u16>().ok()?.checked_mul(1000)? + thousandths).min(1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_json_has_to_be_named_and_preferred() {
        for (accepts, format) in [
            (&["text/html, Application/Health+JSON;q=1"][..], Format::HealthJson),
            (&["application/health+json", "*/*"], Format::HealthJson),
            (&["*/*", "application/health+json"], Format::HealthJson),
            (&["application/health+json, application/json"], Format::HealthJson),
            (&["application/health+json;q=0.5, application/json;q=0.49"], Format::HealthJson),
            (&["application/health+json;q=0.5, application/json"], Format::Json),
            (&["application/health+json;v=1; q=0"], Format::Json),
            (&["application/health+json;q=0.000"], Format::Json),
            (&["application/health+jsonx"], Format::Json),
            (&["application/json"], Format::Json),
            (&["*/*"], Format::Json),
            (&[], Format::Json),
        ] {
            let headers = accepts.iter().map(|value| value.as_bytes());
            assert_eq!(Format::accepted(headers), format, "{accepts:?}");
        }
    }

    #[test]
    fn a_weight_is_in_thousandths() {
        for (parameter, thousandths) in [
            ("q=1", Some(1000)),
            ("Q = 0.25", Some(250)),
            ("q=7", Some(1000)),
            ("q=0.", Some(0)),
            ("q=99999", None),
            ("q=0.1234", None),
            ("q=x", None),
            ("q", None),
            ("", None),
            ("qq=0", None),
        ] {
            assert_eq!(parse_weight(parameter.as_bytes()), thousandths, "{parameter:?}");
        }
    }
}
