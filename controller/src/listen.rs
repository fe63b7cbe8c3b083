//! Ports of every role.

use std::{io, net::SocketAddr};

use anyhow::Context;
use tocsin_runtime::http::{BACKLOG, Listener, bind};

/// Listens on a port, and gives the address that it got where the port was 0. `what` names the listener in the error.
pub fn listen(what: &'static str, addr: SocketAddr) -> anyhow::Result<(Listener, SocketAddr)> {
    let open = || {
        let listener = bind(addr)?.listen(BACKLOG)?;
        let addr = listener.local_addr()?;
        Ok::<_, io::Error>((Listener::Tcp(listener), addr))
    };
    open().with_context(|| format!("{what} on {addr}"))
}
