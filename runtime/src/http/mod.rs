//! An HTTP/1 listener for answers from memory: limits on everything that a client can hold, bodies that can stream, and
//! a stop in order.
//!
//! [`bind`] takes a port, [`Server::new`] takes the handler and the [`Settings`], and [`Server::run`] answers until the
//! process stops. TCP, TLS and unix sockets are served alike. [`reply()`] and its variants write every header.
//!
//! No client can keep others out. Beyond the limit of connections, the listener first ends those that never sent a
//! request, then those whose last request is longest ago; a connection whose answer is being read, such as a stream of
//! events, stays. A request must be complete in time, an idle connection ends in time, and an answer must be read in
//! time.

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
    listener::{BACKLOG, Listener, Peer, accept_failed, bind},
    reply::{
        Body, EVENT_STREAM, JSON, Reply, TEXT, error, json, not_allowed, read_body, reply, stream,
    },
    server::Server,
    settings::Settings,
};
