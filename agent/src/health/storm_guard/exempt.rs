//! Faults that the storm guard never holds up: a node that cannot write its own root is of no use, however many others
//! have the same fault. Pure.

use std::path::Path;

use crate::{
    checks::{Check, CheckSource, Policy},
    model::{Fault, FaultView, MOUNT_POINTS_SHOWN},
};

/// Whether a failure of that check stands whatever the storm guard says: it is a check of the kernel side, and one of
/// its faults is on the node's root filesystem or on one of `REQUIRE_WRITABLE`.
#[must_use]
pub fn is_exempt(check: &Check, view: &FaultView, policy: &Policy) -> bool {
    let is_kernel = matches!(check.source, CheckSource::Kernel(_));
    let mut faults =
        view.faults.iter().filter(|fault| fault.check == check.name && policy.counts(fault.scope));
    is_kernel && faults.any(|fault| is_essential(fault, policy))
}

fn is_essential(fault: &Fault, policy: &Policy) -> bool {
    // A list that is cut off may have lost the mount point that matters.
    let is_cut_off = fault.mount_points.len() >= MOUNT_POINTS_SHOWN;
    let mut points = fault.mount_points.iter().map(Path::new);
    is_cut_off
        || points.any(|point| {
            point == Path::new("/") || policy.require_writable.iter().any(|path| path == point)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checks::{find, tests::fault},
        model::{FaultKind, Scope},
    };

    #[test]
    fn the_root_and_what_has_to_be_writable_stand() {
        let policy = Policy { require_writable: vec!["/var/lib/db/".into()], ..Policy::default() };
        let many: Vec<_> = (0..MOUNT_POINTS_SHOWN).map(|n| format!("/m{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        // (the check asked for, the fault's kind, its scope, its mount points, whether it stands)
        for (check, kind, scope, points, expected) in [
            ("filesystem_ro", FaultKind::FilesystemRo, Scope::Host, &["/"][..], true),
            ("io_errors", FaultKind::IoError, Scope::Host, &["/boot", "/"], true),
            ("io_stall", FaultKind::IoStall, Scope::Host, &["/"], true),
            ("io_errors", FaultKind::IoError, Scope::Host, &["/var/lib/db"], true),
            ("io_errors", FaultKind::IoError, Scope::Host, &["/var/lib/db/x"], false),
            ("io_errors", FaultKind::IoError, Scope::Host, &["/data"], false),
            ("io_errors", FaultKind::IoError, Scope::Host, &[], false),
            ("io_errors", FaultKind::IoError, Scope::Host, &many, true),
            // Another check's fault, and faults that fail no check.
            ("io_stall", FaultKind::IoError, Scope::Host, &["/"], false),
            ("io_errors", FaultKind::IoError, Scope::Member, &["/"], false),
            ("io_errors", FaultKind::IoError, Scope::Volume, &["/"], false),
            ("node_ready", FaultKind::IoError, Scope::Host, &["/"], false),
        ] {
            let mount_points = points.iter().map(|point| (*point).to_owned()).collect();
            let faults = vec![Fault { mount_points, ..fault(kind, scope) }];
            let view = FaultView { faults, ..FaultView::default() };
            let found = is_exempt(find(check).unwrap(), &view, &policy);
            assert_eq!(found, expected, "{check} {kind:?} {scope:?} {points:?}");
        }
    }
}
