//! The table of figures and their budgets.

use std::time::Duration;

/// A row of the table.
struct Row {
    what: String,
    measured: String,
    budget: String,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// A figure without a budget.
    Noted,
    /// Within the budget.
    Kept,
    /// Missed by no more than the noise of a shared machine can explain.
    Missed,
    /// Missed by more than noise can explain.
    Failed,
}

/// All figures so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a figure that has to be below its budget, in `unit`.
    pub(crate) fn below(&mut self, what: &str, measured: f64, budget: f64, unit: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: format!("{} {unit}", rounded(measured)),
            budget: format!("< {budget} {unit}"),
            verdict: match measured / budget {
                share if share < 1.0 => Verdict::Kept,
                share if share < TOLERANCE => Verdict::Missed,
                _ => Verdict::Failed,
            },
        });
    }

    /// Adds a figure that has to be its budget at least, in `unit`.
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, budget: f64, unit: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: format!("{measured:.2} {unit}"),
            budget: format!(">= {budget} {unit}"),
            verdict: match budget / measured {
                share if share <= 1.0 => Verdict::Kept,
                share if share < TOLERANCE => Verdict::Missed,
                _ => Verdict::Failed,
            },
        });
    }

    /// Adds a count that has to be exact, together with the events that the kernel says it missed.
    pub(crate) fn count(&mut self, what: &str, injected: u64, counted: u64, missed: u64) {
        let lost = injected.saturating_sub(counted + missed);
        self.rows.push(Row {
            what: what.to_owned(),
            measured: format!("{counted} + {missed}"),
            budget: injected.to_string(),
            verdict: match lost {
                0 if counted <= injected => Verdict::Kept,
                1.. if lost <= injected / LOST_AT_MOST => Verdict::Missed,
                _ => Verdict::Failed,
            },
        });
    }

    /// Adds a count that has to be this one.
    pub(crate) fn exact(&mut self, what: &str, counted: u64, expected: u64) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: counted.to_string(),
            budget: expected.to_string(),
            verdict: if counted == expected { Verdict::Kept } else { Verdict::Failed },
        });
    }

    /// Adds a figure without a budget.
    pub(crate) fn note(&mut self, what: &str, measured: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: measured.to_owned(),
            budget: String::new(),
            verdict: Verdict::Noted,
        });
    }

    /// Adds p50, p99 and maximum of times; `budgets` are for the first two, in milliseconds.
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

    /// Adds p50, p99, p99.9 and maximum of times, without a budget.
    pub(crate) fn permilles(&mut self, what: &str, times: &mut [Duration]) {
        times.sort_unstable();
        for (name, permille) in [("p50", 500), ("p99", 990), ("p99.9", 999), ("max", 1000)] {
            let rank = (times.len() * permille).div_ceil(1000);
            let time = times.get(rank.saturating_sub(1)).copied().unwrap_or_default();
            self.note(&format!("{what}, {name}"), &format!("{} ms", rounded(milliseconds(time))));
        }
    }

    /// Prints the table.
    pub(crate) fn print(&self) {
        let width = |column: fn(&Row) -> &str| {
            self.rows.iter().map(|row| column(row).chars().count()).max().unwrap_or(0)
        };
        let (what, measured) = (width(|row| &row.what), width(|row| &row.measured));
        let budget = width(|row| &row.budget);
        for row in &self.rows {
            let verdict = match row.verdict {
                Verdict::Noted => "",
                Verdict::Kept => "ok",
                Verdict::Missed => "missed",
                Verdict::Failed => "MISSED",
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
        self.rows.iter().all(|row| row.verdict != Verdict::Failed)
    }
}

/// How many times a budget may be missed: on a shared machine everything is slower, but a percentile hardly ten times.
const TOLERANCE: f64 = 10.0;

/// One event in so many may be lost where neither a program nor a counter of the kernel sees it.
const LOST_AT_MOST: u64 = 1000;

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
