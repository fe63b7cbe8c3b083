//! What the streams of one HTTP/2 connection share.

use std::sync::Arc;

use tocsin_runtime::tasks::Stop;

use super::stream_tracker::StreamTracker;
use crate::serve::health::{connection_slot::ConnectionSlot, listener_state::ListenerState};

/// What the streams of one HTTP/2 connection share.
#[derive(Clone)]
pub struct ConnectionContext {
    /// The connection's number, under which its watches and its waiting requests are counted.
    pub number: u64,
    /// Its slot in the connection table.
    pub slot: Arc<ConnectionSlot>,
    /// The state of its thread.
    pub state: Arc<ListenerState>,
    /// Its streams.
    pub streams: Arc<StreamTracker>,
    /// Whether the agent stops.
    pub stop: Stop,
}
