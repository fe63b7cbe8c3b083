//! `node_ready`: the Node's `Ready` condition is `True`.
//!
//! This build has no cluster side: it always says that it does not know, which passes, degraded.

use super::{Check, Known, OnUnknown};
use crate::model::Outcome;

pub(super) const CHECK: Check = Check {
    name: "node_ready",
    passes_when: "the Node's Ready condition is True",
    on_unknown: OnUnknown::Pass,
    needs_node_name: true,
    judge,
};

fn judge(_known: &Known<'_>) -> Outcome {
    Outcome::Unknown("no cluster is configured".to_owned())
}
