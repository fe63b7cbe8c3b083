//! The threads, and who is let in.

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send},
    process::setpriority_process,
};
use socket2::{SockRef, TcpKeepalive};
use tocsin_runtime::{fd, tasks::Stop};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use super::{
    answers::Answers,
    connections::{Counts, Seat, Table},
    http1::{self, Below, End},
    http2,
    page::Answered,
    rewind::Rewind,
    route::Router,
    watches::Watches,
};
use crate::{
    serve::health::settings,
    serve::{
        BACKLOG, accept_failed,
        agent_check::{self, AgentCheck},
        bind, bind_beside,
    },
};

/// What the listener is made of.
#[derive(Clone)]
pub struct Settings {
    /// Where the pages come from.
    pub router: Router,
    /// Connections of all threads, at most.
    pub connections: usize,
    /// TLS, beside plain text on the same port.
    pub tls: Option<TlsAcceptor>,
    /// What is counted.
    pub counts: Arc<Counts>,
    /// The same.
    pub answered: Arc<Answered>,
    /// `HAProxy`'s agent-check, on the other port.
    pub agent_check: Arc<AgentCheck>,
}

/// What the connections of one thread share.
pub struct Door {
    began: Instant,
    draining: AtomicBool,
    pub(super) answers: Answers,
    pub(super) answered: Arc<Answered>,
    pub(super) watches: Arc<Watches>,
    tls: Option<TlsAcceptor>,
    /// Connections that there are.
    open: Arc<AtomicUsize>,
    /// Whether somebody is about to give memory back.
    cleaning: AtomicBool,
}

impl Door {
    /// Microseconds since it opened.
    pub fn microseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }

    /// Gives memory back when the crowd has gone: the C library keeps what many small allocations leave behind in
    /// pieces.
    pub fn clean_up(self: &Arc<Self>) {
        if self.cleaning.swap(true, Relaxed) {
            return;
        }
        let door = self.clone();
        tokio::spawn(async move {
            sleep(settings::CLEAN_UP).await;
            while door.open.load(Relaxed) > settings::CROWD / 4 {
                sleep(settings::CLEAN_UP).await;
            }
            door.cleaning.store(false, Relaxed);
            #[cfg(target_env = "gnu")]
            // SAFETY: it takes the allocator's own locks, and moves nothing that is in use.
            let _whether_there_was_any = unsafe { libc::malloc_trim(0) };
        });
    }

    /// Whether no further request is wanted.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }
}

/// Ports that are taken, and not open yet.
#[derive(Debug)]
pub struct Listeners {
    health: Vec<TcpSocket>,
    agent_check: Vec<TcpSocket>,
}

impl Listeners {
    /// Takes both ports, each as often as there are threads.
    pub fn bind(
        threads: usize,
        health: SocketAddr,
        agent_check: SocketAddr,
    ) -> Result<Self, (&'static str, SocketAddr, io::Error)> {
        let several = |name, addr| several(threads, addr).map_err(|error| (name, addr, error));
        Ok(Self {
            health: several("health listener", health)?,
            agent_check: several("agent-check listener", agent_check)?,
        })
    }
}

/// A door that answers from `router`, and a seat at it.
#[cfg(test)]
#[must_use]
pub fn door(router: Router) -> (Arc<Door>, Arc<Seat>) {
    let began = Instant::now();
    let mut table = Table::new(1, began, Arc::default());
    let door = Arc::new(Door {
        began,
        draining: AtomicBool::new(false),
        answers: Answers::new(router),
        answered: Arc::default(),
        watches: Arc::default(),
        tls: None,
        open: table.open(),
        cleaning: AtomicBool::new(false),
    });
    (door, table.take())
}

