//! What changed between two lists of open faults: pure.

use std::collections::BTreeMap;

use crate::model::{Fault, Transition};

/// The changes that lead from one list of open faults to the next, in the order in which they are sent.
///
/// What closes comes last, so that a reader never counts fewer faults than were open all the time. Only a fault that
/// closed and opened again under the same id closes first.
pub(super) fn between<'a>(before: &'a [Fault], after: &'a [Fault]) -> Vec<(Transition, &'a Fault)> {
    let known: BTreeMap<&str, &Fault> = by_id(before);
    let still_open: BTreeMap<&str, &Fault> = by_id(after);
    let mut changes = Vec::new();
    for fault in after {
        match known.get(fault.id.as_str()) {
            None => changes.push((Transition::Opened, fault)),
            Some(old) if old.opened != fault.opened => {
                changes.extend([(Transition::Closed, *old), (Transition::Opened, fault)]);
            }
            Some(old) if is_updated(old, fault) => {
                changes.push((Transition::Updated, fault));
            }
            Some(_) => {}
        }
    }
    let closed = before.iter().filter(|fault| !still_open.contains_key(fault.id.as_str()));
    changes.extend(closed.map(|fault| (Transition::Closed, fault)));
    changes
}

fn by_id(faults: &[Fault]) -> BTreeMap<&str, &Fault> {
    faults.iter().map(|fault| (fault.id.as_str(), fault)).collect()
}

/// Whether what a fault says is different. A count or a time that moves on is no change: an error storm moves them every
/// second.
fn is_updated(old: &Fault, new: &Fault) -> bool {
    old.reason != new.reason || old.evidence != new.evidence || old.scope != new.scope
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::model::{Dev, FaultKind, Scope};

    pub(crate) fn fault(number: u32) -> Fault {
        let device = Dev::new(7, number);
        Fault {
            id: format!("io_error-{device}"),
            kind: FaultKind::IoError,
            check: FaultKind::IoError.check(),
            device,
            device_name: format!("loop{number}"),
            filesystem: "ext4".into(),
            mount_points: vec!["/mnt".into()],
            scope: Scope::Host,
            opened: SystemTime::UNIX_EPOCH,
            last: SystemTime::UNIX_EPOCH,
            count: 1,
            errno: None,
            kernel_ns: None,
            reason: "EIO".into(),
            evidence: vec!["tracepoint".into()],
        }
    }

    #[test]
    fn each_change_is_found_once_and_in_order() {
        use Transition::{Closed, Opened, Updated};
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let counted = Fault { count: 9, last: later, ..fault(1) };
        let other_reason = Fault { reason: "ENOSPC".into(), ..fault(1) };
        let other_evidence = Fault { evidence: Vec::new(), ..fault(1) };
        let other_scope = Fault { scope: Scope::Volume, ..fault(1) };
        let reopened = Fault { opened: later, ..fault(1) };
        for (before, after, expected) in [
            (vec![], vec![], vec![]),
            (vec![], vec![fault(1), fault(2)], vec![(Opened, 1), (Opened, 2)]),
            (vec![fault(1)], vec![fault(1)], vec![]),
            (vec![fault(1)], vec![counted], vec![]),
            (vec![fault(1)], vec![other_reason], vec![(Updated, 1)]),
            (vec![fault(1)], vec![other_evidence], vec![(Updated, 1)]),
            (vec![fault(1)], vec![other_scope], vec![(Updated, 1)]),
            (vec![fault(1)], vec![reopened], vec![(Closed, 1), (Opened, 1)]),
            (vec![fault(1), fault(3)], vec![fault(2), fault(3)], vec![(Opened, 2), (Closed, 1)]),
        ] {
            let changes = between(&before, &after);
            let changes: Vec<_> = changes
                .iter()
                .map(|(transition, fault)| (*transition, fault.device.minor()))
                .collect();
            assert_eq!(changes, expected, "{before:?} {after:?}");
        }
    }
}
