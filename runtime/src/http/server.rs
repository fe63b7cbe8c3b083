//! The server: accepts, serves each connection in a task of its own, and stops in order.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Instant,
};

use hyper::{
    Request,
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, error, warn};

use super::{
    activity::{Activity, Observed},
    connections::{ConnectionCounts, Connections, Slot},
    listener::{Listener, Peer, Transport, accept_failed},
    reply::{Body, Reply},
    settings::Settings,
};
use crate::{tasks::Stop, tls::Acceptor};

type Handler =
    dyn Fn(Request<Incoming>, Peer) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync;

/// A listener's settings, its handler and its counters.
#[derive(Clone)]
pub struct Server {
    settings: Arc<Settings>,
    handler: Arc<Handler>,
    tls: Option<Acceptor>,
    counts: Arc<ConnectionCounts>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, handler: _, tls, counts } = self;
        f.debug_struct("Server")
            .field("settings", settings)
            .field("tls", tls)
            .field("counts", counts)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server that answers each request with what `handler` gives.
    ///
    /// The handler gets the request, whose body is not read yet ([`read_body`](super::read_body)), and the peer. It has no
    /// deadline: it answers from memory, or keeps one itself. It is dropped when the client closes the connection.
    pub fn new<H, F>(settings: Settings, handler: H) -> Self
    where
        H: Fn(Request<Incoming>, Peer) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        Self {
            settings: Arc::new(settings),
            handler: Arc::new(move |request, peer| Box::pin(handler(request, peer))),
            tls: None,
            counts: Arc::default(),
        }
    }

    /// Speaks TLS, and nothing else.
    #[must_use]
    pub fn with_tls(self, acceptor: Acceptor) -> Self {
        Self { tls: Some(acceptor), ..self }
    }

    /// The connections, for metrics.
    #[must_use]
    pub fn counts(&self) -> Arc<ConnectionCounts> {
        self.counts.clone()
    }

    /// Answers until `stop`, and then ends in two stages. First, connections that the kernel has accepted are let in,
    /// requests that have begun are answered, streams end and idle connections are closed. Then, after
    /// [`Settings::drain`], the remaining connections are aborted.
    pub async fn run(self, listener: Listener, stop: Stop) {
        let name = self.settings.name;
        let mut tasks = JoinSet::new();
        let mut connections = Connections::new(self.settings.connections, self.counts.clone());
        let mut let_in = |tasks: &mut JoinSet<()>, (transport, peer)| {
            let slot = connections.slot();
            let weak = Arc::downgrade(&slot);
            let task = tasks.spawn(self.clone().connection(transport, peer, slot, stop.clone()));
            connections.add(weak, task);
        };
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => break,
                // Reaped here, so that the set does not grow.
                Some(ended) = tasks.join_next() => log_panic(name, ended),
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => let_in(&mut tasks, accepted),
                    Err(error) => accept_failed(name, &error).await,
                },
            }
        }
        for _ in 0..self.settings.connections {
            let Some(accepted) = listener.accept_now() else { break };
            let_in(&mut tasks, accepted);
        }
        drop(listener);
        let drain = async {
            while let Some(ended) = tasks.join_next().await {
                log_panic(name, ended);
            }
        };
        if timeout(self.settings.drain, drain).await.is_err() {
            let left = tasks.len();
            warn!(listener = name, connections = left, "connections did not end in time");
        }
    }

    async fn connection(
        self,
        transport: Box<dyn Transport>,
        peer: Peer,
        slot: Arc<Slot>,
        stop: Stop,
    ) {
        let Some(acceptor) = &self.tls else {
            return self.http(transport, peer, slot, stop).await;
        };
        let handshake = tokio::select! {
            handshake = acceptor.accept(transport, self.settings.header_timeout) => handshake,
            // Nothing was asked yet.
            () = stop.requested() => return,
        };
        match handshake {
            Ok(stream) => self.http(Box::new(stream), peer, slot, stop).await,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => self.timed_out(),
            Err(error) => debug!(listener = self.settings.name, %error, "no TLS"),
        }
    }

    fn timed_out(&self) {
        self.counts.timed_out.fetch_add(1, Relaxed);
        debug!(listener = self.settings.name, "a connection has timed out");
    }

    async fn http(&self, transport: Box<dyn Transport>, peer: Peer, slot: Arc<Slot>, stop: Stop) {
        let activity = &slot.activity;
        let service = service_fn(|request| {
            activity.begin_answer();
            let answering = Answering(activity.clone());
            let (reply, stop) = ((self.handler)(request, peer), stop.clone());
            async move {
                let reply = reply.await;
                Ok::<_, Infallible>(reply.map(|body| ObservedBody::new(body, answering, stop)))
            }
        });
        let transport = TokioIo::new(Observed::new(transport, activity.clone()));
        let mut connection = pin!(
            http1::Builder::new()
                // The deadlines are those of `Activity`.
                .header_read_timeout(None)
                .max_buf_size(self.settings.header_bytes)
                // A client may shut down its half after the request.
                .half_close(true)
                .serve_connection(transport, service)
        );
        let mut stopping = pin!(stop.requested());
        let mut timer = pin!(sleep(self.settings.idle_timeout));
        let mut stopped = None;
        let end = poll_fn(|cx| {
            if stopped.is_none() && stopping.as_mut().poll(cx).is_ready() {
                stopped = Some(Instant::now());
            }
            if stopped.is_some() && !activity.is_between_requests() {
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(End::Closed(result));
            }
            let Some((deadline, end)) = deadline(activity, &self.settings, stopped) else {
                return Poll::Pending;
            };
            if timer.deadline() != deadline.into() {
                timer.as_mut().reset(deadline.into());
            }
            timer.as_mut().poll(cx).map(|()| end)
        });
        match end.await {
            End::Closed(Ok(())) | End::Idle => {}
            End::Closed(Err(error)) => debug!(%error, "a connection ended"),
            End::TimedOut => self.timed_out(),
        }
    }
}

fn log_panic(listener: &'static str, ended: Result<(), JoinError>) {
    // Aborted to make room for another one otherwise.
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(listener, %error, "a connection's task panicked");
    }
}

/// How a connection ends.
enum End {
    /// By itself.
    Closed(Result<(), hyper::Error>),
    /// No request came in time, and none was on its way.
    Idle,
    /// A request was not complete in time, or its answer was not taken in time.
    TimedOut,
}

/// When a connection ends unless something happens before, and how.
fn deadline(
    activity: &Activity,
    settings: &Settings,
    stopped: Option<Instant>,
) -> Option<(Instant, End)> {
    let deadline = activity.deadline(settings);
    if !activity.is_idle() {
        return deadline.map(|at| (at, End::TimedOut));
    }
    let lull = stopped.map(|at| at + settings.drain_lull);
    deadline.into_iter().chain(lull).min().map(|at| (at, End::Idle))
}

/// Notes the end of an answer, whole or not, when it is dropped.
struct Answering(Arc<Activity>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.end_answer();
    }
}

/// The body of an answer that is being written.
struct ObservedBody {
    body: Body,
    /// For a stream, which would go on for ever.
    stop: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    _answering: Answering,
}

impl ObservedBody {
    fn new(body: Body, answering: Answering, stop: Stop) -> Self {
        let stop = body.is_stream().then(|| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            Box::pin(async move { stop.requested().await })
        });
        Self { body, stop, _answering: answering }
    }
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