fn several(threads: usize, addr: SocketAddr) -> io::Result<Vec<TcpSocket>> {
    // The first one alone finds out whether the port is somebody else's: `SO_REUSEPORT` would share it.
    let first = bind(addr)?;
    first.set_reuseport(true)?;
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..threads {
        sockets.push(bind_beside(addr)?);
    }
    for socket in &sockets {
        let socket = SockRef::from(socket);
        // Connections inherit both. An answer is one small segment: waiting for more to send would only delay it.
        socket.set_tcp_nodelay(true)?;
        // A load balancer that lost its power leaves no open connection behind for long.
        let keepalive = TcpKeepalive::new()
            .with_time(settings::KEEPALIVE_IDLE)
            .with_interval(settings::KEEPALIVE_INTERVAL)
            .with_retries(settings::KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    Ok(sockets)
}

/// Leaves a connection with the kernel until its first byte is there, [`settings::DEFER_ACCEPT`] at most: nearly all of
/// them are then answered as they are accepted, and one that never asks anything costs no more than that.
fn defer_accept(listener: &TcpSocket) -> io::Result<()> {
    let seconds = libc::c_int::try_from(settings::DEFER_ACCEPT.as_secs()).unwrap_or(1);
    let size = libc::socklen_t::try_from(size_of_val(&seconds)).unwrap_or_default();
    // SAFETY: the pointer is to an integer that outlives the call, and `size` is that integer's.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The threads.
#[derive(Debug)]
pub struct Threads {
    ended: mpsc::Receiver<()>,
    /// Where the health listener is.
    pub health: SocketAddr,
    /// Where the agent-check is.
    pub agent_check: SocketAddr,
}

impl Threads {
    /// Ends when one of them does: after a stop, when all of them have.
    pub async fn run(mut self, stop: Stop) {
        let _one_ended = self.ended.recv().await;
        if stop.is_requested() {
            while self.ended.recv().await.is_some() {}
        }
    }
}

/// Opens the ports, and answers until `stop`.
pub fn open(listeners: Listeners, settings: &Settings, stop: &Stop) -> io::Result<Threads> {
    let Listeners { health, agent_check } = listeners;
    let count = health.len();
    let began = Instant::now();
    let watches = Arc::<Watches>::default();
    let (ends, ended) = mpsc::channel(count);
    let (health_addr, agent_check_addr) = match (health.first(), agent_check.first()) {
        (Some(health), Some(agent_check)) => (health.local_addr()?, agent_check.local_addr()?),
        _ => return Err(io::Error::other("no thread for the health listener")),
    };
    for (number, (health, agent_check)) in health.into_iter().zip(agent_check).enumerate() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if let Err(error) = defer_accept(&health) {
            debug!(%error, "connections are accepted before their first byte");
        }
        let (health, agent_check) = {
            let _to_register_with = runtime.enter();
            let health = OwnedFd::from(health.listen(BACKLOG)?.into_std()?);
            (fd::watch(health, Interest::READABLE)?, agent_check.listen(BACKLOG)?)
        };
        let table =
            Table::new(settings.connections.div_ceil(count), began, settings.counts.clone());
        let door = Arc::new(Door {
            began,
            draining: AtomicBool::new(false),
            answers: Answers::new(settings.router.clone()),
            answered: settings.answered.clone(),
            watches: watches.clone(),
            tls: settings.tls.clone(),
            open: table.open(),
            cleaning: AtomicBool::new(false),
        });
        let (answers, stop, ends) = (settings.agent_check.clone(), stop.clone(), ends.clone());
        let both = async move {
            // As tasks among the others: what is polled beside them would have its turn before all of them.
            let agent_check = tokio::spawn(agent_check::run(agent_check, answers, stop.clone()));
            let mut health = tokio::spawn(run(health, door, table, stop));
            tokio::select! {
                ended = &mut health => ended,
                ended = agent_check => match ended {
                    // At a stop.
                    Ok(()) => health.await,
                    panicked => panicked,
                },
            }
        };
        thread::Builder::new().name(format!("tocsin-health{number}")).spawn(move || {
            // A host with more to do than it can is still one to send traffic to: its answers must not come too late.
            // Without the right to it, they have their turn like everybody else.
            let _like_everybody_else = setpriority_process(None, settings::HEALTH_NICE);
            if let Err(panicked) = runtime.block_on(both) {
                error!(error = %panicked, "the health listener");
            }
            let _nobody_waits = ends.try_send(());
        })?;
    }
    Ok(Threads { ended, health: health_addr, agent_check: agent_check_addr })
}

/// Waits for the next connection, and does not put it into epoll's set yet: many are over before that would pay.
async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    loop {
        let mut ready = listener.readable().await?;
        match accept_now(listener) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            accepted => return accepted,
        }
    }
}

