//! `network`: a nameserver answers, and a default route works: its link has carrier and its gateway is there.
//!
//! Both parts are asked at the same time, and the reason says which of them failed, and how. Whoever may not ask, or
//! gets no answer out of the kernel, knows nothing of that part; it never passes because of that.

mod ask;
mod dns;
mod echo;
mod gateway;
mod message;
mod netlink;
mod resolv;
pub mod settings;

use std::{fmt, str::FromStr, sync::Arc};

use hickory_proto::rr::Name;

use self::{dns::Question, message::Hop, netlink::Kernel, resolv::Resolvers};
use super::{Check, CheckSource, OnUnknown, runner::Probe};
use crate::{host::Bounded, model::Outcome};

pub(super) const CHECK: Check = Check {
    name: "network",
    passes_when: "a nameserver of resolv.conf answers, and a default route's gateway is reachable over a link with carrier",
    on_unknown: OnUnknown::Fail,
    source: CheckSource::Probe,
};

/// What was configured: the name to ask for, if not the one that resolv.conf suggests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    name: Option<Name>,
}

/// Not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a DNS name (labels of 63 bytes at most with dots; non-ASCII ones in their xn-- form)"
)]
pub struct BadName(String);

impl FromStr for Settings {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let name = dns::name(text).ok_or_else(|| BadName(text.to_owned()))?;
        Ok(Self { name: Some(name) })
    }
}

/// What is known of one part.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Good,
    Bad(String),
    Unknown(String),
}

/// The probe.
#[derive(Debug)]
pub struct Network {
    settings: Settings,
    resolv_conf: std::path::PathBuf,
    bounded: Bounded,
    state: std::sync::Mutex<State>,
}

/// What is kept from sample to sample.
#[derive(Debug, Default)]
struct State {
    /// What resolv.conf said last: for a disk that hangs.
    resolvers: Option<Resolvers>,
    /// The conversation in which the last look went well, with the default routes in it.
    kernel: Option<Kernel>,
}

impl Network {
    /// A probe that has not asked yet. resolv.conf is this process's own: that of the programs beside it.
    #[must_use]
    pub fn new(settings: Settings, bounded: Bounded) -> Self {
        Self {
            settings,
            resolv_conf: settings::RESOLV_CONF.into(),
            bounded,
            state: std::sync::Mutex::default(),
        }
    }

    /// For the runner.
    #[must_use]
    pub fn probe(self) -> Probe {
        let network = Arc::new(self);
        let sample = move || {
            let network = network.clone();
            Box::pin(async move { network.sample().await }) as super::runner::SampleFuture
        };
        Probe { name: CHECK.name, timeout: settings::NETWORK_TIMEOUT, sample: Box::new(sample) }
    }

    /// One sample.
    pub async fn sample(&self) -> Outcome {
        let (resolver, gateway) = tokio::join!(self.resolver(), self.gateway());
        outcome(resolver, gateway)
    }

    async fn resolver(&self) -> Part {
        let path = self.resolv_conf.clone();
        let read = move || resolv::read(&path);
        let deadline = settings::RESOLV_CONF_DEADLINE;
        let resolvers = match self.bounded.run("resolv.conf".to_owned(), deadline, read).await {
            Ok(Ok(resolvers)) => {
                self.lock().resolvers = Some(resolvers.clone());
                resolvers
            }
            Ok(Err(error)) => return Part::Unknown(self.unread(&error)),
            // The disk is other checks' business; the nameservers have not moved.
            Err(stuck) => match self.lock().resolvers.clone() {
                Some(resolvers) => resolvers,
                None => return Part::Unknown(self.unread(&stuck)),
            },
        };
        let question = Question::new(self.settings.name.as_ref(), resolvers.domain.as_deref());
        ask::ask(&resolvers, &question).await
    }

    fn unread(&self, why: &dyn fmt::Display) -> String {
        format!("nameservers are not known: {}: {why}", self.resolv_conf.display())
    }

