//! The switch of the peers' tests does to frames what it says.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use e2e::Sandbox;
use e2e::switch::{Switch, Wire};

/// A UDP socket at each port.
fn sockets(switch: &Switch, count: usize) -> Vec<UdpSocket> {
    let open = |port| {
        let socket = switch.port(port).run(|| UdpSocket::bind((Switch::address(port), 7)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    };
    (0..count).map(open).collect()
}

/// Sends from one port to another; gives how long it took, or none where it was lost.
fn send(sockets: &[UdpSocket], from: usize, to: usize) -> Option<Duration> {
    let began = Instant::now();
    // A cable that is out is an error here.
    let _sent = sockets[from].send_to(b"ping", (Switch::address(to), 7));
    sockets[to].recv(&mut [0; 16]).is_ok().then(|| began.elapsed())
}

#[test]
fn a_switch_loses_delays_and_cuts_in_each_direction() {
    let Some(_sandbox) = Sandbox::new() else { return };
    let Some(switch) = Switch::new(3) else { return };
    let sockets = sockets(&switch, 3);
    assert!(send(&sockets, 0, 1).is_some() && send(&sockets, 1, 0).is_some());
    let cut = Wire { is_cut: true, ..Wire::default() };
    switch.set(0, 1, cut);
    assert_eq!(send(&sockets, 0, 1), None);
    assert!(send(&sockets, 1, 0).is_some() && send(&sockets, 0, 2).is_some());
    switch.heal();
    switch.partition(&[0], &[1, 2]);
    assert!(send(&sockets, 0, 2).is_none() && send(&sockets, 2, 0).is_none());
    assert!(send(&sockets, 1, 2).is_some());
    switch.heal();
    switch.set(0, 1, Wire { delay: Duration::from_millis(100), ..Wire::default() });
    assert!(send(&sockets, 0, 1).unwrap() >= Duration::from_millis(100));
    switch.set(0, 1, Wire { lost_per_mille: 300, ..Wire::default() });
    sockets[1].set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let lost = (0..200).filter(|_| send(&sockets, 0, 1).is_none()).count();
    assert!((20..120).contains(&lost), "{lost} of 200");
    switch.heal();
    sockets[1].set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    switch.plug(1, false);
    assert_eq!(send(&sockets, 0, 1), None);
    switch.plug(1, true);
    let deadline = Instant::now() + Duration::from_secs(10);
    while send(&sockets, 0, 1).is_none() {
        assert!(Instant::now() < deadline, "the cable is in again");
    }
    // TCP, with segments and checksums that are left to the network card.
    let listener = switch.port(1).run(|| TcpListener::bind((Switch::address(1), 9)).unwrap());
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
        all.len()
    });
    switch.port(0).run(|| {
        let mut stream = TcpStream::connect((Switch::address(1), 9)).unwrap();
        stream.write_all(&vec![7; 1 << 20]).unwrap();
    });
    assert_eq!(reader.join().unwrap(), 1 << 20);
}
