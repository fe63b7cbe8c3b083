//! `network`: a nameserver answers, and a default route works: its link has a carrier and its gateway is there.
//!
//! Both parts are probed at the same time, and the reason says which of them failed, and how. A part that cannot be
//! probed, for want of a right or of an answer from the kernel, is unknown and never passes.

mod dns;
mod echo;
mod finding;
mod gateway;
mod message;
mod netlink;
mod nonce;
mod resolv_conf;
mod resolver;
mod route_changes;
pub mod settings;

use std::{fmt, str::FromStr, sync::Arc};

use hickory_proto::rr::Name;

use self::{
    dns::Question, finding::Finding, gateway::BeforeEcho, message::NextHop, netlink::RouteSocket,
    resolv_conf::ResolvConf,
};
use super::{Check, CheckSource, OnUnknown, runner::Probe};
use crate::{host::Bounded, model::Outcome};

pub(super) const CHECK: Check = Check {
    name: "network",
    passes_when: "a nameserver of resolv.conf answers, and a default route's gateway is reachable over a link with carrier",
    on_unknown: OnUnknown::Fail,
    source: CheckSource::Probe,
};

/// The settings of the check: the name to query for, if not the one that resolv.conf suggests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    name: Option<Name>,
}

/// A text that is no DNS name.
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

/// The probe.
#[derive(Debug)]
pub struct Network {
    settings: Settings,
    resolv_conf: std::path::PathBuf,
    bounded: Bounded,
    state: std::sync::Mutex<State>,
}

/// What is kept between two samples.
#[derive(Debug, Default)]
struct State {
    /// The last contents of resolv.conf, for a disk that hangs.
    resolv_conf: Option<ResolvConf>,
    /// The netlink socket of the last sample, if nothing went wrong on it, with the default routes that it read.
    routes: Option<RouteSocket>,
}

impl Network {
    /// A probe that uses this process's own resolv.conf, which is that of the programs beside it.
    #[must_use]
    pub fn new(settings: Settings, bounded: Bounded) -> Self {
        Self {
            settings,
            resolv_conf: settings::RESOLV_CONF.into(),
            bounded,
            state: std::sync::Mutex::default(),
        }
    }

    /// This probe, for the runner.
    #[must_use]
    pub fn probe(self) -> Probe {
        let network = Arc::new(self);
        let sample = move || {
            let network = network.clone();
            Box::pin(async move { network.sample().await }) as super::runner::SampleFuture
        };
        Probe { name: CHECK.name, timeout: settings::NETWORK_TIMEOUT, sample: Box::new(sample) }
    }

    /// Takes one sample.
    pub async fn sample(&self) -> Outcome {
        let (resolver, gateway) = tokio::join!(self.resolver(), self.gateway());
        outcome(resolver, gateway)
    }

    async fn resolver(&self) -> Finding {
        let path = self.resolv_conf.clone();
        let read = move || resolv_conf::read(&path);
        let deadline = settings::RESOLV_CONF_DEADLINE;
        let resolv_conf = match self.bounded.run("resolv.conf".to_owned(), deadline, read).await {
            Ok(Ok(resolv_conf)) => {
                self.lock().resolv_conf = Some(resolv_conf.clone());
                resolv_conf
            }
            Ok(Err(error)) => return Finding::Unknown(self.unread(&error)),
            // A disk that hangs is for other checks; the nameservers are still the same.
            Err(stuck) => match self.lock().resolv_conf.clone() {
                Some(resolv_conf) => resolv_conf,
                None => return Finding::Unknown(self.unread(&stuck)),
            },
        };
        let question = Question::new(self.settings.name.as_ref(), resolv_conf.domain.as_deref());
        resolver::query(&resolv_conf, &question).await
    }

    fn unread(&self, why: &dyn fmt::Display) -> String {
        format!("nameservers are not known: {}: {why}", self.resolv_conf.display())
    }

    async fn gateway(&self) -> Finding {
        let socket = self.lock().routes.take();
        let read = move || {
            let mut socket = socket.map_or_else(RouteSocket::open, Ok)?;
            let hops = socket.routes()?;
            socket.states(&hops, gateway::is_enough).map(|states| (socket, states))
        };
        let name = || "netlink".to_owned();
        let deadline = settings::NETLINK_DEADLINE;
        let states = match self.bounded.run(name(), deadline, read).await {
            Ok(Ok((socket, states))) => {
                self.lock().routes = Some(socket);
                states
            }
            Ok(Err(error)) => return gateway::unread(&error),
            Err(stuck) => return gateway::unread(&stuck),
        };
        let asked = match gateway::before_echo(&states) {
            BeforeEcho::Decided(finding) => return finding,
            BeforeEcho::Ask(asked) => asked,
        };
        let echoes = echo::send_to_all(&asked).await;
        if echoes.contains(&echo::Echo::Answered) {
            return Finding::Good;
        }
        // The echo has made the kernel look for the gateway, so its neighbour entry is up to date now.
        let hops: Vec<NextHop> = states.iter().map(|state| state.hop.clone()).collect();
        let again = move || RouteSocket::open()?.states(&hops, |_| false);
        match self.bounded.run(name(), deadline, again).await {
            Ok(Ok(after)) => gateway::after_echo(&after, &asked, &echoes),
            Ok(Err(error)) => gateway::unread(&error),
            Err(stuck) => gateway::unread(&stuck),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Both parts have to be good. A part that is bad weighs more than a part that is unknown.
fn outcome(resolver: Finding, gateway: Finding) -> Outcome {
    use Finding::{Bad, Good, Unknown};
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
        use Finding::{Bad, Good, Unknown};
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
    fn only_host_names_are_names() {
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
    async fn a_resolv_conf_that_cannot_be_read_is_unknown() {
        let mut network = Network::new(Settings::default(), Bounded::default());
        network.resolv_conf = "/proc/self".into();
        let finding = network.resolver().await;
        let Finding::Unknown(why) = finding else { panic!("{finding:?}") };
        assert!(why.contains("/proc/self: Is a directory"), "{why}");
    }
}
