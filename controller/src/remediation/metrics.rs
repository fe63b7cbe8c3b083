//! Metrics: those of the operator that this replaces, by their names, and Tocsin's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tocsin_runtime::metrics::{Collect, Encoder};

use super::{decide::Recovery, leader::Leadership, world::World};

tocsin_runtime::descriptions! {
    pub static DESCRIPTIONS;
    LEADER = gauge "remediation_leader" [] "Whether this replica acts";
    SYNCED = gauge "remediation_synced" [] "Whether the first lists of nodes, NodeHealthChecks and leases are complete";
    DECISIONS = counter "remediation_decisions" [] "Decisions about a NodeHealthCheck";
    WRITES = counter "remediation_writes" ["result"] "Writes to the API, by how they ended";
    WAITING = gauge "remediation_waiting_nodes" ["check", "reason"] "Unhealthy nodes that are not being remediated, by why";
    EVENTS_DROPPED = counter "remediation_events_dropped" [] "Events that were not written";
    WATCH_ERRORS = counter "remediation_watch_errors" [] "Errors of watches and of discovery";
    SILENCED = counter "remediation_silenced_conditions" [] "Conditions set to Unknown because nothing was heard of their writer";
    ADMISSIONS = counter "remediation_admissions" ["result"] "Questions of the webhook, by the answer";
}

/// Upper bounds of the histogram's buckets, in seconds: the reference's.
const BUCKETS: [u64; 10] = [30, 60, 120, 180, 240, 300, 600, 1200, 2400, 3600];

/// Node, namespace and kind of a remediation.
type Labels = (String, String, String);

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

#[derive(Debug, Default)]
struct Values {
    old: BTreeMap<String, u64>,
    ongoing: BTreeMap<Labels, bool>,
    durations: BTreeMap<Labels, Histogram>,
    waiting: BTreeMap<(String, String), usize>,
    writes: BTreeMap<&'static str, u64>,
    admissions: BTreeMap<&'static str, u64>,
}

/// The metrics of the remediation.
#[derive(Clone, Debug)]
pub struct RemediationMetrics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    values: Mutex<Values>,
    leadership: Leadership,
    synced: AtomicU64,
    decisions: AtomicU64,
    silenced: AtomicU64,
    events_dropped: Arc<AtomicU64>,
    watch_errors: Arc<AtomicU64>,
}

impl RemediationMetrics {
    /// All zero.
    #[must_use]
    pub fn new(
        leadership: Leadership,
        events_dropped: Arc<AtomicU64>,
        watch_errors: Arc<AtomicU64>,
    ) -> Self {
        let values = Values {
            writes: ["ok", "conflict", "refused", "no_answer", "not_leading"]
                .map(|result| (result, 0))
                .into(),
            admissions: ["allowed", "denied", "error"].map(|result| (result, 0)).into(),
            ..Values::default()
        };
        Self(Arc::new(Shared {
            values: Mutex::new(values),
            leadership,
            synced: AtomicU64::new(0),
            decisions: AtomicU64::new(0),
            silenced: AtomicU64::new(0),
            events_dropped,
            watch_errors,
        }))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Values) -> T) -> T {
        change(&mut self.0.values.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first lists are complete.
    pub fn synced(&self) {
        self.0.synced.store(1, Relaxed);
    }

    /// Whether the first lists are complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.0.synced.load(Relaxed) == 1
    }

    /// A decision was made.
    pub fn decided(&self) {
        self.0.decisions.fetch_add(1, Relaxed);
    }

    /// A write ended so.
    pub fn wrote(&self, result: &'static str) {
        self.with(|values| *values.writes.entry(result).or_default() += 1);
    }

    /// The webhook answered so.
    pub fn admitted(&self, result: &'static str) {
        self.with(|values| *values.admissions.entry(result).or_default() += 1);
    }

    /// So many conditions were set to Unknown.
    pub fn silenced(&self, conditions: usize) {
        self.0.silenced.fetch_add(conditions as u64, Relaxed);
    }

    /// A remediation object of this node was marked as old.
    pub fn old(&self, node: &str) {
        self.with(|values| *values.old.entry(node.to_owned()).or_default() += 1);
    }

    /// A node is healthy again.
    pub fn recovered(&self, recovery: &Recovery) {
        let seconds = recovery.after.as_secs_f64().max(0.0);
        let labels = (recovery.node.clone(), recovery.namespace.clone(), recovery.kind.clone());
        self.with(|values| {
            let histogram = values.durations.entry(labels).or_default();
            for (bucket, bound) in histogram.buckets.iter_mut().zip(BUCKETS) {
                #[expect(clippy::cast_precision_loss, reason = "bounds are small")]
                let within = seconds <= bound as f64;
                *bucket += u64::from(within);
            }
            histogram.count += 1;
            histogram.sum += seconds;
        });
    }

    /// How the cluster is: which remediations are ongoing, who waits. What belongs to a node that is gone goes.
    pub fn look(&self, world: &World) {
        let owned = world
            .remediations
            .values()
            .filter(|it| world.checks.keys().any(|check| it.owned_by(check)));
        let ongoing: BTreeSet<Labels> = owned
            .map(|it| (it.node().to_owned(), it.key.namespace.clone(), it.key.kind.kind.clone()))
            .collect();
        let mut waiting: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (name, check) in &world.checks {
            let nodes =
                check.status.iter().flat_map(|status| status.waiting_nodes.iter().flatten());
            for node in nodes {
                *waiting.entry((name.clone(), node.reason.clone())).or_default() += 1;
            }
        }
        let known = |labels: &Labels| world.nodes.contains_key(labels.0.as_str());
        self.with(|values| {
            values.ongoing.retain(|labels, _| known(labels));
            values.durations.retain(|labels, _| known(labels));
            values.old.retain(|node, _| world.nodes.contains_key(node.as_str()));
            for (labels, on) in &mut values.ongoing {
                *on = ongoing.contains(labels);
            }
            values.ongoing.extend(ongoing.into_iter().map(|labels| (labels, true)));
            for count in values.waiting.values_mut() {
                *count = 0;
            }
            values.waiting.extend(waiting);
        });
    }

    /// The metrics of the reference, whose names have no prefix: put into a scrape before its end.
    pub fn add_to(&self, scrape: &mut String, open_metrics: bool) -> fmt::Result {
        let end = scrape.strip_suffix("# EOF\n").map(str::len);
        if let Some(end) = end {
            scrape.truncate(end);
        }
        self.with(|values| reference(values, scrape, open_metrics))?;
        if end.is_some() {
            scrape.push_str("# EOF\n");
        }
        Ok(())
    }
}

