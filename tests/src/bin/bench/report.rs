//! Figures beside their budgets.

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
    Kept,
    /// By no more than the noise of a shared machine can explain.
    Missed,
    Failed,
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
            verdict: match measured / budget {
                share if share < 1.0 => Verdict::Kept,
                share if share < TOLERANCE => Verdict::Missed,
                _ => Verdict::Failed,
            },
        });
    }

    /// A figure that is not to fall below its budget, in `unit`.
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

    /// A count that is to be exact; what the kernel says it missed is accounted for.
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

    /// A figure to know.
    pub(crate) fn note(&mut self, what: &str, measured: &str) {
        self.rows.push(Row {
            what: what.to_owned(),
            measured: measured.to_owned(),
            budget: String::new(),
            verdict: Verdict::Noted,
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

    /// p50, p99, p99.9 and maximum of times, to know.
    pub(crate) fn permilles(&mut self, what: &str, times: &mut [Duration]) {
        times.sort_unstable();
        for (name, permille) in [("p50", 500), ("p99", 990), ("p99.9", 999), ("max", 1000)] {
            let rank = (times.len() * permille).div_ceil(1000);
            let time = times.get(rank.saturating_sub(1)).copied().unwrap_or_default();
            self.note(&format!("{what}, {name}"), &format!("{} ms", rounded(milliseconds(time))));
        }
    }

    /// The table.
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

/// A neighbour that takes the CPU makes everything slower, but hardly ten times in a percentile.
const TOLERANCE: f64 = 10.0;

/// One event in so many may be lost to what no program and no counter of the kernel can see.
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
