//! A network switch in this process: what goes from one port to another can be lost, late or cut, in each direction for
//! itself, on any kernel and without any tool but `ip`.
//!
//! Each port is one end of a veth pair; the other end is `eth0` of the port's own network namespace.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sync::lock;
use crate::{NetNs, sys};

/// A frame with the header that the kernel puts before it: segmentation is left to the network card, so it may have
/// 64 KiB.
const FRAME: usize = 80 * 1024;
/// How often a port's reader checks whether it is to end.
const PAUSE: Duration = Duration::from_millis(50);

/// What happens to frames from one port to another.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wire {
    /// None of them arrives.
    pub is_cut: bool,
    /// Of 1,000 frames, so many are lost.
    pub lost_per_mille: u64,
    /// How late they are.
    pub delay: Duration,
}

/// The wires that are not perfect, by port: from, to.
type Wires = Mutex<BTreeMap<(usize, usize), Wire>>;

/// A frame on its way: when it is due, its number, the port, and the bytes.
type Late = Reverse<(Instant, u64, usize, Vec<u8>)>;

/// The switch; its threads and namespaces go with it.
pub struct Switch {
    own: NetNs,
    ports: Vec<NetNs>,
    wires: Arc<Wires>,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Switch {
    /// A switch with that many ports, and a namespace at each. None, with the reason printed, where `ip` is missing.
    pub fn new(ports: usize) -> Option<Self> {
        let own = NetNs::new()?;
        let ports: Vec<_> = (0..ports).map(|_| NetNs::new()).collect::<Option<_>>()?;
        let mut sockets = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            own.veth(&format!("port{number}"), port, "eth0");
            port.ip(&format!("address add {}/24 dev eth0", Self::address(number)));
            let socket = own.run(|| sys::packet_socket(&format!("port{number}")));
            let socket = File::from(socket.expect("a packet socket"));
            rustix::net::sockopt::set_socket_timeout(
                &socket,
                rustix::net::sockopt::Timeout::Recv,
                Some(PAUSE),
            )
            .expect("set a time-out");
            sockets.push(Arc::new(socket));
        }
        let (wires, done) = (Arc::<Wires>::default(), Arc::<AtomicBool>::default());
        let (late, due) = mpsc::channel::<Late>();
        let all = sockets.clone();
        let mut threads = vec![thread::spawn(move || deliver_late(&due, &all))];
        for from in 0..ports.len() {
            let relay = Relay {
                from,
                sockets: sockets.clone(),
                wires: Arc::clone(&wires),
                late: late.clone(),
            };
            let done = Arc::clone(&done);
            threads.push(thread::spawn(move || relay.run(&done)));
        }
        Some(Self { own, ports, wires, done, threads })
    }

    /// The address of a port's `eth0`.
    pub fn address(port: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, u8::try_from(port + 1).expect("few ports"))
    }

    /// The namespace at a port.
    pub fn port(&self, port: usize) -> &NetNs {
        &self.ports[port]
    }

    /// Pulls a port's cable out, or puts it in again: its `eth0` loses its carrier.
    pub fn plug(&self, port: usize, is_in: bool) {
        self.own.ip(&format!("link set port{port} {}", if is_in { "up" } else { "down" }));
    }

    /// Sets what happens to frames from a port to another, in this direction alone.
    pub fn set(&self, from: usize, to: usize, wire: Wire) {
        lock(&self.wires).insert((from, to), wire);
    }

    /// Sets what happens to frames between a port and all others, in both directions.
    pub fn set_around(&self, port: usize, wire: Wire) {
        for other in 0..self.ports.len() {
            self.set(port, other, wire);
            self.set(other, port, wire);
        }
    }

    /// Cuts all wires between ports of one side and ports of the other.
    pub fn partition(&self, one: &[usize], other: &[usize]) {
        let cut = Wire { is_cut: true, ..Wire::default() };
        for (one, other) in one.iter().flat_map(|one| other.iter().map(move |other| (*one, *other)))
        {
            self.set(one, other, cut);
            self.set(other, one, cut);
        }
    }

    /// Makes all wires perfect again.
    pub fn heal(&self) {
        lock(&self.wires).clear();
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

/// Reads one port's frames, and sends them to the others.
struct Relay {
    from: usize,
    sockets: Vec<Arc<File>>,
    wires: Arc<Wires>,
    late: Sender<Late>,
}

impl Relay {
    fn run(self, done: &AtomicBool) {
        let mut frame = vec![0; FRAME];
        while !done.load(Ordering::Relaxed) {
            // A time-out, or an interface that is down.
            let Ok(length) = (&*self.sockets[self.from]).read(&mut frame) else {
                continue;
            };
            let frame = &frame[..length];
            for to in (0..self.sockets.len()).filter(|to| *to != self.from) {
                self.send(to, frame);
            }
        }
    }

    fn send(&self, to: usize, frame: &[u8]) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let wire = lock(&self.wires).get(&(self.from, to)).copied().unwrap_or_default();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if wire.is_cut || mix(number) % 1000 < wire.lost_per_mille {
            return;
        }
        if wire.delay.is_zero() {
            // The port may be down.
            let _sent = (&*self.sockets[to]).write(frame);
        } else {
            let due = Instant::now() + wire.delay;
            let _sent = self.late.send(Reverse((due, number, to, frame.to_vec())));
        }
    }
}

/// A number that looks like chance, the same in each run (splitmix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn deliver_late(due: &mpsc::Receiver<Late>, sockets: &[Arc<File>]) {
    let mut waiting = BinaryHeap::<Late>::new();
    loop {
        let next =
            waiting.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
        match due.recv_timeout(next.unwrap_or(PAUSE)) {
            Ok(frame) => waiting.push(frame),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting.peek().is_some_and(|Reverse((at, ..))| *at <= Instant::now()) {
            if let Some(Reverse((_, _, to, frame))) = waiting.pop() {
                let _sent = (&*sockets[to]).write(&frame);
            }
        }
    }
}
