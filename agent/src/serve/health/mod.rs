//! The health listener, for load balancers and probes. Read-only, nothing secret.
//!
//! Some threads, each with a listener of its own on the same port (`SO_REUSEPORT`), its own connections and its own
//! rendered answers; they share nothing but what the [`Board`](crate::health::Board) publishes. [`request`] reads,
//! [`route`] decides, [`answers`] renders once per change, [`http1`] and [`http2`] talk, [`connections`] says who goes
//! when there are too many.

pub mod accept;
pub mod answers;
pub mod connections;
pub mod grpc;
pub mod health_json;
pub mod http1;
pub mod http2;
pub mod page;
pub mod request;
pub mod rewind;
pub mod route;
pub mod settings;
pub mod streams;
pub mod watches;

pub use self::{
    accept::{Listeners, Settings, Threads, open},
    connections::Counts,
    page::Answered,
    route::Router,
};
