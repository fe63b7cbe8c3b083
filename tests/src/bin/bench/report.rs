//! Figures beside their budgets.

use std::time::Duration;

/// A row of the table.
struct Row {
    what: String,
    measured: String,
    budget: String,
    /// Measured over budget; above 1 it is missed. `None` is a figure without a budget.
    share: Option<f64>,
}

/// What was measured.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// A figure that is to stay below its budget, in `unit`.
    pub(crate) fn below(&mut self, what: &str, measured: f64, budget: f64, unit: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: format!("{} {unit}", rounded(measured)),
            budget: format!("< {budget} {unit}"),
            share: Some(measured / budget),
        });
    }

    /// Something that has to be so.
    pub(crate) fn must(&mut self, what: &str, measured: &str, holds: bool) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: measured.to_owned(),
            budget: "exact".to_owned(),
            // Wrong is wrong: never within ten times.
            share: Some(if holds { 0.0 } else { f64::INFINITY }),
        });
    }

    /// A figure to know.
    pub(crate) fn note(&mut self, what: &str, measured: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: measured.to_owned(),
            budget: String::new(),
            share: None,
        });
    }

    /// p50, p99 and maximum of times; `budgets` are for the first two, in milliseconds.
    pub(crate) fn times(&mut self, what: &str, times: &mut [Duration], budgets: Option<[f64; 2]>) {
        times.sort_unstable();
        let [p50, p99, max] = [50, 99, 100].map(|percent| milliseconds(percentile(times, percent)));
        if let Some([first, second]) = budgets {
            self.below(&format!("{what}, p50"), p50, first, "ms");
            self.below(&format!("{what}, p99"), p99, second, "ms");
        } else {
            self.note(&format!("{what}, p50"), &format!("{} ms", rounded(p50)));
            self.note(&format!("{what}, p99"), &format!("{} ms", rounded(p99)));
        }
        self.note(&format!("{what}, max of {}", times.len()), &format!("{} ms", rounded(max)));
    }

    /// The table.
    pub(crate) fn print(&self) {
        let width = |column: fn(&Row) -> &str| {
            self.rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0)
        };
        let (what, measured) = (width(|row| &row.what), width(|row| &row.measured));
        let budget = width(|row| &row.budget);
        for row in &self.rows {
            let verdict = match row.share {
                None => "",
                Some(share) if share < 1.0 => "ok",
                Some(share) if share < TOLERANCE => "missed",
                Some(_) => "MISSED",
            };
            let line = format!(
                "{:what$}  {:>measured$}  {:>budget$}  {verdict}",
                row.what, row.measured, row.budget
            );
            println!("{}", line.trim_end());
        }
    }

    /// Whether no budget is missed by more than the noise of a shared machine can explain.
    pub(crate) fn is_acceptable(&self) -> bool {
        self.rows.iter().all(|row| row.share.is_none_or(|share| share < TOLERANCE))
    }
}

/// A neighbour that takes the CPU makes everything slower, but hardly ten times in a percentile.
const TOLERANCE: f64 = 10.0;

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn rounded(value: f64) -> String {
    if value < 1.0 { format!("{value:.3}") } else { format!("{value:.1}") }
}
