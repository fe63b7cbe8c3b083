//! The table of a program's metrics.

use crate::table::{code, table};

/// One metric family, as the page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric<'a> {
    /// The whole name, with the prefix and a counter's `_total`.
    pub name: String,
    /// `counter` or `gauge`.
    pub kind: &'a str,
    /// The names of its labels, in order.
    pub labels: &'a [&'a str],
    /// What it counts or measures, in one line.
    pub help: &'a str,
}

/// The table of these metrics, in their order.
pub fn metrics<'a>(metrics: impl IntoIterator<Item = Metric<'a>>) -> String {
    let rows = metrics.into_iter().map(|Metric { name, kind, labels, help }| {
        let labels: Vec<_> = labels.iter().copied().map(code).collect();
        [code(&name), kind.to_owned(), labels.join(", "), help.to_owned()]
    });
    table(["metric", "type", "labels", "meaning"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_listed() {
        let metric = |name: &str, labels| Metric {
            name: name.to_owned(),
            kind: "gauge",
            labels,
            help: "What it is",
        };
        let text = metrics([metric("a_b", &["x", "y"]), metric("c", &[])]);
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            ["| `a_b` | gauge | `x`, `y` | What it is |", "| `c` | gauge |  | What it is |"]
        );
    }
}
