//! Outcomes -> verdict. The only place that says "ready".

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::watch;

use crate::{
    checks::settings,
    checks::{
        Check, Kind, Known, OnUnknown, Policy,
        runner::{Probes, Sample},
    },
    model::{FaultView, Link, NodeView, Outcome},
};

/// 1 second for which a rendered answer is true although nothing changed: a stuck probe publishes nothing.
pub const ANSWER_AGE: Duration = Duration::from_secs(1);

/// More names than this in one request are refused: there are not that many checks, and an answer has a
/// bounded size.
pub const MAX_NAMES: usize = 32;

/// One check in an answer; the shape is that of the readiness endpoint which this replaces, plus `degraded`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckAnswer {
    /// As it was asked for.
    pub name: String,
    /// The verdict.
    pub passed: bool,
    /// Why it failed; not there on success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why its success is worth less than it looks; not there otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
    /// How long the last sample of a probe took; 0 for every check whose state is pushed.
    pub duration_ms: u64,
}

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// `ready` or `not-ready`.
    pub status: &'static str,
    /// In the order in which they were asked for.
    pub checks: Vec<CheckAnswer>,
    /// How long the answer waited for first samples.
    pub total_duration_ms: u64,
}

/// A request that gets no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 500: the operator has to act.
    #[error("NODE_NAME is not set, and {0} needs it")]
    NoNodeName(String),
    /// 400
    #[error("more than {MAX_NAMES} checks in one request")]
    TooMany,
    /// 400
    #[error("the name of a check has at most {} bytes", settings::NAME_BYTES)]
    NoName,
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Names, trimmed and without repetition; empty for the default set.
    pub checks: Vec<String>,
    /// Names to leave out.
    pub exclude: Vec<String>,
    /// Text for people instead of JSON.
    pub verbose: bool,
    /// A node that is only cordoned is 404 instead of 503, which `HAProxy`'s `http-check disable-on-404` takes for
    /// "no new sessions, keep those there are".
    pub drain_is_404: bool,
}

impl Question {
    /// Reads a query string. A parameter may come several times; unknown parameters mean nothing.
    pub fn parse(query: &str) -> Result<Self, Refused> {
        let mut question = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "check" => add_names(&mut question.checks, &value)?,
                "exclude" => add_names(&mut question.exclude, &value)?,
                // As on the z-pages of Kubernetes: the name alone is enough.
                "verbose" => question.verbose = !matches!(&*value, "false" | "0"),
                "drain" => question.drain_is_404 = value == "404",
                _ => {}
            }
        }
        Ok(question)
    }
}

fn add_names(names: &mut Vec<String>, value: &str) -> Result<(), Refused> {
    for name in value.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        if name.len() > settings::NAME_BYTES {
            return Err(Refused::NoName);
        }
        if names.iter().all(|other| other != name) {
            if names.len() == MAX_NAMES {
                return Err(Refused::TooMany);
            }
            names.push(name.to_owned());
        }
    }
    Ok(())
}

/// What is known, and the answers from it. Every listener has one; asking it is a read of memory.
#[derive(Clone, Debug)]
pub struct Board {
    kernel: watch::Receiver<Arc<FaultView>>,
    node: watch::Receiver<Arc<NodeView>>,
    probes: Probes,
    policy: Arc<Policy>,
}

impl Board {
    /// A board that reads what the kernel side, the cluster side and the runner of the probes publish.
    #[must_use]
    pub fn new(
        kernel: watch::Receiver<Arc<FaultView>>,
        node: watch::Receiver<Arc<NodeView>>,
        probes: Probes,
        policy: Arc<Policy>,
    ) -> Self {
        Self { kernel, node, probes, policy }
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

    fn names<'a>(&'a self, question: &'a Question) -> impl Iterator<Item = &'a str> {
        let asked = question.checks.iter().map(String::as_str);
        let defaults = self.policy.default_checks.iter().map(|check| check.name);
        let defaults = defaults.take(if question.checks.is_empty() { usize::MAX } else { 0 });
        asked.chain(defaults).filter(|name| question.exclude.iter().all(|out| out != name))
    }

    /// Answers, once every probe that is asked for has a result: at once, but for the first request for one that
    /// does not run yet.
    pub async fn ask(&self, question: &Question) -> Result<Answer, Refused> {
        let began = Instant::now();
        self.probes.demand(self.names(question)).await;
        let mut answer = self.answer(question)?;
        answer.total_duration_ms = milliseconds(began.elapsed());
        Ok(answer)
    }

    /// Answers at once, or not at all where [`Self::ask`] would have to wait.
    #[must_use]
    pub fn ask_now(&self, question: &Question) -> Option<Result<Answer, Refused>> {
        self.probes.want(self.names(question)).then(|| self.answer(question))
    }

    /// Tells when answers may have become others.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let (kernel, node) = (self.kernel.clone(), self.node.clone());
        Changes { kernel, node, probes: self.probes.changes() }
    }

