//! Who of several replicas acts: a Lease, as client-go's leader election has it.
//!
//! The leader may write for [`WRITES_FOR`] after the beginning of its last renewal, by a clock that goes on while the
//! process or the machine sleeps; the others wait for [`LEASE`] after the last renewal that they have seen. So one that
//! wakes up late writes nothing, whether or not it knows that it was replaced.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use rustix::time::{ClockId, clock_gettime};
use tocsin_runtime::kube::describe;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

/// 15 seconds without a renewal, and another replica leads: client-go's default.
pub const LEASE: Duration = Duration::from_secs(15);
/// 10 seconds after a renewal began, the leader stops writing: client-go's default, with 5 s for clocks and the network.
pub const WRITES_FOR: Duration = Duration::from_secs(10);
/// 3 seconds between renewals, so that two may fail.
const RENEW: Duration = Duration::from_secs(3);
/// 2 seconds between looks of the others: client-go's default.
const LOOK: Duration = Duration::from_secs(2);
/// 3 seconds for one request.
const REQUEST: Duration = Duration::from_secs(3);
/// Name of the lease: that of the operator that this replaces, so that in one namespace never both of them act.
pub const NAME: &str = "e1f13584.medik8s.io";

/// Nanoseconds since the machine booted, its sleep included.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether this process may write. Cheap to ask, and asked before every write.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Arc<AtomicU64>);

impl Leadership {
    /// One that is never lost: there is no other replica.
    #[must_use]
    pub fn alone() -> Self {
        Self(Arc::new(AtomicU64::new(u64::MAX)))
    }

    /// Whether a write may be made now.
    #[must_use]
    pub fn may_write(&self) -> bool {
        now() < self.0.load(Relaxed)
    }

    fn until(&self, end: u64) {
        self.0.store(end, Relaxed);
    }
}

/// What this process has seen of the lease.
#[derive(Debug)]
struct Seen {
    lease: Lease,
    /// When this version of it was first seen.
    at: u64,
}

/// What to do about the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is ours, or nobody's: write it.
    Take,
    /// Another one has it.
    Wait,
}

fn step(lease: &Lease, seen_for: Duration, identity: &str) -> Step {
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
    let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    if holder.is_empty() || holder == identity || seen_for >= duration {
        Step::Take
    } else {
        Step::Wait
    }
}

/// Takes part in the election, for ever.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    leadership: Leadership,
    leads: watch::Sender<bool>,
    seen: Option<Seen>,
}

impl Candidate {
    /// A candidate of this name, in this namespace; the receiver tells whenever it begins or ceases to lead.
    #[must_use]
    pub fn new(
        client: Client,
        namespace: &str,
        identity: String,
    ) -> (Self, Leadership, watch::Receiver<bool>) {
        let (leads, receiver) = watch::channel(false);
        let leadership = Leadership::default();
        let api = Api::namespaced(client, namespace);
        let candidate = Self { api, identity, leadership: leadership.clone(), leads, seen: None };
        (candidate, leadership, receiver)
    }

    /// Leads whenever it can, for ever.
    pub async fn run(&mut self) {
        loop {
            let began = now();
            match timeout(REQUEST, self.attempt()).await {
                Ok(Ok(true)) => {
                    self.leadership.until(began.saturating_add(nanos(WRITES_FOR)));
                    self.tell();
                }
                Ok(Ok(false)) => {
                    self.leadership.until(0);
                    self.tell();
                }
                Ok(Err(error)) => {
                    let conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
                    if conflict {
                        debug!("another replica was faster");
                    } else {
                        warn!(
                            error = describe(&error),
                            "the leader's lease cannot be renewed or read"
                        );
                    }
                    // What was seen is out of date, or may be.
                    self.forget();
                    self.tell();
                }
                Err(_) => {
                    warn!("no answer about the leader's lease in time");
                    self.forget();
                    self.tell();
                }
            }
            sleep(if *self.leads.borrow() { RENEW } else { LOOK }).await;
        }
    }

    /// Gives the lease up, so that another replica need not wait.
    pub async fn release(mut self) {
        self.leadership.until(0);
        if !*self.leads.borrow() {
            return;
        }
        let Some(Seen { mut lease, .. }) = self.seen.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        let name = lease.metadata.name.clone().unwrap_or_default();
        let released =
            timeout(REQUEST, self.api.replace(&name, &PostParams::default(), &lease)).await;
        if !matches!(released, Ok(Ok(_))) {
            warn!("the leader's lease could not be released; it ends by itself");
        }
    }

    /// Keeps when the holder's last renewal was seen, but asks for the object anew.
    fn forget(&mut self) {
        if let Some(seen) = &mut self.seen {
            seen.lease.metadata.resource_version = None;
        }
    }

    fn tell(&mut self) {
        let leads = self.leadership.may_write();
        let identity = &self.identity;
        self.leads.send_if_modified(|before| {
            if *before != leads {
                let word = if leads { "this replica leads" } else { "this replica does not lead" };
                info!(identity, "{word}");
            }
            std::mem::replace(before, leads) != leads
        });
    }

    /// One look, or one renewal. True: the lease is ours.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let ours = self.seen.as_ref().is_some_and(|seen| {
            seen.lease.metadata.resource_version.is_some()
                && seen.lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
                    == Some(self.identity.as_str())
        });
        if !ours {
            let Some(lease) = self.api.get_opt(NAME).await? else {
                let made = self.api.create(&PostParams::default(), &self.made()).await?;
                self.seen = Some(Seen { lease: made, at: now() });
                return Ok(true);
            };
            let renewed = |lease: &Lease| {
                lease
                    .spec
                    .as_ref()
                    .and_then(|spec| Some((spec.holder_identity.clone(), spec.renew_time.clone()?)))
            };
            let at = match &self.seen {
                Some(seen) if renewed(&seen.lease) == renewed(&lease) => seen.at,
                _ => now(),
            };
            self.seen = Some(Seen { lease, at });
        }
        let Some(Seen { lease, at }) = &self.seen else { return Ok(false) };
        let seen_for = Duration::from_nanos(now().saturating_sub(*at));
        if step(lease, seen_for, &self.identity) == Step::Wait {
            return Ok(false);
        }
        let taken = self.api.replace(NAME, &PostParams::default(), &self.taken(lease)).await?;
        self.seen = Some(Seen { lease: taken, at: now() });
        Ok(true)
    }

    fn made(&self) -> Lease {
        let now = MicroTime(Timestamp::now());
        Lease {
            metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        }
    }

    fn taken(&self, lease: &Lease) -> Lease {
        let mut lease = lease.clone();
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default() + 1);
        }
        spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_its_holder_is_gone() {
        let lease = |holder: &str| Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        };
        for (holder, seconds, expected) in [
            ("me", 0, Step::Take),
            ("", 0, Step::Take),
            ("other", 0, Step::Wait),
            ("other", 14, Step::Wait),
            ("other", 15, Step::Take),
        ] {
            let seen_for = Duration::from_secs(seconds);
            assert_eq!(step(&lease(holder), seen_for, "me"), expected, "{holder} {seconds}");
        }
    }

    #[test]
    fn leadership_ends_by_itself() {
        let leadership = Leadership::default();
        assert!(!leadership.may_write());
        leadership.until(now() + nanos(Duration::from_mins(1)));
        assert!(leadership.may_write());
        leadership.until(now());
        assert!(!leadership.may_write());
        assert!(Leadership::alone().may_write());
    }
}
