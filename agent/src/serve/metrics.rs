//! Metrics, collected when they are asked for. Names, units and help are API: one table, [`DESCRIPTIONS`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use tocsin_runtime::log::DroppedLines;
use tokio::sync::watch;

use super::health::{ConnectionCounts, ResponseCounts};
use crate::{
    cluster::stats::ApiStats,
    health::Board,
    kernel::{KernelStats, loader::HookState},
    model::{ApiState, FaultKind, FaultView, NodeView, Outcome},
};

/// One metric family: name without `tocsin_` and `_total`, type, labels, help.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// As it is registered.
    pub name: &'static str,
    /// Counters get `_total`.
    pub counter: bool,
    /// In order.
    pub labels: &'static [&'static str],
    /// One line.
    pub help: &'static str,
}

macro_rules! descriptions {
    ($($constant:ident = $name:literal $counter:literal [$($label:literal),*] $help:literal;)*) => {
        $(const $constant: Description =
            Description { name: $name, counter: $counter, labels: &[$($label),*], help: $help };)*
        /// Every metric.
        pub static DESCRIPTIONS: &[Description] = &[$($constant),*];
    };
}

descriptions! {
    EVENTS = "kernel_events" true ["kind", "device", "errno"]
        "Kernel events, exactly as the kernel counted them";
    OPEN = "faults_open" false ["kind", "device", "scope"] "1 for every open fault";
    OPENED = "faults_opened" true ["kind"] "Faults opened since the agent started";
    CLOSED = "faults_closed" true ["kind"] "Faults closed since the agent started";
    HOOK = "hook_attached" false ["hook"] "1 where the hook's program runs, 0 where it is missing, not wanted or failed";
    SUPPRESSED = "records_suppressed" true [] "Kernel events counted and not sent, by the limit per (kind, device) and second";
    DROPPED = "records_dropped" true [] "Kernel events counted and not sent, because the ring buffer was full";
    UNCOUNTED = "events_uncounted" true [] "Kernel events not counted, because the table of counters was full";
    MISSED = "events_missed" true [] "Kernel events for which no program ran, because one was running on that CPU";
    FORGOTTEN = "events_forgotten" true [] "Kernel events given up while they waited for the mount table";
    PASSED = "check_passed" false ["check"] "1 while the check passes";
    DEGRADED = "check_degraded" false ["check"] "1 while the check passes by policy or with a blind spot";
    PROBE_OUTCOME = "probe_outcome" false ["check", "outcome"] "1 for what the last sample of a running probe was: pass, degraded, fail or unknown";
    PROBE_DURATION = "probe_duration_seconds" false ["check"] "How long the last sample of a running probe took";
    PROBE_AGE = "probe_age_seconds" false ["check"] "How long ago the last sample of a running probe was taken";
    REQUESTS = "health_requests" true ["code"] "Answers of the health listener by class: 200, 503 or refused";
    CONNECTIONS = "health_connections" false [] "Open connections to the health listener";
    EVICTED = "health_connections_evicted" true [] "Connections ended because there were too many of them";
    TIMED_OUT = "health_connections_timed_out" true [] "Connections ended because a request was not complete in time";
    AGENT_CHECKS = "agent_checks" true [] "Answers to HAProxy's agent-check";
    STATE_FILE = "state_file_failures" true [] "Attempts to write the state file that failed";
    TLS_FAILURES = "tls_reload_failures" true [] "Attempts to read a changed certificate that failed";
    API_UP = "api_up" false [] "1 while the Kubernetes API is heard, 0 while it is not or no cluster is configured";
    API_LOST = "api_lost" true [] "Times that the Kubernetes API was lost for longer than a reconnection";
    API_REQUESTS = "api_requests" true ["code"] "Requests to the Kubernetes API by status of the answer, or none";
    WRITES = "api_writes" true ["what", "result"] "Writes of the Node's conditions and of events";
    PROBES = "probes_running" false [] "Write probes that are running or stuck";
    LOOK = "look_duration_seconds" false [] "How long the last reading of the mount table and sysfs took";
    LOG_DROPPED = "log_lines_dropped" true [] "Log lines dropped because whoever reads standard error does not";
    BUILD = "build_info" false ["version"] "1";
}