    /// What the kernel says of its faults, for who shows more than verdicts.
    #[must_use]
    pub fn faults(&self) -> Arc<FaultView> {
        self.kernel.borrow().clone()
    }

    /// The default set, and `schedulable` where there is a cluster to tell of it: what a load balancer that knows
    /// "drain" is told about.
    #[must_use]
    pub fn with_drain(&self) -> Question {
        let defaults = self.policy.default_checks.iter().map(|check| check.name);
        let cordon = (self.node.borrow().link != Link::None).then_some(SCHEDULABLE);
        let mut checks: Vec<_> = defaults.map(str::to_owned).collect();
        if let Some(cordon) = cordon.filter(|name| checks.iter().all(|other| other != name)) {
            checks.push(cordon.to_owned());
        }
        Question { checks, ..Question::default() }
    }

    /// Answers now, from what is known.
    pub fn answer(&self, question: &Question) -> Result<Answer, Refused> {
        let (kernel, node) = (self.kernel.borrow().clone(), self.node.borrow().clone());
        let known = Known {
            kernel: &kernel,
            node: &node,
            probes: &self.probes,
            policy: &self.policy,
            now: Instant::now(),
        };
        let mut answers = Vec::new();
        for name in self.names(question) {
            let check = self.check(name);
            if self.node_name().is_none() && check.is_some_and(|check| check.needs_node_name) {
                return Err(Refused::NoNodeName(name.to_owned()));
            }
            let mut answer = match check {
                Some(check) => verdict(check, known.outcome(check)),
                None => answer_for(name, false, Some(format!("Unknown check: {name}")), None),
            };
            let took = self.probes.latest(name).map(|sample| sample.took);
            answer.duration_ms = took.map_or(0, milliseconds);
            answers.push(answer);
        }
        let ready = answers.iter().all(|answer| answer.passed);
        let status = if ready { "ready" } else { "not-ready" };
        Ok(Answer { status, checks: answers, total_duration_ms: 0 })
    }

    /// The latest sample of a probe, for metrics: asking for it is no demand.
    #[must_use]
    pub fn sample(&self, name: &str) -> Option<Sample> {
        self.probes.latest(name)
    }

    /// Every check, for metrics: those of the Node only where there is a cluster, and probes only while they run.
    #[must_use]
    pub fn everything(&self) -> Vec<CheckAnswer> {
        let is_shown = |check: &&Check| match check.kind {
            Kind::Signal(_) => {
                !check.needs_node_name
                    || (self.node_name().is_some() && self.node.borrow().link != Link::None)
            }
            Kind::Probe => self.probes.latest(check.name).is_some(),
        };
        let checks = self.policy.all().filter(is_shown).map(|c| c.name.to_owned()).collect();
        let question = Question { checks, ..Question::default() };
        if question.checks.is_empty() {
            return Vec::new();
        }
        self.answer(&question).map(|answer| answer.checks).unwrap_or_default()
    }
}

/// The check that fails while a node is only cordoned.
const SCHEDULABLE: &str = "schedulable";

/// Tells when answers may have become others.
#[derive(Clone, Debug)]
pub struct Changes {
    kernel: watch::Receiver<Arc<FaultView>>,
    node: watch::Receiver<Arc<NodeView>>,
    probes: watch::Receiver<u64>,
}

impl Changes {
    /// Whether anything has been published since it was asked the last time. Three loads where nothing was.
    pub fn any(&mut self) -> bool {
        // A sender that is gone publishes nothing more.
        let kernel = self.kernel.has_changed().unwrap_or(false);
        let node = self.node.has_changed().unwrap_or(false);
        let probes = self.probes.has_changed().unwrap_or(false);
        if kernel {
            self.kernel.mark_unchanged();
        }
        if node {
            self.node.mark_unchanged();
        }
        if probes {
            self.probes.mark_unchanged();
        }
        kernel || node || probes
    }

