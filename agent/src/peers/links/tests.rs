use super::*;
use crate::peers::packet::PACKET_BYTES;

const KEY: &str = "a key that two agents share";

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 25004))
}

fn links(n: u8, keys: &str, life: u8) -> Links {
    let keys = Keys::parse(keys).unwrap();
    Links::new(address(n), format!("node-{n}").into(), keys, &[n * 16 + life; 32])
}

/// Carries packets between two agents until there are none; gives those that were carried, and what the first got.
fn exchange(a: &mut Links, b: &mut Links, mut packets: Outbox) -> (Outbox, Vec<Vec<u8>>) {
    let (now, mut all, mut content) = (Instant::now(), Vec::new(), Vec::new());
    while !packets.is_empty() {
        let mut out = Vec::new();
        for (to, bytes) in &packets {
            let (links, from) = if *to == a.own { (&mut *a, b.own) } else { (&mut *b, a.own) };
            if let Ok(Received::Content(_, payload)) = links.receive(now, from, bytes, 0, &mut out)
                && *to == b.own
            {
                content.push(payload.to_vec());
            }
        }
        all.append(&mut packets);
        packets = out;
    }
    (all, content)
}

/// Has the first agent send one packet to the second.
fn send(a: &mut Links, b: &mut Links, payload: &[u8]) -> (Outbox, Vec<Vec<u8>>) {
    let mut out = Vec::new();
    a.send(Instant::now(), b.own, Kind::Probe, payload, &mut out);
    exchange(a, b, out)
}

#[test]
fn a_session_that_echoes_the_challenge_counts_and_introduces_itself() {
    let (mut a, mut b) = (links(1, KEY, 0), links(2, KEY, 0));
    let (packets, content) = send(&mut a, &mut b, b"first");
    assert_eq!(content, [b"first".to_vec()]);
    // Hello, challenge, introduction, packet.
    assert_eq!(packets.len(), 4);
    assert_eq!(b.node(a.own).map(|node| &**node), Some("node-1"));
    let (packets, content) = send(&mut a, &mut b, b"second");
    assert_eq!((packets.len(), content), (1, vec![b"second".to_vec()]));
    // After a restart of the addressee, one packet is lost, and the next one counts.
    let mut b = links(2, KEY, 1);
    let (packets, content) = send(&mut a, &mut b, b"third, and it is long enough for an answer");
    assert_eq!((packets.len(), content.len()), (3, 0));
    assert_eq!(send(&mut a, &mut b, b"fourth").1, [b"fourth".to_vec()]);
    // And so it is after one of the sender.
    let mut a = links(1, KEY, 1);
    assert_eq!(send(&mut a, &mut b, b"fifth").1, [b"fifth".to_vec()]);
}

#[test]
fn packets_that_are_refused() {
    let now = Instant::now();
    let payload = [7; 40];
    let (mut a, mut b) = (links(1, KEY, 0), links(2, KEY, 0));
    send(&mut a, &mut b, &payload);
    let fresh = |a: &mut Links| {
        let mut out = Vec::new();
        a.send(now, address(2), Kind::Probe, &payload, &mut out);
        out.remove(0).1
    };
    let old = fresh(&mut a);
    let mut out = Vec::new();
    assert!(b.receive(now, a.own, &old, 0, &mut out).is_ok());
    let mut damaged = fresh(&mut a);
    damaged[30] ^= 1;
    let good = fresh(&mut a);
    let mut version = good.clone();
    version[0] = 2;
    let mut kind = good.clone();
    kind[1] = 99;
    let mut stranger = links(1, "a key that nobody else has", 0);
    let forged = {
        let mut out = Vec::new();
        stranger.send(now, address(2), Kind::Probe, &payload, &mut out);
        out.remove(0).1
    };
    let cases: [(&str, &[u8], Rejection); 8] = [
        ("replayed", &old, Rejection::Replayed),
        ("damaged", &damaged, Rejection::Forged),
        ("another key", &forged, Rejection::Forged),
        ("another version", &version, Rejection::Unknown),
        ("another kind", &kind, Rejection::Unknown),
        ("truncated", &good[..good.len() - 1], Rejection::Forged),
        ("cut short", &good[..37], Rejection::Truncated),
        ("oversized", &[0; PACKET_BYTES + 1], Rejection::Oversized),
    ];
    for (what, bytes, why) in cases {
        assert_eq!(b.receive(now, a.own, bytes, 0, &mut out), Err(why), "{what}");
    }
    assert_eq!(b.receive(now, address(3), &good, 0, &mut out), Err(Rejection::Forged));
    assert_eq!(b.peers.len(), 1, "a refused packet takes no memory");
    assert!(out.is_empty(), "a refused packet is not answered");
    assert!(b.receive(now, a.own, &good, 0, &mut out).is_ok());
}