/// What load balancers are told by.
#[derive(Debug, Default)]
pub struct DoorStats {
    /// Connections to the health listener.
    pub connections: Arc<ConnectionCounts>,
    /// Answers to `HAProxy`'s agent-check.
    pub agent_checks: Arc<AtomicU64>,
    /// Failed attempts to write the state file.
    pub state_file: Arc<AtomicU64>,
    /// Failed attempts to renew the certificate.
    pub tls: Arc<AtomicU64>,
}

/// What the metrics are made of.
#[derive(Clone)]
pub struct Sources {
    /// The kernel side.
    pub faults: watch::Receiver<Arc<FaultView>>,
    /// Its counters.
    pub stats: watch::Receiver<Arc<KernelStats>>,
    /// The cluster's word about this node.
    pub node: watch::Receiver<Arc<NodeView>>,
    /// The cluster side's counters.
    pub api: Arc<ApiStats>,
    /// The checks.
    pub board: Board,
    /// The health listener.
    pub answered: Arc<ResponseCounts>,
    /// What else load balancers are told by.
    pub door: Arc<DoorStats>,
    /// The log.
    pub log_dropped: DroppedLines,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

/// The registry.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let mut registry = Registry::with_prefix("tocsin");
        registry.register_collector(Box::new(sources));
        Self(registry)
    }

    /// The text of now.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }
}

/// Writes the samples of one family.
struct Family<'a>(prometheus_client::encoding::MetricEncoder<'a>);

impl<'a> Family<'a> {
    fn new<'b: 'a>(
        encoder: &'a mut DescriptorEncoder<'b>,
        description: &'a Description,
    ) -> Result<Self, fmt::Error> {
        let kind = if description.counter { MetricType::Counter } else { MetricType::Gauge };
        encoder.encode_descriptor(description.name, description.help, None, kind).map(Self)
    }

    fn counter(&mut self, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_family(labels)?)
    }

    fn number(&mut self, labels: &impl EncodeLabelSet, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_family(labels)?)
    }

    fn gauge(&mut self, labels: &impl EncodeLabelSet, value: bool) -> fmt::Result {
        ConstGauge::new(i64::from(value)).encode(self.0.encode_family(labels)?)
    }
}

