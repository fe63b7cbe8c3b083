//! The peers task: carries packets between the socket and the [`Mesh`], and publishes what the mesh decides. It alone
//! writes the [`PeerView`](crate::model::PeerView).

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ring::rand::{SecureRandom, SystemRandom};
use tocsin_runtime::tasks::Stop;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};
use tracing::{info, warn};

use super::{
    channels::{ProbePacket, TaskChannels},
    gossip::{self, Topic},
    key_file::{self, KeyFileError, RELOAD_INTERVAL},
    keys::Keys,
    mesh::{Mesh, Output},
    packet::PACKET_BYTES,
    probes::{clock, row::Names},
    settings::Settings,
    stats::PeerStats,
};
use crate::model::{PeerRole, PeerView};

/// 64 packets that are read before what is due is done: what has arrived answers what is due.
const BATCH: usize = 64;
/// 5 seconds for reading the key file, whose disk may hang.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// 3 rounds of gossip, 100 ms apart, say that this agent leaves.
const FAREWELLS: u32 = 3;
/// See [`FAREWELLS`].
const FAREWELL_PERIOD: Duration = Duration::from_millis(100);
/// The generations of an agent count tenths of a second from here on: 2025-01-01.
const GENERATIONS: Duration = Duration::from_hours(482_136);
/// 10 seconds, then a sanity check is given up by the peers task whatever its own time-out is.
const SANITY_DEADLINE: Duration = Duration::from_secs(10);
/// What is said of an agent without keys.
const NO_KEY: &str =
    "PEERS_KEY_FILE is not set: whoever reaches this port can forge the peers' packets";

