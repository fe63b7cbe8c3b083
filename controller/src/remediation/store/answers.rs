//! What the API server answers to writes of ours, known before a watch tells of it.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DynamicObject;

use super::{Store, list::Teller};
use crate::remediation::{
    crd::NodeHealthCheck,
    objects::NodeObject,
    world::{Kind, RemediationKey},
};

impl Store {
    /// A lease was written.
    pub fn wrote_lease(&mut self, lease: Lease, now: Timestamp) {
        self.put_lease(lease, Teller::Answer, now);
    }

    /// A remediation object was written.
    pub fn wrote_remediation(&mut self, kind: &Kind, object: &DynamicObject, now: Timestamp) {
        self.put_object(kind, object, Teller::Answer, now);
    }

    /// A node was written.
    pub fn wrote_node(&mut self, node: NodeObject, now: Timestamp) {
        self.put_node(node, Teller::Answer, now);
    }

    /// A `NodeHealthCheck` was written.
    pub fn wrote_check(&mut self, check: NodeHealthCheck, now: Timestamp) {
        self.put_check(check, Teller::Answer, now);
    }

    /// Forgets what a write of ours made, and a list that was complete later does not have.
    pub fn forget_unconfirmed(&mut self, now: Timestamp) {
        for name in self.lists.nodes.gone(now) {
            self.world.nodes.remove(&name);
        }
        for name in self.lists.checks.gone(now) {
            self.world.checks.remove(&name);
        }
        for name in self.lists.leases.gone(now) {
            self.world.leases.remove(&name);
        }
        for (kind, entry) in &mut self.kinds {
            for (namespace, name) in entry.list.gone(now) {
                let key = RemediationKey { kind: kind.clone(), namespace, name };
                self.world.remediations.remove(&key);
            }
        }
    }
}