    async fn gateway(&self) -> Part {
        let kernel = self.lock().kernel.take();
        let read = move || {
            let mut kernel = kernel.map_or_else(Kernel::open, Ok)?;
            let hops = kernel.routes()?;
            kernel.look(&hops, gateway::is_enough).map(|ways| (kernel, ways))
        };
        let name = || "netlink".to_owned();
        let deadline = settings::NETLINK_DEADLINE;
        let ways = match self.bounded.run(name(), deadline, read).await {
            Ok(Ok((kernel, ways))) => {
                self.lock().kernel = Some(kernel);
                ways
            }
            Ok(Err(error)) => return gateway::unread(&error),
            Err(stuck) => return gateway::unread(&stuck),
        };
        let first = match gateway::first_look(&ways) {
            gateway::First::Part(part) => return part,
            gateway::First::Ask(ways) => ways,
        };
        let echoes = echo::ask(&first).await;
        if echoes.contains(&echo::Echo::Answered) {
            return Part::Good;
        }
        // To ask has made the kernel look for the gateway.
        let hops: Vec<Hop> = ways.iter().map(|way| way.hop.clone()).collect();
        let again = move || Kernel::open()?.look(&hops, |_| false);
        match self.bounded.run(name(), deadline, again).await {
            Ok(Ok(after)) => gateway::second_look(&after, &first, &echoes),
            Ok(Err(error)) => gateway::unread(&error),
            Err(stuck) => gateway::unread(&stuck),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Eight bytes that nobody else knows before they are sent.
fn random() -> [u8; 8] {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish().to_be_bytes()
}

/// Both parts have to be good. What is known to be bad weighs more than what is not known.
fn outcome(resolver: Part, gateway: Part) -> Outcome {
    use Part::{Bad, Good, Unknown};
    match (resolver, gateway) {
        (Good, Good) => Outcome::Pass,
        (Good, Bad(why)) | (Bad(why), Good) => Outcome::Fail(why),
        (Good, Unknown(why)) | (Unknown(why), Good) => Outcome::Unknown(why),
        (Unknown(one), Unknown(other)) => Outcome::Unknown(format!("{one}; {other}")),
        (Bad(one) | Unknown(one), Bad(other) | Unknown(other)) => {
            Outcome::Fail(format!("{one}; {other}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_have_to_be_good() {
        use Part::{Bad, Good, Unknown};
        let (bad, unknown) = (|text: &str| Bad(text.into()), |text: &str| Unknown(text.into()));
        for (resolver, gateway, expected) in [
            (Good, Good, Outcome::Pass),
            (bad("r"), Good, Outcome::Fail("r".into())),
            (Good, bad("g"), Outcome::Fail("g".into())),
            (bad("r"), bad("g"), Outcome::Fail("r; g".into())),
            (unknown("r"), Good, Outcome::Unknown("r".into())),
            (Good, unknown("g"), Outcome::Unknown("g".into())),
            (unknown("r"), unknown("g"), Outcome::Unknown("r; g".into())),
            (bad("r"), unknown("g"), Outcome::Fail("r; g".into())),
            (unknown("r"), bad("g"), Outcome::Fail("r; g".into())),
        ] {
            assert_eq!(
                outcome(resolver.clone(), gateway.clone()),
                expected,
                "{resolver:?} {gateway:?}"
            );
        }
    }

    #[test]
    fn names_are_names() {
        for text in ["", "  "] {
            assert_eq!(text.parse::<Settings>().unwrap(), Settings::default());
        }
        for text in [".", "example.com", "example.com.", "_ldap._tcp.example.com", " a "] {
            assert!(text.parse::<Settings>().unwrap().name.unwrap().is_fqdn(), "{text:?}");
        }
        let long = format!("{}.com", "a".repeat(64));
        for text in ["a..b", "..", "a b", "bücher.de", "a/b", "http://a", "a,b", &long] {
            let error = text.parse::<Settings>().unwrap_err().to_string();
            assert!(error.contains("is not a DNS name"), "{text:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_resolv_conf_that_cannot_be_read_is_not_known() {
        let mut network = Network::new(Settings::default(), Bounded::default());
        network.resolv_conf = "/proc/self".into();
        let part = network.resolver().await;
        let Part::Unknown(why) = part else { panic!("{part:?}") };
        assert!(why.contains("/proc/self: Is a directory"), "{why}");
    }
}
