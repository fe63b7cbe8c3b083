//! What would mend a node whose condition is `True`: pure.

use crate::model::{Fault, FaultKind, Scope};

/// What would mend a node. The words are API: they end a condition's message, `... (hint: reboot)`.
///
/// The order is that of strength: what mends a node also mends what a weaker hint would mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// Only volumes of pods are affected: the node itself is well.
    VolumeOnly,
    /// A reboot may mend it: it resets the device, and the filesystem is checked before it is mounted.
    Reboot,
    /// A reboot brings the same disk back: the disk, or the whole node, has to be replaced.
    Replace,
}

impl Hint {
    /// The word in the message.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::VolumeOnly => "volume-only",
            Self::Reboot => "reboot",
            Self::Replace => "replace",
        }
    }
}

/// Errors on the way to a device, which is not known to be broken itself (`blk_errors` in block/blk-core.c): a path or a
/// controller that a reboot sets up anew.
const ON_THE_WAY: [&str; 11] = [
    "ENXIO",
    "EAGAIN",
    "ENOMEM",
    "EACCES",
    "EBUSY",
    "ENODEV",
    "EBADE",
    "ETIME",
    "ENOLINK",
    "ESHUTDOWN",
    "ETIMEDOUT",
];
/// Errors of a store that is full, such as a thin pool: neither a reboot nor another disk mends that.
const FULL: [&str; 2] = ["ENOSPC", "EDQUOT"];

/// What would mend the node, as far as a condition's own faults tell (`own`); `failing` are the faults of the node that
/// fail any check. Both leave out what fails none.
///
/// One disk that has to be replaced decides for the node: a reboot for a filesystem that went read-only would bring the
/// same disk back. The fault of that disk can be on another device (`sda`) than the filesystem's (`sda2`, `dm-0`).
#[must_use]
pub fn hint<'a>(
    own: impl Iterator<Item = &'a Fault>,
    failing: impl Iterator<Item = &'a Fault>,
) -> Option<Hint> {
    match own.filter_map(of_fault).max()? {
        Hint::Reboot => failing.filter_map(of_fault).max(),
        hint => Some(hint),
    }
}

fn of_fault(fault: &Fault) -> Option<Hint> {
    if fault.scope == Scope::Volume {
        return Some(Hint::VolumeOnly);
    }
    let errno = fault.errno.as_deref().unwrap_or_default();
    match fault.kind {
        FaultKind::FilesystemRo | FaultKind::FilesystemError | FaultKind::IoStall => {
            Some(Hint::Reboot)
        }
        FaultKind::IoError if FULL.contains(&errno) => None,
        FaultKind::IoError if ON_THE_WAY.contains(&errno) => Some(Hint::Reboot),
        FaultKind::IoError => Some(Hint::Replace),
    }
}

#[cfg(test)]
mod tests {
    use FaultKind::{FilesystemError, FilesystemRo, IoError, IoStall};
    use Hint::{Reboot, Replace, VolumeOnly};
    use Scope::{Host, Volume};

    use super::*;
    use crate::checks::tests::fault;

    type Known = (FaultKind, Scope, &'static str);

    #[test]
    fn faults_say_what_would_mend_the_node() {
        // (the condition's own faults, the other failing faults of the node, the hint)
        let cases: [(&[Known], &[Known], Option<Hint>); 16] = [
            (&[], &[], None),
            (&[], &[(IoError, Host, "EIO")], None),
            (&[(FilesystemRo, Host, "")], &[], Some(Reboot)),
            (&[(FilesystemRo, Host, "EROFS")], &[], Some(Reboot)),
            (&[(FilesystemError, Host, "EFSCORRUPTED")], &[], Some(Reboot)),
            (&[(IoStall, Host, "")], &[], Some(Reboot)),
            (&[(IoError, Host, "")], &[], Some(Replace)),
            (&[(IoError, Host, "EIO")], &[], Some(Replace)),
            (&[(IoError, Host, "ENODATA")], &[], Some(Replace)),
            (&[(IoError, Host, "ETIMEDOUT")], &[], Some(Reboot)),
            (&[(IoError, Host, "ENOSPC")], &[], None),
            (&[(IoError, Host, "ETIMEDOUT"), (IoError, Host, "EIO")], &[], Some(Replace)),
            (&[(FilesystemRo, Volume, ""), (FilesystemRo, Host, "")], &[], Some(Reboot)),
            (&[(FilesystemRo, Volume, ""), (FilesystemRo, Volume, "")], &[], Some(VolumeOnly)),
            // A disk that has to be replaced decides for the node, but a volume's condition stays about the volume.
            (&[(FilesystemRo, Host, "")], &[(IoError, Host, "EIO")], Some(Replace)),
            (&[(FilesystemRo, Volume, "")], &[(IoError, Host, "EIO")], Some(VolumeOnly)),
        ];
        for (own, others, expected) in cases {
            let of = |&(kind, scope, errno): &Known| Fault {
                errno: Some(errno).filter(|errno| !errno.is_empty()).map(str::to_owned),
                ..fault(kind, scope)
            };
            let [own, others]: [Vec<_>; 2] =
                [own, others].map(|list| list.iter().map(of).collect());
            let failing = own.iter().chain(&others);
            assert_eq!(hint(own.iter(), failing), expected, "{own:?} beside {others:?}");
        }
    }
}