#[test]
fn what_was_recorded_before_a_restart_counts_for_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = (links(1, KEY, 0), links(2, KEY, 0));
    let (mut recorded, _) = send(&mut a, &mut b, &[1; 40]);
    recorded.extend(send(&mut a, &mut b, &[2; 40]).0);
    // The addressee restarts: nothing is believed, and no answer is longer than what it answers.
    let mut b = links(2, KEY, 1);
    for (_, bytes) in recorded.iter().filter(|(to, _)| *to == address(2)) {
        let mut out = Vec::new();
        let result = b.receive(now, a.own, bytes, 0, &mut out);
        assert!(matches!(result, Ok(Received::Nothing) | Err(Rejection::Unproven)), "{result:?}");
        assert!(out.iter().all(|(_, answer)| answer.len() <= bytes.len()));
    }
    assert!(b.peers.is_empty());
    // An old challenge changes no token.
    for (_, bytes) in recorded.iter().filter(|(to, _)| *to == address(1)) {
        let result = a.receive(now, address(2), bytes, 0, &mut Vec::new());
        assert_eq!(result, Err(Rejection::Replayed));
    }
    // The sender restarts: its former session is over.
    let (mut b, mut a) = (links(2, KEY, 2), links(1, KEY, 0));
    let (recorded, _) = send(&mut a, &mut b, &[3; 40]);
    send(&mut links(1, KEY, 1), &mut b, &[4; 40]);
    for (_, bytes) in recorded.iter().filter(|(to, _)| *to == address(2)).skip(1) {
        let result = b.receive(now, address(1), bytes, 0, &mut Vec::new());
        assert_eq!(result, Err(Rejection::Unproven));
    }
}

#[test]
fn keys_are_rotated_without_a_gap() {
    let (old, new) = (KEY, "the key that comes after it");
    let (mut a, mut b) = (links(1, old, 0), links(2, old, 0));
    let keys = |text: &str| Keys::parse(text).unwrap();
    let steps = [
        (format!("{old}\n{new}"), old.to_owned()),
        (format!("{old}\n{new}"), format!("{old}\n{new}")),
        (format!("{new}\n{old}"), format!("{old}\n{new}")),
        (new.to_owned(), format!("{new}\n{old}")),
        (new.to_owned(), new.to_owned()),
    ];
    for (of_a, of_b) in steps {
        a.set_keys(keys(&of_a));
        b.set_keys(keys(&of_b));
        assert_eq!(send(&mut a, &mut b, b"there").1, [b"there".to_vec()], "{of_a:?} {of_b:?}");
        assert!(!send(&mut b, &mut a, b"back").0.is_empty());
    }
}

#[test]
fn packets_may_come_in_another_order_but_not_twice() {
    let mut window = Window { latest: 10, seen: 1 };
    for (sequence, expected) in [
        (12, true),
        (11, true),
        (12, false),
        (11, false),
        (10, false),
        (300, true),
        (173, true),
        (172, false),
        (173, false),
    ] {
        assert_eq!(window.accept(sequence), expected, "{sequence}");
    }
}