    /// Waits for the next publication, or for [`ANSWER_AGE`], which alone can make an answer another one.
    pub async fn wait(&mut self) {
        /// Whose sender is gone never changes.
        async fn changed<T>(receiver: &mut watch::Receiver<T>) {
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        tokio::select! {
            () = changed(&mut self.kernel) => {}
            () = changed(&mut self.node) => {}
            () = changed(&mut self.probes) => {}
            () = tokio::time::sleep(ANSWER_AGE) => {}
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Answer {
    /// Whether the node should get traffic.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status == "ready"
    }

    /// Whether nothing is wrong but that the node is cordoned.
    #[must_use]
    pub fn is_drain(&self) -> bool {
        let mut failed = self.checks.iter().filter(|check| !check.passed).peekable();
        failed.peek().is_some() && failed.all(|check| check.name == SCHEDULABLE)
    }

    /// What is wrong, or else what makes success worth less than it looks, in one line; nothing where all is well.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        let join = |parts: Vec<String>| (!parts.is_empty()).then(|| parts.join("; "));
        let failed = self.checks.iter().filter(|check| !check.passed);
        let failed = failed.map(|c| format!("{}: {}", c.name, c.reason.as_deref().unwrap_or("?")));
        join(failed.collect()).or_else(|| {
            let degraded = self.checks.iter();
            let degraded = degraded.filter_map(|check| Some((check, check.degraded.as_ref()?)));
            let words = degraded.map(|(check, why)| format!("degraded: {}: {why}", check.name));
            join(words.collect())
        })
    }

    /// In the form of the z-pages of Kubernetes.
    #[must_use]
    pub fn verbose(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let line = match (&check.reason, &check.degraded) {
                (Some(reason), _) => format!("[-]{} failed: {reason}\n", check.name),
                (None, Some(why)) => format!("[+]{} ok (degraded: {why})\n", check.name),
                (None, None) => format!("[+]{} ok\n", check.name),
            };
            text.push_str(&line);
        }
        text.push_str(if self.is_ready() {
            "health check passed\n"
        } else {
            "health check failed\n"
        });
        text
    }
}

/// Where a check's policy turns "unknown" into a verdict.
fn verdict(check: &Check, outcome: Outcome) -> CheckAnswer {
    match (outcome, check.on_unknown) {
        (Outcome::Pass, _) => answer_for(check.name, true, None, None),
        (Outcome::Degraded(why), _) | (Outcome::Unknown(why), OnUnknown::Pass) => {
            answer_for(check.name, true, None, Some(why))
        }
        (Outcome::Fail(reason), _) | (Outcome::Unknown(reason), OnUnknown::Fail) => {
            answer_for(check.name, false, Some(reason), None)
        }
    }
}

fn answer_for(
    name: &str,
    passed: bool,
    reason: Option<String>,
    degraded: Option<String>,
) -> CheckAnswer {
    CheckAnswer { name: name.to_owned(), passed, reason, degraded, duration_ms: 0 }
}

#[cfg(test)]
mod tests {
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
        Board::new(kernel, node, Probes::default(), Arc::new(policy))
    }

    fn ask(board: &Board, query: &str) -> String {
        match board.answer(&Question::parse(query).unwrap()) {
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
            let answer = broken.answer(&Question::parse(query).unwrap()).unwrap();
            let found: Vec<_> = answer.checks.iter().map(|c| (c.name.as_str(), c.passed)).collect();
            assert_eq!((answer.status, found.as_slice()), (status, checks), "{query}");
        }
    }

    #[test]
    fn an_unknown_check_fails_with_its_exact_text() {
        let answer = board(&[], None).answer(&Question::parse("check=bogus").unwrap()).unwrap();
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
    fn thirty_two_names_and_no_more() {
        let names =
            |count: usize| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
        assert!(Question::parse(&format!("check={}", names(32))).is_ok());
        assert_eq!(Question::parse(&format!("check={}", names(33))), Err(Refused::TooMany));
        let repeated = vec!["a"; 1000].join(",");
        assert_eq!(Question::parse(&format!("check={repeated}")).unwrap().checks, ["a"]);
        for (name, is_one) in [
            ("x".repeat(settings::NAME_BYTES), true),
            ("x".repeat(settings::NAME_BYTES + 1), false),
            ("a%00b".to_owned(), true),
        ] {
            for parameter in ["check", "exclude"] {
                let found = Question::parse(&format!("{parameter}={name}"));
                assert_eq!(found.is_ok(), is_one, "{parameter}={name}");
            }
        }
    }

    #[test]
    fn verbose_is_a_z_page() {
        let question = Question::parse("check=io_stall,io_errors,node_ready&verbose").unwrap();
        assert!(question.verbose);
        assert!(!Question::parse("verbose=false").unwrap().verbose);
        assert_eq!(
            board(&[FaultKind::IoStall], Some("n")).answer(&question).unwrap().verbose(),
            "[-]io_stall failed: loop3 (7:3) ext4 on /mnt/x: io_stall\n[+]io_errors ok\n\
             [+]node_ready ok (degraded: no cluster is configured)\nhealth check failed\n"
        );
    }
}