fn accept_now(listener: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    Ok(accept_with(listener.get_ref(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}

/// What there is to read of a connection at once. Who is gone, or is answered and has nothing more to ask, costs no
/// more than this: a flood of those is dealt with as fast as the kernel lets them in.
fn first_look(socket: OwnedFd, door: &Door) -> Option<First> {
    let mut space = [MaybeUninit::<u8>::uninit(); settings::HEADER_BYTES];
    let read = match recv(&socket, &mut space, RecvFlags::DONTWAIT) {
        Ok((([], _), _)) => return None,
        Ok(((read, _), _)) => &*read,
        Err(Errno::AGAIN) => &[],
        Err(_) => return None,
    };
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let mut unsent = Vec::new();
    if let Some(mut answer) = http1::at_once(read, door) {
        let sent = match send(&socket, &answer, flags) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(_) => return None,
        };
        answer.drain(..sent);
        if answer.is_empty() {
            return None;
        }
        unsent = answer;
    }
    let stream = std::net::TcpStream::from(socket);
    let stream = TcpStream::from_std(stream).inspect_err(|error| warn!(%error, "epoll")).ok()?;
    Some(First { stream, read: read.to_vec(), unsent })
}

/// A connection, after the first look at it.
struct First {
    stream: TcpStream,
    read: Vec<u8>,
    /// Of the only answer there will be.
    unsent: Vec<u8>,
}

async fn run(listener: AsyncFd<OwnedFd>, door: Arc<Door>, mut table: Table, stop: Stop) {
    let mut let_in = |socket: OwnedFd| {
        let Some(first) = first_look(socket, &door) else { return };
        let seat = table.take();
        let weak = Arc::downgrade(&seat);
        let task = tokio::spawn(connection(first, seat, door.clone(), stop.clone()));
        table.seated(weak, task.abort_handle());
        if door.open.load(Relaxed) > settings::CROWD {
            door.clean_up();
        }
    };
    let mut stopping = std::pin::pin!(stop.requested());
    for turn in 1_u64.. {
        tokio::select! {
            biased;
            () = stopping.as_mut() => break,
            accepted = accept(&listener) => match accepted {
                Ok(socket) => let_in(socket),
                Err(error) => accept_failed("health", &error).await,
            },
        }
        if turn.is_multiple_of(settings::ACCEPTS) {
            tokio::task::yield_now().await;
        }
    }
    // Whoever the kernel has let in already is answered.
    while let Ok(socket) = accept_now(&listener) {
        let_in(socket);
    }
    drop(listener);
    door.draining.store(true, Relaxed);
    // A moment for requests that are on their way.
    sleep(settings::DRAIN_LULL).await;
    let deadline = Instant::now() + settings::DRAIN;
    while table.end_idle() > 0 {
        if Instant::now() >= deadline {
            warn!(listener = "health", "connections did not end in time");
            return;
        }
        sleep(settings::DRAIN_LULL).await;
    }
}

/// One connection, whatever is spoken on it. What is rare is boxed, so that what is common stays small.
async fn connection(first: First, seat: Arc<Seat>, door: Arc<Door>, stop: Stop) {
    let First { stream, read, unsent } = first;
    if !unsent.is_empty() {
        return http1::finish(stream, &unsent, &seat, &door).await;
    }
    let below = if door.tls.is_some() { Below::TcpOrTls } else { Below::Tcp };
    match http1::converse(stream, read, below, &seat, &door).await {
        End::Closed => {}
        End::Http2(stream, read) => {
            Box::pin(http2::converse(Rewind::new(read, stream), seat, door, stop)).await;
        }
        End::Tls(stream, read) => Box::pin(tls(Rewind::new(read, stream), seat, door, stop)).await,
    }
}

async fn tls(stream: Rewind<TcpStream>, seat: Arc<Seat>, door: Arc<Door>, stop: Stop) {
    let Some(acceptor) = door.tls.clone() else { return };
    let stream = match timeout(settings::HEADER_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "no TLS"),
        Err(_) => return seat.timed_out(),
    };
    let conversation = http1::converse(stream, Vec::new(), Below::Tls, &seat, &door);
    if let End::Http2(stream, read) = conversation.await {
        http2::converse(Rewind::new(read, stream), seat, door, stop).await;
    }
}
