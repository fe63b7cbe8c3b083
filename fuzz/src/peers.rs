//! Packets of peers: none makes an agent panic, and none is answered with more bytes than it has.

use std::net::SocketAddr;

use tocsin::{
    model::PeerIdentity,
    peers::{
        keys::Keys,
        links::{Links, Outbox, Received},
        mesh::Mesh,
        packet::{Kind, PAYLOAD_BYTES},
    },
};
use tokio::time::Instant;

/// Feeds bytes to an agent: as they are, and as what a peer with the key says.
///
/// # Panics
///
/// If an answer has more bytes than what it answers.
pub fn peers(data: &[u8]) {
    let now = Instant::now();
    let (own, peer) = (address(1), address(2));
    let identity = PeerIdentity { id: "a@1".into(), node: "a".into(), address: own };
    let mut mesh = Mesh::new(now, identity, 1, Keys::public(), &[1; 32], false);
    let _refused = mesh.receive(now, peer, data).is_err();
    let answered: usize = mesh.take_packets().iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(answered <= data.len(), "{answered} bytes in answer to {}", data.len());

    let Some((&kind, payload)) = data.split_first() else { return };
    let kinds =
        [Kind::Introduce, Kind::Swim, Kind::Update, Kind::Probe, Kind::AskItems, Kind::Items];
    let kind = kinds[usize::from(kind) % kinds.len()];
    let mut links = Links::new(peer, "b".into(), Keys::public(), &[2; 32]);
    let mut packets = Outbox::new();
    let payload = &payload[..payload.len().min(PAYLOAD_BYTES)];
    links.send(now, own, kind, payload, &mut packets);
    for _ in 0..4 {
        for (_, bytes) in std::mem::take(&mut packets) {
            let _refused = mesh.receive(now, peer, &bytes).is_err();
        }
        for (_, bytes) in mesh.take_packets() {
            let received = links.receive(now, own, &bytes, 0, &mut packets);
            let _content = matches!(received, Ok(Received::Content(..)));
        }
    }
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 25004))
}
