//! HTTP/1 on one connection: requests in, responses out, nothing kept in between.
//!
//! hyper is not used here: it answers what it cannot parse without a body, and it has one time-out for an idle
//! connection and for a slow header.

pub mod batch;
pub mod connection;
pub mod timed_stream;

pub use self::{
    batch::only_response,
    connection::{Ended, Transport, send_rest, serve_connection},
};