/// Every name an outcome can have, and whether it is this one's.
fn outcomes(outcome: &Outcome) -> [(&'static str, bool); 4] {
    [
        ("pass", matches!(outcome, Outcome::Pass)),
        ("degraded", matches!(outcome, Outcome::Degraded(_))),
        ("fail", matches!(outcome, Outcome::Fail(_))),
        ("unknown", matches!(outcome, Outcome::Unknown(_))),
    ]
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let e = &mut encoder;
        let (view, stats) = (self.faults.borrow().clone(), self.stats.borrow().clone());

        let mut family = Family::new(e, &EVENTS)?;
        for count in &stats.counts {
            let device = count.device.to_string();
            let labels = [("kind", count.kind), ("device", &*device), ("errno", &*count.errno)];
            family.counter(&labels, count.count)?;
        }
        let mut family = Family::new(e, &OPEN)?;
        for fault in &view.faults {
            let device = fault.device.to_string();
            let labels =
                [("kind", fault.kind.name()), ("device", &*device), ("scope", fault.scope.name())];
            family.gauge(&labels, true)?;
        }
        let by_kind = [(&OPENED, view.opened), (&CLOSED, view.closed)];
        for (description, values) in by_kind {
            let mut family = Family::new(e, description)?;
            for (kind, value) in FaultKind::ALL.into_iter().zip(values) {
                family.counter(&[("kind", kind.name())], value)?;
            }
        }
        let mut family = Family::new(e, &HOOK)?;
        for hook in &stats.hooks {
            family.gauge(&[("hook", hook.name.as_str())], hook.state == HookState::Attached)?;
        }
        let checks = self.board.everything();
        let mut family = Family::new(e, &PASSED)?;
        for check in &checks {
            family.gauge(&[("check", check.name.as_str())], check.passed)?;
        }
        let mut family = Family::new(e, &DEGRADED)?;
        for check in &checks {
            family.gauge(&[("check", check.name.as_str())], check.degraded.is_some())?;
        }
        let sampled: Vec<_> = checks
            .iter()
            .filter_map(|check| Some((check.name.as_str(), self.board.sample(&check.name)?)))
            .collect();
        let mut family = Family::new(e, &PROBE_OUTCOME)?;
        for (check, sample) in &sampled {
            for (outcome, is_it) in outcomes(&sample.outcome) {
                family.gauge(&[("check", *check), ("outcome", outcome)], is_it)?;
            }
        }
        let mut family = Family::new(e, &PROBE_DURATION)?;
        for (check, sample) in &sampled {
            family.number(&[("check", *check)], sample.took.as_secs_f64())?;
        }
        let mut family = Family::new(e, &PROBE_AGE)?;
        for (check, sample) in &sampled {
            family.number(&[("check", *check)], sample.at.elapsed().as_secs_f64())?;
        }
        let mut family = Family::new(e, &REQUESTS)?;
        family.counter(&[("code", "200")], load(&self.answered.ready))?;
        family.counter(&[("code", "503")], load(&self.answered.not_ready))?;
        family.counter(&[("code", "refused")], load(&self.answered.refused))?;

        let open = self.door.connections.open.load(Relaxed);
        let open = i64::try_from(open).unwrap_or(i64::MAX);
        ConstGauge::new(open).encode(Family::new(e, &CONNECTIONS)?.0)?;

        let is_up = self.node.borrow().api == ApiState::Up;
        ConstGauge::new(i64::from(is_up)).encode(Family::new(e, &API_UP)?.0)?;
        let mut family = Family::new(e, &API_REQUESTS)?;
        for (code, count) in self.api.requests.by_code() {
            family.counter(&[("code", &*code)], count)?;
        }
        let mut family = Family::new(e, &WRITES)?;
        for (what, result, count) in self.api.writes() {
            family.counter(&[("what", what), ("result", result)], count)?;
        }

        let counters = [
            (&API_LOST, self.api.losses()),
            (&SUPPRESSED, stats.counts.iter().map(|count| count.suppressed).sum()),
            (&DROPPED, stats.counts.iter().map(|count| count.dropped).sum()),
            (&UNCOUNTED, stats.uncounted),
            (&MISSED, stats.missed),
            (&FORGOTTEN, stats.forgotten),
            (&EVICTED, load(&self.door.connections.evicted)),
            (&TIMED_OUT, load(&self.door.connections.timed_out)),
            (&AGENT_CHECKS, load(&self.door.agent_checks)),
            (&STATE_FILE, load(&self.door.state_file)),
            (&TLS_FAILURES, load(&self.door.tls)),
            (&LOG_DROPPED, (self.log_dropped)()),
        ];
        for (description, value) in counters {
            ConstCounter::new(value).encode(Family::new(e, description)?.0)?;
        }
        let probes = i64::try_from(stats.probes_running).unwrap_or(i64::MAX);
        ConstGauge::new(probes).encode(Family::new(e, &PROBES)?.0)?;
        ConstGauge::new(stats.look_seconds).encode(Family::new(e, &LOOK)?.0)?;
        Family::new(e, &BUILD)?.gauge(&[("version", env!("CARGO_PKG_VERSION"))], true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{
        checks::{
            Policy,
            runner::{Probe, Runner},
            tests::fault,
        },
        kernel::{loader::HookStatus, reader::NamedCount},
        model::{Dev, Scope},
    };

    #[tokio::test]
    async fn every_metric_is_written_as_described_and_none_besides() {
        let view = FaultView {
            faults: vec![fault(FaultKind::IoError, Scope::Host)],
            opened: [0, 0, 1, 0],
            ..FaultView::default()
        };
        let stats = KernelStats {
            counts: vec![NamedCount {
                kind: "block_write",
                device: Dev::new(7, 3),
                device_name: "loop3".into(),
                errno: "EIO".into(),
                count: 12,
                suppressed: 2,
                dropped: 1,
            }],
            hooks: vec![HookStatus {
                name: "block:block_rq_error".into(),
                state: HookState::Attached,
                detail: String::new(),
            }],
            ..KernelStats::default()
        };
        let (_faults, faults) = watch::channel(Arc::new(view));
        let (_stats, stats) = watch::channel(Arc::new(stats));
        let lost = ApiState::Lost { since: SystemTime::UNIX_EPOCH, error: String::new() };
        let (_node, node) = watch::channel(Arc::new(NodeView { api: lost, last: None }));
        let policy = Policy { node_name: Some("n".into()), ..Policy::default() };
        let probe = Probe {
            name: "kubelet",
            timeout: Duration::from_secs(5),
            sample: Box::new(|| Box::pin(async { Outcome::Fail("no".into()) })),
        };
        let (_runner, probes) =
            Runner::start(vec![probe], &["kubelet"], Duration::from_mins(1)).unwrap();
        probes.demand(["kubelet"]).await;
        let board = Board::new(
            crate::health::Sources { kernel: faults.clone(), node: node.clone(), probes },
            Arc::new(policy),
        );
        let text = Metrics::new(Sources {
            faults,
            stats,
            node,
            api: Arc::default(),
            board,
            answered: Arc::default(),
            door: Arc::default(),
            log_dropped: Arc::new(|| 3),
        })
        .render()
        .unwrap();
        for line in [
            "tocsin_kernel_events_total{kind=\"block_write\",device=\"7:3\",errno=\"EIO\"} 12",
            "tocsin_faults_open{kind=\"io_error\",device=\"7:3\",scope=\"host\"} 1",
            "tocsin_faults_opened_total{kind=\"io_error\"} 1",
            "tocsin_hook_attached{hook=\"block:block_rq_error\"} 1",
            "tocsin_records_suppressed_total 2",
            "tocsin_records_dropped_total 1",
            "tocsin_check_passed{check=\"io_errors\"} 0",
            "tocsin_check_passed{check=\"io_stall\"} 1",
            "tocsin_check_degraded{check=\"node_ready\"} 1",
            "tocsin_health_requests_total{code=\"503\"} 0",
            "tocsin_log_lines_dropped_total 3",
            "tocsin_api_up 0",
            "tocsin_check_passed{check=\"kubelet\"} 0",
            "tocsin_probe_outcome{check=\"kubelet\",outcome=\"fail\"} 1",
            "tocsin_probe_outcome{check=\"kubelet\",outcome=\"pass\"} 0",
            "tocsin_api_requests_total{code=\"none\"} 0",
            "tocsin_api_writes_total{what=\"event\",result=\"failed\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let families: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE tocsin_")?.split(' ').next())
            .collect();
        for description in DESCRIPTIONS {
            assert_eq!(
                families.iter().filter(|name| **name == description.name).count(),
                1,
                "{description:?}"
            );
            let total = if description.counter { "_total" } else { "" };
            let sample = text.lines().find(|line| {
                line.strip_prefix(&format!("tocsin_{}{total}", description.name))
                    .is_some_and(|rest| rest.starts_with([' ', '{']))
            });
            let sample = sample.unwrap_or_else(|| panic!("no sample of {description:?}"));
            let labels: Vec<_> = sample
                .split_once('{')
                .map_or("", |(_, rest)| rest.split_once('}').unwrap().0)
                .split(',')
                .filter(|label| !label.is_empty())
                .map(|label| label.split_once('=').unwrap().0)
                .collect();
            assert_eq!(labels, description.labels, "{description:?}");
        }
        assert_eq!(families.len(), DESCRIPTIONS.len());
    }
}
