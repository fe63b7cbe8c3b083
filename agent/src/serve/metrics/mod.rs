//! Metrics, collected when they are asked for. Names, units and help are API: one table, [`DESCRIPTIONS`].

mod descriptions;
mod peers;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tocsin_runtime::{
    log::DroppedLines,
    metrics::{Collect, Encoder},
};
use tokio::sync::watch;

use self::descriptions as described;
pub use self::descriptions::DESCRIPTIONS;
use super::health::{ConnectionCounts, ResponseCounts};
use crate::{
    cluster::stats::ApiStats,
    health::{Board, GuardView},
    kernel::{HookState, KernelStats},
    model::{ApiState, FaultKind, FaultView, NodeView, Outcome},
    peers::{Published, webhooks::WebhookStats},
};

/// Counters of everything that serves load balancers, but for the answers of the health listener.
#[derive(Debug, Default)]
pub struct ServeCounts {
    /// Connections to the health listener.
    pub connections: Arc<ConnectionCounts>,
    /// Answers to `HAProxy`'s agent-check.
    pub agent_checks: Arc<AtomicU64>,
    /// Failed attempts to write the state file.
    pub state_file: Arc<AtomicU64>,
    /// Failed attempts to renew the certificate.
    pub tls: Arc<AtomicU64>,
}

/// The sources of the metrics.
#[derive(Clone)]
pub struct MetricSources {
    /// The kernel side's faults.
    pub faults: watch::Receiver<Arc<FaultView>>,
    /// The kernel side's counters.
    pub stats: watch::Receiver<Arc<KernelStats>>,
    /// The state of the Node and of the API server.
    pub node: watch::Receiver<Arc<NodeView>>,
    /// The cluster side's counters.
    pub api: Arc<ApiStats>,
    /// The checks.
    pub board: Board,
    /// Answers of the health listener.
    pub answered: Arc<ResponseCounts>,
    /// Everything else that serves load balancers.
    pub serve: Arc<ServeCounts>,
    /// The peers.
    pub peers: Published,
    /// The webhooks.
    pub webhooks: Arc<WebhookStats>,
    /// Lines that the log has dropped.
    pub log_dropped: DroppedLines,
}

impl fmt::Debug for MetricSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricSources").finish_non_exhaustive()
    }
}

impl Collect for MetricSources {
    fn collect(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let stats = self.stats.borrow().clone();
        events(encoder, &stats)?;
        faults(encoder, &self.faults.borrow().clone())?;
        kernel(encoder, &stats)?;
        encoder.float(&described::LOOK_AGE, self.board.look_age().as_secs_f64())?;
        self.checks(encoder)?;
        storm_guard(encoder, &self.board.guard())?;
        self.probes(encoder)?;
        self.listeners(encoder)?;
        self.cluster(encoder)?;
        peers::collect(encoder, &self.peers, &self.webhooks)?;
        encoder.counter(&described::LOG_DROPPED, (self.log_dropped)())?;
        let mut build = encoder.family(&described::BUILD)?;
        build.flag(&[("version", env!("CARGO_PKG_VERSION"))], true)
    }
}

/// Counters of the kernel's programs.
fn events(encoder: &mut Encoder<'_>, stats: &KernelStats) -> fmt::Result {
    let mut events = encoder.family(&described::EVENTS)?;
    for count in &stats.counts {
        let device = count.device.to_string();
        let labels = [("kind", count.kind), ("device", &*device), ("errno", &*count.errno)];
        events.counter(&labels, count.count)?;
    }
    let suppressed = stats.counts.iter().map(|count| count.suppressed).sum();
    encoder.counter(&described::SUPPRESSED, suppressed)?;
    let dropped = stats.counts.iter().map(|count| count.dropped).sum();
    encoder.counter(&described::DROPPED, dropped)?;
    encoder.counter(&described::UNCOUNTED, stats.uncounted)?;
    encoder.counter(&described::MISSED, stats.missed)?;
    encoder.counter(&described::FORGOTTEN, stats.forgotten)?;
    encoder.integer(&described::PINNED, stats.pinned_hooks)?;
    encoder.counter(&described::CHECKPOINT, stats.checkpoint_failures)
}

/// Open faults, and counters of opened and closed ones.
fn faults(encoder: &mut Encoder<'_>, view: &FaultView) -> fmt::Result {
    let mut open = encoder.family(&described::OPEN)?;
    for fault in &view.faults {
        let device = fault.device.to_string();
        let labels =
            [("kind", fault.kind.name()), ("device", &*device), ("scope", fault.scope.name())];
        open.flag(&labels, true)?;
    }
    let by_kind = [(&described::OPENED, view.opened), (&described::CLOSED, view.closed)];
    for (description, values) in by_kind {
        let mut family = encoder.family(description)?;
        for (kind, value) in FaultKind::ALL.into_iter().zip(values) {
            family.counter(&[("kind", kind.name())], value)?;
        }
    }
    Ok(())
}