fn reference(values: &Values, out: &mut String, open_metrics: bool) -> fmt::Result {
    // OpenMetrics would have a counter's name end with _total, and the reference's does not.
    let counter = if open_metrics { "unknown" } else { "counter" };
    let name = "nodehealthcheck_old_remediation_cr";
    writeln!(
        out,
        "# HELP {name} Number of remediation objects that were found to be older than 48 hours"
    )?;
    writeln!(out, "# TYPE {name} {counter}")?;
    for (node, count) in &values.old {
        writeln!(out, "{name}{{name=\"{}\",namespace=\"\"}} {count}", escaped(node))?;
    }
    let name = "nodehealthcheck_ongoing_remediation";
    writeln!(out, "# HELP {name} Whether a remediation is ongoing")?;
    writeln!(out, "# TYPE {name} gauge")?;
    for (labels, on) in &values.ongoing {
        writeln!(out, "{name}{{{}}} {}", text(labels), u8::from(*on))?;
    }
    let name = "nodehealthcheck_unhealthy_node_duration_seconds";
    writeln!(
        out,
        "# HELP {name} Time from the start of a remediation until its node was healthy again"
    )?;
    writeln!(out, "# TYPE {name} histogram")?;
    for (labels, histogram) in &values.durations {
        let labels = text(labels);
        for (count, bound) in histogram.buckets.iter().zip(BUCKETS) {
            writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
        }
        writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", histogram.count)?;
        writeln!(out, "{name}_sum{{{labels}}} {}", histogram.sum)?;
        writeln!(out, "{name}_count{{{labels}}} {}", histogram.count)?;
    }
    Ok(())
}

fn text((node, namespace, kind): &Labels) -> String {
    format!(
        "name=\"{}\",namespace=\"{}\",remediation=\"{}\"",
        escaped(node),
        escaped(namespace),
        escaped(kind)
    )
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

impl Collect for RemediationMetrics {
    fn collect(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let Shared {
            values: _,
            leadership,
            synced,
            decisions,
            silenced,
            events_dropped,
            watch_errors,
        } = &*self.0;
        encoder.flag(&LEADER, leadership.may_write())?;
        encoder.flag(&SYNCED, synced.load(Relaxed) == 1)?;
        encoder.counter(&DECISIONS, decisions.load(Relaxed))?;
        encoder.counter(&EVENTS_DROPPED, events_dropped.load(Relaxed))?;
        encoder.counter(&WATCH_ERRORS, watch_errors.load(Relaxed))?;
        encoder.counter(&SILENCED, silenced.load(Relaxed))?;
        self.with(|values| {
            let mut family = encoder.family(&WRITES)?;
            for (result, count) in &values.writes {
                family.counter(&[("result", *result)], *count)?;
            }
            let mut family = encoder.family(&ADMISSIONS)?;
            for (result, count) in &values.admissions {
                family.counter(&[("result", *result)], *count)?;
            }
            let mut family = encoder.family(&WAITING)?;
            for ((check, reason), count) in &values.waiting {
                family
                    .integer(&[("check", check.as_str()), ("reason", reason.as_str())], *count)?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use tocsin_runtime::metrics::Metrics;

    use super::*;

    #[test]
    fn the_references_metrics_have_their_names() {
        let metrics =
            RemediationMetrics::new(Leadership::default(), Arc::default(), Arc::default());
        metrics.old("n0");
        let recovery = Recovery {
            node: "n0".to_owned(),
            namespace: "rem".to_owned(),
            kind: "Reboot".to_owned(),
            after: SignedDuration::from_secs(61),
        };
        metrics.recovered(&recovery);
        for open_metrics in [false, true] {
            let mut scrape = Metrics::new(metrics.clone()).render().unwrap();
            metrics.add_to(&mut scrape, open_metrics).unwrap();
            for line in [
                "nodehealthcheck_old_remediation_cr{name=\"n0\",namespace=\"\"} 1",
                "nodehealthcheck_unhealthy_node_duration_seconds_bucket{name=\"n0\",namespace=\"rem\",remediation=\"Reboot\",le=\"60\"} 0",
                "nodehealthcheck_unhealthy_node_duration_seconds_bucket{name=\"n0\",namespace=\"rem\",remediation=\"Reboot\",le=\"120\"} 1",
                "nodehealthcheck_unhealthy_node_duration_seconds_sum{name=\"n0\",namespace=\"rem\",remediation=\"Reboot\"} 61",
                "tocsin_remediation_leader 0",
            ] {
                assert!(scrape.lines().any(|found| found == line), "{line}\n{scrape}");
            }
            assert!(scrape.ends_with("# EOF\n") && scrape.matches("# EOF").count() == 1);
        }
    }
}
