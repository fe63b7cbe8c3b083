//! What was seen of the filesystems -> an outcome. Pure.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use super::thresholds::{Limit, Rule, Target};
use crate::model::Outcome;

/// This many findings make a reason; of the others it gives the number.
const SHOWN: usize = 3;

/// What was seen of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Seen(Space),
    /// There is nothing at that path.
    Missing,
    /// No answer for so long.
    Stuck(Duration),
    /// An error, as text.
    Failed(String),
}

/// What a filesystem has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// `st_dev`: paths with the same one are on the same filesystem.
    pub(super) dev: u64,
    /// For who is not root: without what is reserved, as the kubelet counts.
    pub(super) bytes: Amount,
    /// The size is 0 on filesystems that make inodes as they need them: btrfs, vfat.
    pub(super) inodes: Amount,
    /// Nothing can be written here, so that nothing can be lacking.
    pub(super) is_read_only: bool,
}

/// Free, of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) free: u64,
    pub(super) size: u64,
}

/// What a filesystem may be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Bytes,
    Inodes,
}

/// What was short at the last look, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Low(BTreeMap<PathBuf, Short>);

/// What a path's filesystem was short of. With the filesystem: another one at the same path begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Short {
    dev: u64,
    bytes: bool,
    inodes: bool,
}

impl Short {
    fn of(&mut self, resource: Resource) -> &mut bool {
        match resource {
            Resource::Bytes => &mut self.bytes,
            Resource::Inodes => &mut self.inodes,
        }
    }
}

/// Paths on one filesystem, in the order of the targets.
struct Filesystem<'a> {
    space: Space,
    targets: Vec<&'a Target>,
}

/// Whether there is too little. One that was too little has to become clearly enough: see [`Limit::to_pass_again`].
pub(super) fn is_low(was_low: bool, amount: Amount, limit: &Limit) -> bool {
    if was_low {
        amount.free <= limit.to_pass_again(amount.size).of(amount.size)
    } else {
        amount.free < limit.of(amount.size)
    }
}

/// What was short before and what was seen now -> what is short now, and what the check says.
pub(super) fn judge(before: &Low, looks: &[(Target, Look)]) -> (Low, Outcome) {
    let (mut low, mut lacking, mut unknown) = (Low::default(), Vec::new(), Vec::new());
    let mut filesystems: Vec<Filesystem<'_>> = Vec::new();
    for (target, look) in looks {
        let path = target.path.display();
        match look {
            // An image such as squashfs has nothing free from the start, and an operating system's is often `/`.
            Look::Seen(space) if space.is_read_only && !target.is_configured => {}
            Look::Seen(space) => {
                match filesystems.iter_mut().find(|other| other.space.dev == space.dev) {
                    Some(known) => known.targets.push(target),
                    None => filesystems.push(Filesystem { space: *space, targets: vec![target] }),
                }
                if space.bytes.size == 0 && target.is_configured {
                    unknown.push(format!("the filesystem of {path} does not tell its size"));
                }
            }
            Look::Missing if !target.is_configured => {}
            Look::Missing => unknown.push(format!("{path} does not exist")),
            Look::Stuck(time) => {
                // Nothing is known of it, so nothing is forgotten.
                let kept = before.0.get(&target.path);
                low.0.extend(kept.map(|short| (target.path.clone(), *short)));
                unknown.push(format!("statfs of {path} stuck for {} s", time.as_secs().max(1)));
            }
            Look::Failed(why) => unknown.push(format!("statfs of {path}: {why}")),
        }
    }
    for filesystem in &filesystems {
        let dev = filesystem.space.dev;
        let mut short = Short { dev, bytes: false, inodes: false };
        for resource in [Resource::Bytes, Resource::Inodes] {
            let of_before = |target: &&Target| {
                let before = before.0.get(&target.path).filter(|before| before.dev == dev);
                before.is_some_and(|before| *{ *before }.of(resource))
            };
            let was_low = filesystem.targets.iter().any(of_before);
            let found = filesystem.lack(resource, was_low);
            *short.of(resource) = found.is_some();
            lacking.extend(found);
        }
        if short.bytes || short.inodes {
            low.0.extend(filesystem.targets.iter().map(|target| (target.path.clone(), short)));
        }
    }
    let outcome = if !lacking.is_empty() {
        Outcome::Fail(some_of(&lacking))
    } else if !unknown.is_empty() {
        Outcome::Unknown(some_of(&unknown))
    } else if filesystems.is_empty() {
        let why = "no filesystem that can be written was found: name a path in DISK_THRESHOLDS";
        Outcome::Unknown(why.to_owned())
    } else {
        Outcome::Pass
    };
    (low, outcome)
}

