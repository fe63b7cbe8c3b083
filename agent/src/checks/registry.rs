//! The registry of checks: a new check is one file and one line in [`all`].

use super::{
    Check, Policy, container_runtime, custom_conditions, disk_pressure, filesystem_ro, http,
    io_errors, io_stall, mounts, network, node_ready, peers, schedulable,
};

/// Every built-in check, in the order in which they are shown.
#[must_use]
pub fn all() -> &'static [Check] {
    static ALL: &[Check] = &[
        node_ready::CHECK,
        schedulable::CHECK,
        custom_conditions::CHECK,
        filesystem_ro::CHECK,
        io_errors::CHECK,
        io_stall::CHECK,
        mounts::CHECK,
        http::ROUTER,
        http::KUBELET,
        container_runtime::CHECK,
        disk_pressure::CHECK,
        network::CHECK,
        peers::CHECK,
    ];
    ALL
}

/// The built-in check of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Check> {
    all().iter().find(|check| check.name == name)
}

impl Policy {
    /// Every check, the operator's own last.
    pub fn all(&self) -> impl Iterator<Item = &'static Check> {
        all().iter().chain(self.own.iter().copied())
    }

    /// The check of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static Check> {
        self.all().find(|check| check.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        for check in all() {
            assert_eq!(all().iter().filter(|other| other.name == check.name).count(), 1);
            assert_eq!(find(check.name).unwrap().name, check.name);
        }
        assert!(find("bogus").is_none());
    }
}
