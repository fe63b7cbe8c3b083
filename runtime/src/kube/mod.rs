//! A client for the Kubernetes API: where the cluster is, when the API server was last read from, and what may be told
//! of an error.
//!
//! [`ClusterSource`] finds and reads the credentials, [`ClusterSource::connect`] makes a [`ClusterClient`] of them. Its
//! connection asks with HTTP/2 PINGs whether the server is there, so that a server which hangs ends every request and
//! watch on it with an error; [`LastRead`] says since when nothing came. There is no retry inside (but of a request of
//! which not a byte was sent), and no time-out for a request: a watch lasts for minutes. The caller has both.

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