impl Filesystem<'_> {
    /// What it lacks of that, as a text.
    fn lack(&self, resource: Resource, was_low: bool) -> Option<String> {
        let (amount, what) = match resource {
            Resource::Bytes => (self.space.bytes, "bytes"),
            Resource::Inodes => (self.space.inodes, "inodes"),
        };
        if amount.size == 0 {
            return None;
        }
        let (owner, limit) = self.limit(resource, amount.size)?;
        if !is_low(was_low, amount, limit) {
            return None;
        }
        let whose = match self.targets.first() {
            Some(first) if first.path == owner.path => String::new(),
            Some(_) | None => format!(" for {}", owner.path.display()),
        };
        let how = if amount.free < limit.of(amount.size) {
            format!("below {limit}{whose}")
        } else {
            let enough = limit.to_pass_again(amount.size);
            format!("was below {limit}{whose} and passes again above {enough}")
        };
        let (free, size) = match resource {
            Resource::Bytes => (Size(amount.free).to_string(), Size(amount.size).to_string()),
            Resource::Inodes => (Count(amount.free).to_string(), Count(amount.size).to_string()),
        };
        let share = Percent(amount);
        Some(format!("{}: {share} of {what} free ({free} of {size}), {how}", self.name()))
    }

    /// The limit that counts, and whose it is: the strictest of the operator's, else the strictest of the defaults.
    fn limit(&self, resource: Resource, size: u64) -> Option<(&Target, &Limit)> {
        let rules = self.targets.iter().map(|target| match resource {
            Resource::Bytes => (*target, &target.bytes),
            Resource::Inodes => (*target, &target.inodes),
        });
        let strictness = |rule: &Rule| (rule.is_configured, rule.limit.of(size));
        // Of equal ones the first.
        let strictest = rules
            .reduce(|best, next| if strictness(next.1) > strictness(best.1) { next } else { best });
        strictest.map(|(target, rule)| (target, &rule.limit))
    }

    /// `/data`, or `/ (with /var/lib/kubelet)`.
    fn name(&self) -> String {
        let mut paths = self.targets.iter().map(|target| target.path.display().to_string());
        let first = paths.next().unwrap_or_default();
        let others: Vec<_> = paths.collect();
        match others.as_slice() {
            [] => first,
            some if some.len() <= SHOWN => format!("{first} (with {})", some.join(", ")),
            [second, rest @ ..] => format!("{first} (with {second} and {} more)", rest.len()),
        }
    }
}

fn some_of(texts: &[String]) -> String {
    let shown = texts.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    match texts.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// Rounded down, so that 9.96 % is not shown as 10 %; rough, so that a text does not change with every write.
struct Percent(Amount);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Amount { free, size } = self.0;
        let tenths = u128::from(free) * 1000 / u128::from(size.max(1));
        match (tenths / 10, tenths % 10) {
            (whole @ 10.., _) => write!(f, "{whole}%"),
            (whole, tenth) => write!(f, "{whole}.{tenth}%"),
        }
    }
}

/// Bytes as GiB with one decimal, small ones as whole MiB or KiB; rounded down.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => tenths(f, bytes, 1 << 30, " GiB"),
            bytes if bytes >= 1 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} KiB", bytes >> 10),
        }
    }
}

/// Inodes as thousands or millions with one decimal; rounded down.
struct Count(u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            count @ 1_000_000.. => tenths(f, count, 1_000_000, "M"),
            count @ 1_000.. => tenths(f, count, 1_000, "k"),
            count => write!(f, "{count}"),
        }
    }
}

fn tenths(f: &mut fmt::Formatter<'_>, number: u64, one: u64, unit: &str) -> fmt::Result {
    write!(f, "{}.{}{unit}", number / one, number % one * 10 / one)
}
