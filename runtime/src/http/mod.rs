//! An HTTP/1 listener for answers from memory: limits on everything that a client can hold, bodies that can stream, and
//! a stop in order.
//!
//! [`bind`] takes a port, [`Server::new`] has the handler and the [`Settings`], [`Server::run`] answers until the
//! process stops. It serves TCP, TLS and unix sockets alike. Every header that an answer has is written in [`reply`].
//!
//! Nobody can keep others out. Beyond the limit of connections, those are ended first that never asked anything, then
//! those that asked longest ago; one whose answer is being read, such as a stream of events, stays. A request must be
//! complete in time, an idle connection ends in time, and an answer must be taken in time.

mod activity;
mod connections;
mod listener;
mod reply;
mod server;
mod settings;
#[cfg(test)]
mod tests;

pub use self::{
    connections::ConnectionCounts,
    listener::{BACKLOG, Listener, Peer, accept_failed, bind, bind_beside},
    reply::{
        Body, EVENT_STREAM, JSON, Reply, TEXT, error, json, not_allowed, read_body, reply, stream,
    },
    server::Server,
    settings::Settings,
};
