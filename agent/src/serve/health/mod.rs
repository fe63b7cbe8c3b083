//! The health listener, for load balancers and probes. Read-only, nothing secret.
//!
//! It has a few threads ([`threads`]). Each one has listening sockets ([`sockets`]), connections ([`connection_table`])
//! and rendered responses ([`cache`]) of its own; the threads share nothing but what the
//! [`Board`](crate::health::Board) publishes.
//!
//! The way of a request: [`accept`] -> [`connection`] -> [`http1`] or [`http2`] -> [`request`] parses -> [`route`]
//! decides -> [`render`] and [`cache`].

pub mod accept;
pub mod cache;
pub mod connection;
pub mod connection_slot;
pub mod connection_table;
pub mod counts;
pub mod fair_limit;
pub mod format;
pub mod health_json;
pub mod heap_trimmer;
pub mod http1;
pub mod http2;
pub mod http2_limits;
pub mod listener_state;
pub mod prefixed_stream;
pub mod render;
pub mod request;
pub mod response;
pub mod route;
pub mod settings;
pub mod sockets;
pub mod threads;
pub mod tls_thread;

pub use self::{
    counts::{ConnectionCounts, ResponseCounts},
    route::Router,
    sockets::BoundSockets,
    threads::{Settings, Threads},
};