/// What the storm guard holds up.
fn storm_guard(encoder: &mut Encoder<'_>, guard: &GuardView) -> fmt::Result {
    let mut active = encoder.family(&described::STORM_GUARD_ACTIVE)?;
    for check in guard.storms.keys() {
        active.flag(&[("check", &**check)], true)?;
    }
    let mut shares = encoder.family(&described::STORM_GUARD_SHARE)?;
    for (check, storm) in &guard.storms {
        shares.float(&[("check", &**check)], storm.share.share())?;
    }
    encoder.counter(&described::STORM_GUARD_BEGUN, guard.begun)
}

/// State of the hooks, and the kernel side's own work.
fn kernel(encoder: &mut Encoder<'_>, stats: &KernelStats) -> fmt::Result {
    let mut hooks = encoder.family(&described::HOOK)?;
    for hook in &stats.hooks {
        hooks.flag(&[("hook", hook.name.as_str())], hook.state == HookState::Attached)?;
    }
    encoder.integer(&described::PROBES, stats.probes_running)?;
    encoder.float(&described::LOOK, stats.snapshot_seconds)
}

impl MetricSources {
    /// Verdicts of the checks.
    fn checks(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let checks = self.board.everything();
        let mut passed = encoder.family(&described::PASSED)?;
        for check in &checks {
            passed.flag(&[("check", check.name.as_str())], check.passed)?;
        }
        let mut degraded = encoder.family(&described::DEGRADED)?;
        for check in &checks {
            degraded.flag(&[("check", check.name.as_str())], check.degraded.is_some())?;
        }
        Ok(())
    }

    /// Last samples of the running probes.
    fn probes(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let checks = self.board.everything();
        let sampled: Vec<_> = checks
            .iter()
            .filter_map(|check| Some((check.name.as_str(), self.board.sample(&check.name)?)))
            .collect();
        let mut family = encoder.family(&described::PROBE_OUTCOME)?;
        for (check, sample) in &sampled {
            for (outcome, is_it) in outcomes(&sample.outcome) {
                family.flag(&[("check", *check), ("outcome", outcome)], is_it)?;
            }
        }
        let mut family = encoder.family(&described::PROBE_DURATION)?;
        for (check, sample) in &sampled {
            family.float(&[("check", *check)], sample.took.as_secs_f64())?;
        }
        let mut family = encoder.family(&described::PROBE_AGE)?;
        for (check, sample) in &sampled {
            family.float(&[("check", *check)], sample.at.elapsed().as_secs_f64())?;
        }
        Ok(())
    }

    /// Connections and answers for load balancers.
    fn listeners(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let load = |counter: &AtomicU64| counter.load(Relaxed);
        let mut requests = encoder.family(&described::REQUESTS)?;
        requests.counter(&[("code", "200")], load(&self.answered.ready))?;
        requests.counter(&[("code", "503")], load(&self.answered.not_ready))?;
        requests.counter(&[("code", "refused")], load(&self.answered.refused))?;
        let ServeCounts { connections, agent_checks, state_file, tls } = &*self.serve;
        encoder.integer(&described::CONNECTIONS, connections.open.load(Relaxed))?;
        encoder.counter(&described::EVICTED, load(&connections.evicted))?;
        encoder.counter(&described::TIMED_OUT, load(&connections.timed_out))?;
        encoder.counter(&described::AGENT_CHECKS, load(agent_checks))?;
        encoder.counter(&described::STATE_FILE, load(state_file))?;
        encoder.counter(&described::TLS_FAILURES, load(tls))
    }

    /// Requests and writes to the Kubernetes API.
    fn cluster(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        encoder.flag(&described::API_UP, self.node.borrow().api == ApiState::Up)?;
        encoder.counter(&described::API_LOST, self.api.losses())?;
        let mut requests = encoder.family(&described::API_REQUESTS)?;
        for (code, count) in self.api.requests.by_code() {
            requests.counter(&[("code", &*code)], count)?;
        }
        let mut writes = encoder.family(&described::WRITES)?;
        for (what, result, count) in self.api.writes() {
            writes.counter(&[("what", what), ("result", result)], count)?;
        }
        let mut missed = encoder.family(&described::CHANGES_MISSED)?;
        missed.counter(&[("reader", "events")], self.api.missed_changes())
    }
}

/// Every name that an outcome can have, and whether it is this one's.
fn outcomes(outcome: &Outcome) -> [(&'static str, bool); 4] {
    [
        ("pass", matches!(outcome, Outcome::Pass)),
        ("degraded", matches!(outcome, Outcome::Degraded(_))),
        ("fail", matches!(outcome, Outcome::Fail(_))),
        ("unknown", matches!(outcome, Outcome::Unknown(_))),
    ]
}
