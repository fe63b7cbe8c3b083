//! The addresses in a Service's `EndpointSlices` (`discovery.k8s.io/v1`): PURE.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use serde::Deserialize;

use crate::peers::channels::DiscoveredPeer;

/// An `EndpointSlice`, but for its metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Slice {
    endpoints: Option<Vec<Endpoint>>,
}

/// One pod. Its conditions do not matter: an agent that is not ready is still an agent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Endpoint {
    addresses: Option<Vec<String>>,
    node_name: Option<String>,
}

/// The slices of one Service, by name.
#[derive(Debug)]
pub(super) struct Slices {
    own: SocketAddr,
    by_name: BTreeMap<String, BTreeSet<DiscoveredPeer>>,
}

impl Slices {
    /// None yet; the peers have the own port, and addresses of the own family: a Service with both has one of each for
    /// every pod, and an agent listens on one.
    pub(super) fn new(own: SocketAddr) -> Self {
        Self { own, by_name: BTreeMap::new() }
    }

    /// Begins anew.
    pub(super) fn clear(&mut self) {
        self.by_name.clear();
    }

    /// Takes in a slice that was added or changed. What cannot be read counts as empty.
    pub(super) fn set(&mut self, name: String, data: serde_json::Value) {
        let slice: Slice = serde_json::from_value(data).unwrap_or_default();
        let mut peers = BTreeSet::new();
        for endpoint in slice.endpoints.into_iter().flatten() {
            let node: Option<Arc<str>> = endpoint.node_name.map(Arc::from);
            for address in endpoint.addresses.into_iter().flatten() {
                let ip: Option<IpAddr> = address.parse().ok();
                if let Some(ip) = ip.filter(|ip| ip.is_ipv4() == self.own.is_ipv4()) {
                    let address = SocketAddr::new(ip, self.own.port());
                    peers.insert(DiscoveredPeer { address, node: node.clone() });
                }
            }
        }
        self.by_name.insert(name, peers);
    }

    /// Takes in that a slice is gone.
    pub(super) fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    /// All peers.
    pub(super) fn peers(&self) -> BTreeSet<DiscoveredPeer> {
        self.by_name.values().flatten().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn peers(slices: &Slices) -> Vec<(String, Option<String>)> {
        let peers = slices.peers().into_iter();
        peers
            .map(|peer| (peer.address.to_string(), peer.node.map(|node| node.to_string())))
            .collect()
    }

    #[test]
    fn every_address_of_the_own_family_counts_ready_or_not() {
        let mut slices = Slices::new("10.0.0.9:25004".parse().unwrap());
        slices.set(
            "a-1".into(),
            json!({"addressType": "IPv4", "endpoints": [
                {"addresses": ["10.0.0.1"], "nodeName": "n1", "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "nodeName": "n2", "conditions": {"ready": false, "serving": false, "terminating": true}},
                {"addresses": ["10.0.0.3"], "nodeName": null},
            ], "ports": [{"port": 1}]}),
        );
        slices.set(
            "a-2".into(),
            json!({"endpoints": [{"addresses": ["fd00::1"], "nodeName": "n1"}]}),
        );
        let first = [("10.0.0.1", Some("n1")), ("10.0.0.2", Some("n2")), ("10.0.0.3", None)];
        let expected = |peers: &[(&str, Option<&str>)]| -> Vec<_> {
            let peers = peers.iter();
            peers.map(|(ip, node)| (format!("{ip}:25004"), node.map(str::to_owned))).collect()
        };
        assert_eq!(peers(&slices), expected(&first));
        slices.set(
            "a-3".into(),
            json!({"endpoints": [{"addresses": ["10.0.0.4"], "nodeName": "n4"}]}),
        );
        slices.remove("a-1");
        assert_eq!(peers(&slices), expected(&[("10.0.0.4", Some("n4"))]));
        for odd in [json!({}), json!({"endpoints": null}), json!({"endpoints": 1}), Value::Null] {
            slices.set("a-3".into(), odd);
            assert_eq!(peers(&slices), expected(&[]));
        }
        let mut slices = Slices::new("[fd00::9]:7".parse().unwrap());
        slices.set("b".into(), json!({"endpoints": [{"addresses": ["fd00::1", "host.example"]}]}));
        assert_eq!(peers(&slices), [("[fd00::1]:7".to_owned(), None)]);
        slices.clear();
        assert_eq!(peers(&slices), []);
    }
}
