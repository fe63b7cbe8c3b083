//! What is known of the I/O of one disk.

use super::types::Mono;

/// The progress of a disk, as the snapshots show it.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    /// Requests completed since boot, at the last snapshot.
    pub(super) completed: u64,
    /// Requests in flight at the last snapshot.
    pub(super) in_flight: u64,
    /// Since when requests have been in flight and none has completed.
    pub(super) since: Option<Mono>,
    /// It has not completed a request since the first snapshot, so it is not known for how long it has stood.
    pub(super) from_start: bool,
    /// How long it had completed nothing when the request came for which it stands now.
    pub(super) idle_before: Mono,
    /// An operator has cleared the stall. It counts again after a request has completed.
    pub(super) accepted: bool,
}
