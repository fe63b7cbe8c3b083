//! Discovery: where other agents may be. Membership joins them; nobody has to be up first.
//!
//! A list of addresses is what it is. A DNS name is resolved again and again. The `EndpointSlices` of a Service are
//! listed and watched, on the connection that the cluster side has already.

mod dns;
mod endpoint_slices;
mod slices;

use std::{
    fmt,
    future::{self, Future},
    pin::Pin,
    sync::Arc,
};

use tokio::sync::watch;

use self::endpoint_slices::EndpointSlices;
use super::{
    channels::{Discovered, DiscoveredPeer},
    settings::Join,
};
use crate::{cluster::Beside, host::Bounded, model::PeerIdentity};

/// A task that finds peers until it is dropped.
pub type FindTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How the task that finds peers has to be started.
pub enum Discovery {
    /// On any runtime.
    Task(FindTask),
    /// Beside the session with the API server, [`crate::cluster::Options::beside`].
    Cluster(Beside),
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Task(_) => "Task",
            Self::Cluster(_) => "Cluster",
        })
    }
}

/// The discovery of the peers of `own`, which writes to `found`. Names are resolved on threads of `bounded`.
#[must_use]
pub fn discovery(
    join: Join,
    own: &PeerIdentity,
    bounded: &Bounded,
    found: watch::Sender<Discovered>,
) -> Discovery {
    match join {
        Join::Nobody => {
            // It has spoken: there is nobody.
            found.send_replace(Discovered::default());
            fixed(found)
        }
        Join::Static(addresses) => {
            let peers = addresses.into_iter().map(|address| DiscoveredPeer { address, node: None });
            // The list may name a few for a start: who is not in it is not forgotten.
            found.send_replace(Discovered {
                peers: peers.collect(),
                is_complete: false,
                degraded: None,
            });
            fixed(found)
        }
        Join::Dns { host, port } => {
            Discovery::Task(Box::pin(dns::follow(host, port, bounded.clone(), found)))
        }
        Join::Service { namespace, name } => {
            let slices = EndpointSlices::new(namespace, name, own.address, found);
            Discovery::Cluster(Beside::new(move |clients| Box::pin(slices.follow(clients))))
        }
    }
}

/// Keeps what was found.
fn fixed(found: watch::Sender<Discovered>) -> Discovery {
    let found = Arc::new(found);
    Discovery::Task(Box::pin(async move {
        let _kept = found;
        future::pending::<()>().await;
    }))
}
