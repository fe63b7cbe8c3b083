//! The health board: outcomes of checks -> verdict. The only place that says "ready".

mod changes;
mod query;
mod sources;
pub mod storm_guard;
mod verdict;
mod zpage;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tocsin_api::health::{CheckResult, HealthResponse};

pub use self::{
    changes::{ANSWER_AGE, Changes},
    query::{HealthQuery, MAX_NAMES, Refused},
    sources::Sources,
    storm_guard::{GuardView, Storm},
    verdict::is_only_cordoned,
    zpage::zpage,
};
use crate::{
    checks::{Check, Policy, samples::Sample},
    model::{ApiState, FaultView},
};

/// Answers health queries from what the sources published. Every listener has one; a query is a read of memory.
#[derive(Clone, Debug)]
pub struct Board {
    sources: Sources,
    policy: Arc<Policy>,
}

impl Board {
    /// A board on these sources.
    #[must_use]
    pub fn new(sources: Sources, policy: Arc<Policy>) -> Self {
        Self { sources, policy }
    }

    /// What the operator wants.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// This node's name.
    #[must_use]
    pub fn node_name(&self) -> Option<&str> {
        self.policy.node_name.as_deref()
    }

    /// The check of that name.
    #[must_use]
    pub fn check(&self, name: &str) -> Option<&'static Check> {
        self.policy.find(name)
    }

    fn names<'a>(&'a self, query: &'a HealthQuery) -> impl Iterator<Item = &'a str> {
        let requested = query.checks.iter().map(String::as_str);
        let defaults = self.policy.default_checks.iter().map(|check| check.name);
        let defaults = defaults.take(if query.checks.is_empty() { usize::MAX } else { 0 });
        requested.chain(defaults).filter(|name| query.exclude.iter().all(|out| out != name))
    }

    /// Answers once every requested probe has a result: at once, except for the first request for a probe that does
    /// not run yet.
    pub async fn ask(&self, query: &HealthQuery) -> Result<HealthResponse, Refused> {
        let began = Instant::now();
        self.sources.probes.demand(self.names(query)).await;
        let mut response = self.answer(query)?;
        response.total_duration_ms = milliseconds(began.elapsed());
        Ok(response)
    }

    /// Answers at once, or returns `None` where [`Self::ask`] would have to wait.
    #[must_use]
    pub fn ask_now(&self, query: &HealthQuery) -> Option<Result<HealthResponse, Refused>> {
        self.sources.probes.want(self.names(query)).then(|| self.answer(query))
    }

    /// Answers at once from what is known, and starts no probe.
    pub fn answer(&self, query: &HealthQuery) -> Result<HealthResponse, Refused> {
        self.guarded_answer(query, &self.guard())
    }

    fn guarded_answer(
        &self,
        query: &HealthQuery,
        guard: &GuardView,
    ) -> Result<HealthResponse, Refused> {
        let context = self.sources.context(self.policy.clone());
        let mut results = Vec::new();
        for name in self.names(query) {
            let check = self.check(name);
            if self.node_name().is_none() && check.is_some_and(Check::needs_node_name) {
                return Err(Refused::NoNodeName(name.to_owned()));
            }
            let mut result = match check {
                Some(check) => {
                    let result = verdict::result(check, context.outcome(check));
                    storm_guard::apply(result, check, &context, guard)
                }
                None => verdict::unknown_check(name),
            };
            let took = context.probes.latest(name).map(|sample| sample.took);
            result.duration_ms = took.map_or(0, milliseconds);
            results.push(result);
        }
        Ok(HealthResponse::new(results))
    }

    /// The result of every check, for metrics: checks of the Node only where a cluster is configured, and probes only
    /// while they run.
    #[must_use]
    pub fn everything(&self) -> Vec<CheckResult> {
        self.all_results(&self.guard())
    }

    /// The same before the storm guard: what this agent tells its peers.
    #[must_use]
    pub fn unguarded(&self) -> Vec<CheckResult> {
        self.all_results(&GuardView::default())
    }

    /// What the storm guard holds up.
    #[must_use]
    pub fn guard(&self) -> Arc<GuardView> {
        self.sources.guard.borrow().clone()
    }

    fn all_results(&self, guard: &GuardView) -> Vec<CheckResult> {
        let context = self.sources.context(self.policy.clone());
        let shown = self.policy.all().filter(|check| context.has_source(check));
        let checks: Vec<_> = shown.map(|check| check.name.to_owned()).collect();
        if checks.is_empty() {
            return Vec::new();
        }
        let query = HealthQuery { checks, ..HealthQuery::default() };
        self.guarded_answer(&query, guard).map(|response| response.checks).unwrap_or_default()
    }

    /// The signal that answers may have changed.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.sources.changes()
    }

    /// The signal that checks may have changed, but for the storm guard.
    #[must_use]
    pub fn unguarded_changes(&self) -> Changes {
        self.sources.unguarded_changes()
    }

    /// The open faults, for answers that show more than verdicts.
    #[must_use]
    pub fn faults(&self) -> Arc<FaultView> {
        self.sources.kernel.borrow().clone()
    }

    /// For how long the kernel task has stood still.
    #[must_use]
    pub fn standstill(&self) -> Duration {
        self.sources.pulse.standstill()
    }

    /// When the kernel side last looked at the host: so long ago.
    #[must_use]
    pub fn look_age(&self) -> Duration {
        self.sources.pulse.look_age()
    }

    /// The query for load balancers that know "drain": the default set, and `schedulable` where a cluster is
    /// configured.
    #[must_use]
    pub fn with_drain(&self) -> HealthQuery {
        let defaults = self.policy.default_checks.iter().map(|check| check.name);
        let has_cluster = self.sources.node.borrow().api != ApiState::NotConfigured;
        let mut checks: Vec<_> = defaults.map(str::to_owned).collect();
        if has_cluster && checks.iter().all(|name| name != verdict::SCHEDULABLE) {
            checks.push(verdict::SCHEDULABLE.to_owned());
        }
        HealthQuery { checks, ..HealthQuery::default() }
    }

    /// The latest sample of a probe, for metrics; this does not count as a request for it.
    #[must_use]
    pub fn sample(&self, name: &str) -> Option<Sample> {
        self.sources.probes.latest(name)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::{
        checks::{find, tests::fault},
        model::{FaultKind, Scope},
    };

    fn defaults() -> Vec<&'static Check> {
        ["filesystem_ro", "io_errors", "io_stall"].map(|name| find(name).unwrap()).to_vec()
    }

    fn board(faults: &[FaultKind], node_name: Option<&str>) -> Board {
        let faults = faults.iter().map(|kind| fault(*kind, Scope::Host)).collect();
        let view = FaultView { faults, ..FaultView::default() };
        let (_kernel, kernel) = watch::channel(Arc::new(view));
        let (_node, node) = watch::channel(Arc::default());
        let policy = Policy {
            node_name: node_name.map(str::to_owned),
            default_checks: defaults(),
            ..Policy::default()
        };
        let sources = Sources { kernel, node, ..Sources::default() };
        Board::new(sources, Arc::new(policy))
    }

    fn ask(board: &Board, query: &str) -> String {
        match board.answer(&HealthQuery::parse(query).unwrap()) {
            Ok(answer) => serde_json::to_string(&answer).unwrap(),
            Err(refused) => refused.to_string(),
        }
    }

    #[test]
    fn answers_have_the_shape_of_the_readiness_endpoint() {
        let ready = board(&[], Some("n"));
        assert_eq!(
            ask(&ready, "check=io_stall"),
            r#"{"status":"ready","checks":[{"name":"io_stall","passed":true,"duration_ms":0}],"total_duration_ms":0}"#
        );
        let broken = board(&[FaultKind::IoStall], Some("n"));
        assert_eq!(
            ask(&broken, "check=io_stall"),
            r#"{"status":"not-ready","checks":[{"name":"io_stall","passed":false,"reason":"loop3 (7:3) ext4 on /mnt/x: io_stall","duration_ms":0}],"total_duration_ms":0}"#
        );
        assert_eq!(
            ask(&ready, "check=node_ready"),
            r#"{"status":"ready","checks":[{"name":"node_ready","passed":true,"degraded":"no cluster is configured","duration_ms":0}],"total_duration_ms":0}"#
        );
    }

    #[test]
    fn checks_are_anded_in_the_order_asked_for() {
        let broken = board(&[FaultKind::IoStall], Some("n"));
        // (query, status, names and whether each passed)
        for (query, status, checks) in [
            (
                "",
                "not-ready",
                &[("filesystem_ro", true), ("io_errors", true), ("io_stall", false)][..],
            ),
            (
                "check=",
                "not-ready",
                &[("filesystem_ro", true), ("io_errors", true), ("io_stall", false)],
            ),
            ("check=io_errors", "ready", &[("io_errors", true)]),
            ("check=io_stall,io_errors", "not-ready", &[("io_stall", false), ("io_errors", true)]),
            ("check=%20io_errors%20,,io_errors", "ready", &[("io_errors", true)]),
            (
                "check=io_errors&check=io_stall",
                "not-ready",
                &[("io_errors", true), ("io_stall", false)],
            ),
            ("check=bogus,io_errors", "not-ready", &[("bogus", false), ("io_errors", true)]),
            ("exclude=io_stall", "ready", &[("filesystem_ro", true), ("io_errors", true)]),
            ("check=io_stall&exclude=io_stall,bogus", "ready", &[]),
            (
                "other=1",
                "not-ready",
                &[("filesystem_ro", true), ("io_errors", true), ("io_stall", false)],
            ),
        ] {
            let answer = broken.answer(&HealthQuery::parse(query).unwrap()).unwrap();
            let found: Vec<_> = answer.checks.iter().map(|c| (c.name.as_str(), c.passed)).collect();
            assert_eq!((answer.status.name(), found.as_slice()), (status, checks), "{query}");
        }
    }

    #[test]
    fn an_unknown_check_fails_with_its_exact_text() {
        let answer = board(&[], None).answer(&HealthQuery::parse("check=bogus").unwrap()).unwrap();
        assert_eq!(answer.checks[0].reason.as_deref(), Some("Unknown check: bogus"));
        assert!(!answer.is_ready());
    }

    #[test]
    fn without_a_node_name_only_what_needs_it_is_an_error() {
        let nameless = board(&[], None);
        assert_eq!(
            ask(&nameless, "check=node_ready"),
            "NODE_NAME is not set, and node_ready needs it"
        );
        assert_eq!(
            ask(&nameless, "check=io_stall,node_ready"),
            "NODE_NAME is not set, and node_ready needs it"
        );
        assert!(ask(&nameless, "").starts_with(r#"{"status":"ready""#));
        assert!(
            ask(&nameless, "check=node_ready&exclude=node_ready")
                .starts_with(r#"{"status":"ready""#)
        );
    }

    #[test]
    fn the_storm_guard_holds_up_failures_but_not_those_of_the_root() {
        use crate::health::storm_guard::Failing;

        let everywhere = Failing { failing: 3, of: 3 };
        let shares = ["io_errors", "io_stall"].map(|name| (Arc::from(name), everywhere)).into();
        let mut guard = GuardView::new(Some("30%".parse().unwrap()));
        let (now, wall) = (tokio::time::Instant::now(), std::time::SystemTime::now());
        guard.update(Some(&shares), now, wall);

        let mut root = fault(FaultKind::IoStall, Scope::Host);
        root.mount_points = vec!["/".into()];
        let faults = vec![fault(FaultKind::IoError, Scope::Host), root];
        let kernel = FaultView { faults, ..FaultView::default() };
        let sources = Sources {
            kernel: watch::channel(Arc::new(kernel)).1,
            guard: watch::channel(Arc::new(guard)).1,
            ..Sources::default()
        };
        let policy = Policy { default_checks: defaults(), ..Policy::default() };
        let board = Board::new(sources, Arc::new(policy));
        let held = "storm guard: fails on 3 of 3 nodes, more than 30%, so this node stays in: \
                    loop3 (7:3) ext4 on /mnt/x: io_error";
        let response = board.answer(&HealthQuery::default()).unwrap();
        let found: Vec<_> = response.checks.iter().map(|check| check.passed).collect();
        assert_eq!(found, [true, true, false], "{response:?}");
        assert_eq!(response.checks[1].degraded.as_deref(), Some(held));
        assert_eq!(response.checks[1].reason, None);
        // What the peers are told is what it was before the guard.
        let failing = |results: Vec<CheckResult>| {
            let failing = results.into_iter().filter(|check| !check.passed);
            failing.map(|check| check.name).collect::<Vec<_>>()
        };
        assert_eq!(failing(board.unguarded()), ["io_errors", "io_stall"]);
        assert_eq!(failing(board.everything()), ["io_stall"]);
    }
}