/// Why the peers task cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error("POD_IP and PEERS_PORT: UDP on {0}: {1}")]
    Bind(SocketAddr, #[source] io::Error),
    /// The keys cannot be read.
    #[error("PEERS_KEY_FILE: {0}")]
    Keys(#[from] KeyFileError),
    /// The kernel gives no random numbers.
    #[error("no random numbers")]
    Random,
}

/// The peers task.
#[derive(Debug)]
pub struct PeersTask {
    socket: UdpSocket,
    mesh: Mesh,
    channels: TaskChannels,
    key_file: Option<PathBuf>,
    key_text: String,
    key_error: Option<String>,
    role: PeerRole,
    /// The answer that is awaited, and until when.
    sanity: Option<(Instant, oneshot::Receiver<bool>)>,
    is_stale: bool,
}

impl PeersTask {
    /// Binds the socket and reads the keys; call it inside a tokio runtime.
    pub fn start(settings: &Settings, channels: TaskChannels) -> Result<Self, StartError> {
        let (keys, key_text) = if let Some(path) = &settings.key_file {
            key_file::read(path)?
        } else {
            warn!("{NO_KEY}");
            (Keys::public(), String::new())
        };
        let address = settings.own.address;
        let bind = || {
            let socket = std::net::UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        };
        let socket = bind().map_err(|error| StartError::Bind(address, error))?;
        let mut own = settings.own.clone();
        if let Ok(bound) = socket.local_addr() {
            own.address = bound;
        }
        let mut seed = [0; 32];
        SystemRandom::new().fill(&mut seed).map_err(|_| StartError::Random)?;
        let asks_sanity = settings.sanity_check_url.is_some();
        let mesh = Mesh::new(Instant::now(), own, generation(), keys, &seed, asks_sanity);
        Ok(Self {
            socket,
            mesh,
            channels,
            key_file: settings.key_file.clone(),
            key_text,
            key_error: None,
            role: PeerRole::Undecided,
            sanity: None,
            is_stale: true,
        })
    }

    /// Runs until the stop, then tells the peers that this agent leaves.
    pub async fn run(mut self, stop: Stop) {
        let reload = spawn_reload(self.key_file.clone());
        let (mut buffer, mut keys) = ([0; PACKET_BYTES + 1], reload);
        loop {
            self.flush();
            let wake = self.mesh.next();
            tokio::select! {
                () = stop.requested() => break,
                readable = self.socket.readable() => {
                    if readable.is_ok() {
                        self.read(&mut buffer);
                    }
                    self.mesh.tick(Instant::now());
                }
                () = sleep_until(wake) => {
                    self.read(&mut buffer);
                    self.mesh.tick(Instant::now());
                }
                changed = changed(&mut self.channels.discovered) => {
                    self.mesh.discover(Instant::now(), changed);
                    self.is_stale = true;
                }
                shared = received(&mut self.channels.shared) => {
                    let (topic, bytes): (Topic, Vec<u8>) = shared;
                    self.mesh.share(Instant::now(), topic, bytes.into());
                }
                probe = received(&mut self.channels.probes) => self.probe(&probe),
                _ = changed(&mut self.channels.probe_results) => self.is_stale = true,
                is_success = answered(&mut self.sanity) => {
                    self.sanity = None;
                    self.mesh.sanity(Instant::now(), is_success);
                }
                read = received(&mut keys) => self.set_keys(read),
            }
        }
        self.mesh.leave(Instant::now());
        self.flush();
        for _ in 0..FAREWELLS {
            sleep(FAREWELL_PERIOD).await;
            self.mesh.tick(Instant::now());
            self.flush();
        }
    }

    fn read(&mut self, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            let Ok((length, from)) = self.socket.try_recv_from(buffer) else { return };
            self.channels.stats.count_received(length);
            let result = self.mesh.receive(Instant::now(), from, &buffer[..length]);
            if let Err(why) = result {
                self.channels.stats.reject(why);
            }
        }
    }

    fn probe(&mut self, probe: &ProbePacket) {
        let is_short = probe.bytes.len() <= super::settings::PROBE_BYTES;
        if !is_short || !self.mesh.probe(Instant::now(), &probe.peer, &probe.bytes) {
            self.channels.stats.drop_probe();
        }
    }

    /// Sends what there is to send, and publishes what there is to publish.
    fn flush(&mut self) {
        let stats: &PeerStats = &self.channels.stats;
        for (to, packet) in self.mesh.take_packets() {
            // A packet that the kernel does not take is a packet that is lost: the membership can stand that.
            if self.socket.try_send_to(&packet, to).is_ok() {
                stats.count_sent(packet.len());
            }
        }
        let outputs = self.mesh.take_outputs();
        for output in outputs {
            self.output(output);
        }
        if self.mesh.take_change() || self.is_stale {
            self.is_stale = false;
            self.publish();
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Change(change) => {
                let (peer, alive) = (&change.peer.id, change.alive);
                if change.is_withdrawn {
                    info!(%peer, alive, "nobody is told, since SANITY_CHECK_URL did not answer 2xx");
                } else if alive {
                    info!(%peer, "peer is back");
                } else {
                    warn!(%peer, "peer is dead");
                }
                // Without receivers there is nobody to tell.
                let _nobody = self.channels.changes.send(change).is_err();
            }
            Output::Item(item) => {
                self.channels.latest.send_modify(|latest| {
                    let latest = Arc::make_mut(latest);
                    latest.insert((item.topic, item.origin.clone()), item.bytes.clone());
                });
                let _nobody = self.channels.gossip.send(item).is_err();
            }
            Output::Probe(peer, bytes) => {
                let packet = ProbePacket { peer, at: Instant::now(), bytes };
                if self.channels.probes_received.try_send(packet).is_err() {
                    self.channels.stats.drop_probe();
                }
            }
            Output::AskSanity => {
                let (ask, answer) = oneshot::channel();
                if self.channels.sanity.try_send(ask).is_ok() {
                    self.sanity = Some((Instant::now() + SANITY_DEADLINE, answer));
                }
            }
        }
    }

    fn publish(&mut self) {
        let mut degraded = Vec::new();
        if self.key_file.is_none() {
            degraded.push(NO_KEY.to_owned());
        }
        degraded.extend(self.key_error.clone());
        degraded.extend(self.channels.discovered.borrow().degraded.clone());
        let probes = self.channels.probe_results.borrow().clone();
        degraded.extend(clock::degraded(probes.values()));
        let mut view = self.mesh.view(&probes, degraded);
        self.add_rows(&mut view);
        self.channels.latest.send_if_modified(|latest| {
            let before = latest.len();
            gossip::prune(latest, &view.peers);
            latest.len() != before
        });
        if view.role != self.role {
            info!(role = ?view.role, peers = view.peers.len(), "role among the peers");
            self.role = view.role.clone();
        }
        self.channels.view.send_if_modified(|current| {
            let is_new = **current != view;
            if is_new {
                *current = Arc::new(view);
            }
            is_new
        });
    }

    /// Adds what the peers say of those that they probe themselves.
    fn add_rows(&self, view: &mut PeerView) {
        let items = self.channels.latest.borrow().clone();
        let ids = view.own.iter().chain(view.peers.iter().map(|peer| &peer.identity));
        let names = Names::new(ids.map(|identity| &identity.id));
        for peer in &mut view.peers {
            let row = items.get(&(Topic::Reach, peer.identity.id.clone()));
            peer.reaches = row.and_then(|row| names.decode(row)).unwrap_or_default();
        }
    }

    fn set_keys(&mut self, read: Result<(Keys, String), String>) {
        match read {
            Ok((_, text)) if text == self.key_text => self.key_error = None,
            Ok((keys, text)) => {
                info!("PEERS_KEY_FILE was read again");
                self.mesh.set_keys(keys);
                (self.key_text, self.key_error) = (text, None);
            }
            Err(error) => {
                let error = format!("PEERS_KEY_FILE: {error}; the keys of before are used");
                if self.key_error.as_ref() != Some(&error) {
                    warn!("{error}");
                }
                self.channels.stats.fail_key_reload();
                self.key_error = Some(error);
            }
        }
        self.is_stale = true;
    }
}

