//! How many of the selected nodes have to be healthy: `minHealthy` and `maxUnhealthy`.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How many of `observed` nodes have to be healthy, or why that cannot be said.
///
/// A percentage is rounded up, also that of `maxUnhealthy`. A number in quotes is a number.
pub(super) fn min_healthy(
    min: Option<&IntOrString>,
    max: Option<&IntOrString>,
    observed: i64,
) -> Result<i64, String> {
    match (min, max) {
        (Some(_), Some(_)) => {
            Err("minHealthy and maxUnhealthy cannot be specified at the same time".to_owned())
        }
        (None, None) => Err("one of minHealthy and maxUnhealthy should be specified".to_owned()),
        (Some(min), None) => {
            match scaled(min, observed).map_err(|why| format!("minHealthy {why}"))? {
                negative @ ..0 => Err(format!("minHealthy is negative: {negative}")),
                min => Ok(min),
            }
        }
        (None, Some(max)) => {
            match scaled(max, observed).map_err(|why| format!("maxUnhealthy {why}"))? {
                negative @ ..0 => Err(format!("maxUnhealthy is negative: {negative}")),
                max if max > observed => {
                    Err(format!("maxUnhealthy is greater than the number of selected nodes: {max}"))
                }
                max => Ok(observed - max),
            }
        }
    }
}

/// The number that `amount` stands for.
fn scaled(amount: &IntOrString, total: i64) -> Result<i64, String> {
    let text = match amount {
        IntOrString::Int(number) => return Ok(i64::from(*number)),
        IntOrString::String(text) => text,
    };
    let wrong = |_| format!("is neither a number nor a percentage: {text:?}");
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: i64 = percent.parse::<i32>().map_err(wrong)?.into();
            let part = percent * total;
            // Rounded up; a negative one is an error whatever it is.
            Ok(part.div_euclid(100) + i64::from(part.rem_euclid(100) != 0))
        }
        None => Ok(text.parse::<i32>().map_err(wrong)?.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_say_how_many() {
        fn amount(text: &str) -> IntOrString {
            match text.strip_prefix('"') {
                Some(quoted) => IntOrString::String(quoted.trim_end_matches('"').to_owned()),
                None if text.contains('%') => IntOrString::String(text.to_owned()),
                None => IntOrString::Int(text.parse().unwrap()),
            }
        }
        // (minHealthy, maxUnhealthy, selected nodes, how many have to be healthy)
        let cases: [(&str, &str, i64, Result<i64, &str>); 24] = [
            ("8", "", 10, Ok(8)),
            ("80%", "", 10, Ok(8)),
            ("75%", "", 10, Ok(8)),
            ("0%", "", 10, Ok(0)),
            ("100%", "", 10, Ok(10)),
            ("", "8", 10, Ok(2)),
            ("", "80%", 10, Ok(2)),
            ("", "75%", 10, Ok(2)),
            ("", "0%", 10, Ok(10)),
            ("", "100%", 10, Ok(0)),
            ("", "12", 10, Err("maxUnhealthy is greater than the number of selected nodes: 12")),
            ("51%", "", 1, Ok(1)),
            ("51%", "", 2, Ok(2)),
            ("51%", "", 3, Ok(2)),
            ("51%", "", 4, Ok(3)),
            ("51%", "", 5, Ok(3)),
            ("51%", "", 7, Ok(4)),
            ("51%", "", 9, Ok(5)),
            ("-3%", "", 100, Err("minHealthy is negative: -3")),
            ("-1", "", 10, Err("minHealthy is negative: -1")),
            ("\"2\"", "", 10, Ok(2)),
            ("\"x\"", "", 10, Err("minHealthy is neither a number nor a percentage: \"x\"")),
            ("1", "1", 10, Err("minHealthy and maxUnhealthy cannot be specified at the same time")),
            ("", "", 10, Err("one of minHealthy and maxUnhealthy should be specified")),
        ];
        for (min, max, observed, expected) in cases {
            let [min_amount, max_amount] =
                [min, max].map(|text| (!text.is_empty()).then(|| amount(text)));
            let got = min_healthy(min_amount.as_ref(), max_amount.as_ref(), observed);
            assert_eq!(
                got,
                expected.map_err(str::to_owned),
                "min {min:?} max {max:?} of {observed}"
            );
        }
    }
}
