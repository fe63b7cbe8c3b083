//! A client for the Kubernetes API: its credentials, the time of the last read from the API server, and errors without
//! secrets.
//!
//! [`ClusterSource`] finds and reads the credentials, [`ClusterSource::connect`] makes a [`ClusterClient`] of them. Its
//! connection sends HTTP/2 PINGs: when the server does not answer one, every request and watch on the connection ends
//! with an error. [`LastRead`] says since when nothing has arrived. The client retries nothing but a request of which
//! not a byte was sent, and has no time-out for a request, since a watch lasts for minutes. The caller has both.

pub mod client;
pub mod error;
pub mod last_read;
mod line_limit;
pub mod source;
mod timer;

pub use self::{
    client::{ClientSettings, ClusterClient, RequestCounts},
    error::describe,
    last_read::LastRead,
    source::ClusterSource,
};