/// Tenths of a second since [`GENERATIONS`]. A clock that is wrong costs a round trip: the others say what they know.
fn generation() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.saturating_sub(GENERATIONS).as_millis() / 100).unwrap_or(1).max(1)
}

type Reread = Result<(Keys, String), String>;

/// Reads the key file again and again, on a thread of the runtime's pool, since its disk may hang. It ends with its
/// receiver.
fn spawn_reload(path: Option<PathBuf>) -> mpsc::Receiver<Reread> {
    let (sender, receiver) = mpsc::channel(1);
    let Some(path) = path else { return receiver };
    tokio::spawn(async move {
        loop {
            sleep(RELOAD_INTERVAL).await;
            let file = path.clone();
            let read = tokio::task::spawn_blocking(move || key_file::read(&file));
            let mut read = std::pin::pin!(read);
            let result = match timeout(READ_DEADLINE, &mut read).await {
                Ok(result) => result,
                Err(_late) => {
                    let late = Err("it cannot be read in time".to_owned());
                    if sender.send(late).await.is_err() {
                        return;
                    }
                    read.await
                }
            };
            let result = match result {
                Ok(read) => read.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if sender.send(result).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next value of a channel; for ever where it has ended.
async fn received<T>(receiver: &mut mpsc::Receiver<T>) -> T {
    match receiver.recv().await {
        Some(value) => value,
        None => std::future::pending().await,
    }
}

/// The next state of a channel; for ever where it has ended.
async fn changed<T: Clone>(receiver: &mut watch::Receiver<T>) -> T {
    if receiver.changed().await.is_err() {
        return std::future::pending().await;
    }
    receiver.borrow_and_update().clone()
}

/// The answer of the sanity check. No answer is a failure.
async fn answered(awaited: &mut Option<(Instant, oneshot::Receiver<bool>)>) -> bool {
    match awaited {
        Some((until, answer)) => matches!(timeout_at(*until, answer).await, Ok(Ok(true))),
        None => std::future::pending().await,
    }
}
