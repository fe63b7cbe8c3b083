//! From the space of the filesystems to an outcome: pure.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    space::{Amount, Count, Percent, Size, Space, StatfsResult},
    thresholds::{Limit, Rule, Target},
};
use crate::model::Outcome;

/// A reason shows this many findings, and the number of the others.
const SHOWN: usize = 3;

/// A resource that a filesystem may be short of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Bytes,
    Inodes,
}

/// The shortages that the last sample found, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shortages(BTreeMap<PathBuf, Shortage>);

/// What the filesystem of a path is short of. Another filesystem at the same path begins anew, so its number is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shortage {
    dev: u64,
    bytes: bool,
    inodes: bool,
}

impl Shortage {
    fn of(&mut self, resource: Resource) -> &mut bool {
        match resource {
            Resource::Bytes => &mut self.bytes,
            Resource::Inodes => &mut self.inodes,
        }
    }
}

/// The targets on one filesystem, in their order.
struct Filesystem<'a> {
    space: Space,
    targets: Vec<&'a Target>,
}

/// Whether too little is free. After a shortage, clearly more has to be free again: see [`Limit::recovery`].
pub(super) fn is_short(was_short: bool, amount: Amount, limit: &Limit) -> bool {
    if was_short {
        amount.free <= limit.recovery(amount.size).of(amount.size)
    } else {
        amount.free < limit.of(amount.size)
    }
}

/// The shortages now and the outcome of the check, from the shortages before and a new sample.
pub(super) fn judge(before: &Shortages, sample: &[(Target, StatfsResult)]) -> (Shortages, Outcome) {
    let (filesystems, unknown) = group(sample);
    let mut now = Shortages::default();
    for (target, result) in sample {
        // Nothing is known of a path that hangs, so its shortage stays as it was.
        if let (StatfsResult::Stuck(_), Some(kept)) = (result, before.0.get(&target.path)) {
            now.0.insert(target.path.clone(), *kept);
        }
    }
    let mut findings = Vec::new();
    for filesystem in &filesystems {
        let mut shortage = Shortage { dev: filesystem.space.dev, bytes: false, inodes: false };
        for resource in [Resource::Bytes, Resource::Inodes] {
            let found = filesystem.finding(resource, filesystem.was_short(resource, before));
            *shortage.of(resource) = found.is_some();
            findings.extend(found);
        }
        if shortage.bytes || shortage.inodes {
            let paths = filesystem.targets.iter().map(|target| target.path.clone());
            now.0.extend(paths.map(|path| (path, shortage)));
        }
    }
    let outcome = if !findings.is_empty() {
        Outcome::Fail(some_of(&findings))
    } else if !unknown.is_empty() {
        Outcome::Unknown(some_of(&unknown))
    } else if filesystems.is_empty() {
        let why = "no filesystem that can be written was found: name a path in DISK_THRESHOLDS";
        Outcome::Unknown(why.to_owned())
    } else {
        Outcome::Pass
    };
    (now, outcome)
}

/// The filesystems that can be judged, and why others cannot.
fn group(sample: &[(Target, StatfsResult)]) -> (Vec<Filesystem<'_>>, Vec<String>) {
    let mut filesystems: Vec<Filesystem<'_>> = Vec::new();
    let mut unknown = Vec::new();
    for (target, result) in sample {
        let path = target.path.display();
        match result {
            // An image such as squashfs has nothing free from the start, and an operating system's is often `/`.
            StatfsResult::Space(space) if space.is_read_only && !target.is_configured => {}
            StatfsResult::Space(space) => {
                match filesystems.iter_mut().find(|other| other.space.dev == space.dev) {
                    Some(known) => known.targets.push(target),
                    None => filesystems.push(Filesystem { space: *space, targets: vec![target] }),
                }
                if space.bytes.size == 0 && target.is_configured {
                    unknown.push(format!("the filesystem of {path} does not tell its size"));
                }
            }
            StatfsResult::Missing if !target.is_configured => {}
            StatfsResult::Missing => unknown.push(format!("{path} does not exist")),
            StatfsResult::Stuck(time) => {
                unknown.push(format!("statfs of {path} stuck for {} s", time.as_secs().max(1)));
            }
            StatfsResult::Failed(why) => unknown.push(format!("statfs of {path}: {why}")),
        }
    }
    (filesystems, unknown)
}

impl Filesystem<'_> {
    /// Whether any of its paths was short of the resource on this same filesystem.
    fn was_short(&self, resource: Resource, before: &Shortages) -> bool {
        self.targets.iter().any(|target| {
            let same = before.0.get(&target.path).filter(|before| before.dev == self.space.dev);
            same.is_some_and(|before| *{ *before }.of(resource))
        })
    }

    /// The shortage of that resource as a text, if there is one.
    fn finding(&self, resource: Resource, was_short: bool) -> Option<String> {
        let (amount, what) = match resource {
            Resource::Bytes => (self.space.bytes, "bytes"),
            Resource::Inodes => (self.space.inodes, "inodes"),
        };
        if amount.size == 0 {
            return None;
        }
        let (owner, limit) = self.limit(resource, amount.size)?;
        if !is_short(was_short, amount, limit) {
            return None;
        }
        let whose = match self.targets.first() {
            Some(first) if first.path == owner.path => String::new(),
            Some(_) | None => format!(" for {}", owner.path.display()),
        };
        let how = if amount.free < limit.of(amount.size) {
            format!("below {limit}{whose}")
        } else {
            let enough = limit.recovery(amount.size);
            format!("was below {limit}{whose} and passes again above {enough}")
        };
        let (free, size) = match resource {
            Resource::Bytes => (Size(amount.free).to_string(), Size(amount.size).to_string()),
            Resource::Inodes => (Count(amount.free).to_string(), Count(amount.size).to_string()),
        };
        let share = Percent(amount);
        Some(format!("{}: {share} of {what} free ({free} of {size}), {how}", self.name()))
    }

    /// The limit that counts, and its target: the strictest of the operator's limits, else the strictest default.
    fn limit(&self, resource: Resource, size: u64) -> Option<(&Target, &Limit)> {
        let rules = self.targets.iter().map(|target| match resource {
            Resource::Bytes => (*target, &target.bytes),
            Resource::Inodes => (*target, &target.inodes),
        });
        let strictness = |rule: &Rule| (rule.is_configured, rule.limit.of(size));
        // The first of equal ones.
        let strictest = rules
            .reduce(|best, next| if strictness(next.1) > strictness(best.1) { next } else { best });
        strictest.map(|(target, rule)| (target, &rule.limit))
    }

    /// The name in reasons: `/data`, or `/ (with /var/lib/kubelet)`.
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
