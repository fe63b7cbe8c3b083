//! What an operator may set, and the constants of the contract: each with its unit and its reason.

use jiff::SignedDuration;

use super::names;

/// 10 minutes: how long a remediation without a timeout of its own may take, as the reference has it.
pub const DEFAULT_REMEDIATION: SignedDuration = SignedDuration::from_mins(10);
/// 60 seconds that a lease outlasts the remediation that it is for: time to renew it.
pub const LEASE_BUFFER: SignedDuration = SignedDuration::from_secs(60);
/// After 3 times the length of the current remediation its lease is given up: the remediator does nothing.
pub const OVERDUE_FACTOR: i32 = 3;
/// 48 hours: a remediation object that is older is marked and counted, as somebody should look.
pub const OLD_AGE: SignedDuration = SignedDuration::from_hours(48);
/// 15 seconds between looks for a template that is not there. A watch tells sooner where its kind exists.
pub const TEMPLATE_RETRY: SignedDuration = SignedDuration::from_secs(15);
/// 1 minute between questions where no watch tells: an upgrade, etcd's quorum.
pub const ASK_AGAIN: SignedDuration = SignedDuration::from_mins(1);
/// A lease that we hold without a remediation object is fresh for 60 seconds; an older one is from a past remediation.
pub const FRESH_LEASE: SignedDuration = SignedDuration::from_secs(60);
/// 5 seconds: a status that cannot be written keeps the remediation object of a healthy node no longer.
pub const REMEMBERED_WITHIN: SignedDuration = SignedDuration::from_secs(5);
/// 1 millisecond after a moment it is surely past.
pub const JUST_AFTER: SignedDuration = SignedDuration::from_millis(1);
/// 500 waiting nodes in a status, about 150 KiB: etcd refuses objects above 1.5 MiB. The others are counted.
pub const WAITING_MAX: usize = 500;

/// A number of nodes, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So many.
    Number(u32),
    /// So many of a hundred, rounded up, so that a small cluster is never starved.
    Percent(u32),
}

impl Amount {
    /// How many that is of `total`.
    #[must_use]
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Number(number) => number as usize,
            Self::Percent(percent) => (total * percent as usize).div_ceil(100),
        }
    }
}

impl std::str::FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("{text:?} is neither a number nor a percentage");
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse().map_err(wrong)? {
                percent @ 0..=100 => Ok(Self::Percent(percent)),
                _ => Err(format!("{text:?} is more than 100%")),
            },
            None => Ok(Self::Number(text.parse().map_err(wrong)?)),
        }
    }
}

/// What decisions go by, besides the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Namespace of the leases of nodes.
    pub lease_namespace: String,
    /// So many remediations of one node may begin within [`Settings::attempts_window`]; 0: any number.
    ///
    /// 5: whatever five reboots a day did not mend, a sixth will not.
    pub attempts: u32,
    /// How far back attempts count. 24 hours.
    pub attempts_window: SignedDuration,
    /// Least time between the beginnings of the first and the second remediation of a node; doubled for each further
    /// one. 5 minutes: a reboot takes about as long.
    pub cool_off: SignedDuration,
    /// So many nodes may be under remediation at once in the whole cluster, over every `NodeHealthCheck`.
    pub budget: Option<Amount>,
    /// The same in each zone.
    pub zone_budget: Option<Amount>,
    /// The agent's conditions are set to Unknown when nothing was heard of them for so long.
    pub silence: Option<SignedDuration>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease_namespace: names::LEASE_NAMESPACE.to_owned(),
            attempts: 5,
            attempts_window: SignedDuration::from_hours(24),
            cool_off: SignedDuration::from_mins(5),
            budget: None,
            zone_budget: None,
            silence: None,
        }
    }
}
