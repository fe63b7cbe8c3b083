//! Publishes the kernel's faults in the cluster: conditions of the Node, and events about it.
//!
//! Conditions are a level, made of the fault view; events are edges, made of the stream of fault changes. At most one
//! write of conditions is made a second, and one event for each kind of fault and direction; fewer while writes fail.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use kube::Client;
use tokio::{
    sync::{
        broadcast::{
            self,
            error::{RecvError, TryRecvError},
        },
        mpsc, watch,
    },
    time::sleep_until,
};
use tracing::warn;

use super::{
    condition_state::{ConditionAction, ConditionState},
    conditions::desired,
    event_recorder::{EventRecorder, Notice},
    settings,
    stats::ApiStats,
    write_backoff::WriteBackoff,
    writer::{WriteError, Writer},
};
use crate::{
    checks::{CheckContext, Policy},
    model::{ApiState, FaultChange, FaultView, Node, NodeView},
};

/// What there is to publish. Both receivers of faults must be made before the kernel task starts, so that the stream
/// begins with the first change.
#[derive(Debug)]
pub struct FaultFeed {
    /// What is open now.
    pub view: watch::Receiver<Arc<FaultView>>,
    /// What opened and closed.
    pub changes: broadcast::Receiver<FaultChange>,
    /// What else is worth an event; [`settings::NOTICES`] wait at most.
    pub notices: mpsc::Receiver<Notice>,
}

/// What the session publishes.
pub(super) struct SessionFeed {
    /// The Node as the watch shows it.
    pub(super) node: watch::Receiver<Arc<NodeView>>,
    /// The client for writes; none while there is no watch.
    pub(super) client: watch::Receiver<Option<Client>>,
}

/// The task that writes.
pub(super) struct Publisher {
    node_name: String,
    policy: Arc<Policy>,
    faults: FaultFeed,
    session: SessionFeed,
    stats: Arc<ApiStats>,
    conditions: ConditionState,
    events: EventRecorder,
    /// Failing writes of conditions do not delay events, nor the other way round.
    condition_backoff: WriteBackoff,
    event_backoff: WriteBackoff,
}

impl Publisher {
    /// A publisher of `faults` to that Node.
    pub(super) fn new(
        node_name: String,
        policy: Arc<Policy>,
        faults: FaultFeed,
        session: SessionFeed,
        stats: Arc<ApiStats>,
    ) -> Self {
        Self {
            node_name,
            policy,
            faults,
            session,
            stats,
            conditions: ConditionState::default(),
            events: EventRecorder::default(),
            condition_backoff: WriteBackoff::new("the Node's conditions"),
            event_backoff: WriteBackoff::new("events"),
        }
    }

    /// Writes what is due, until one of the tasks that it reads from has ended.
    pub(super) async fn run(mut self) {
        // The kernel task has not looked at the host before its first view.
        if self.faults.view.changed().await.is_err() {
            return;
        }
        loop {
            let wake = self.write_due().await;
            tokio::select! {
                changed = self.faults.view.changed() => if changed.is_err() { return },
                changed = self.session.node.changed() => if changed.is_err() { return },
                changed = self.session.client.changed() => if changed.is_err() { return },
                Some(notice) = self.faults.notices.recv() => self.events.notice(notice),
                received = self.faults.changes.recv() => match received {
                    Ok(change) => self.events.record(&change),
                    Err(RecvError::Lagged(missed)) => self.recover(missed),
                    Err(RecvError::Closed) => return,
                },
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Writes what is due; gives the time of the next write.
    async fn write_due(&mut self) -> Instant {
        // Also without a client: the stream is bounded, and what it holds would be lost.
        self.read_changes();
        let kernel = self.faults.view.borrow_and_update().clone();
        let client = self.session.client.borrow_and_update().clone();
        let view = self.session.node.borrow_and_update().clone();
        let node = match (&view.api, &view.last) {
            (ApiState::Up, Some(observation)) => observation.node.as_ref(),
            _ => None,
        };
        let (Some(client), Some(node)) = (client, node) else {
            // A client or a Node wakes this task.
            return Instant::now() + settings::PUBLISH_HEARTBEAT;
        };
        let node_name = self.node_name.clone();
        let writer = Writer { client, node_name: &node_name, node_uid: &node.uid };
        let conditions = self.write_conditions(&writer, kernel, node).await;
        let events = self.write_events(&writer).await;
        events.map_or(conditions, |events| events.min(conditions))
    }

    /// Writes the Node's conditions if they are due; gives the time at which they may be due again.
    async fn write_conditions(
        &mut self,
        writer: &Writer<'_>,
        kernel: Arc<FaultView>,
        node: &Node,
    ) -> Instant {
        // The conditions rest on the kernel side alone.
        let context = CheckContext::new(self.policy.clone(), Instant::now());
        let desired = desired(&CheckContext { kernel, ..context });
        let now = Instant::now();
        let conditions = match self.conditions.action(&desired, node, now, SystemTime::now()) {
            ConditionAction::WaitUntil(at) => return at,
            ConditionAction::Write(_) if now < self.condition_backoff.earliest() => {
                return self.condition_backoff.earliest();
            }
            ConditionAction::Write(conditions) => conditions,
        };
        let result = writer.conditions(&conditions).await;
        if result.is_ok() {
            self.conditions.wrote(&desired, Instant::now());
        }
        self.stats.count_condition_write(result.is_ok());
        self.condition_backoff.wrote(result.as_ref().map(drop));
        self.condition_backoff.earliest()
    }

    /// Writes the events that wait: one for each kind of fault and direction at most. Gives the time of the next write,
    /// if events still wait.
    async fn write_events(&mut self, writer: &Writer<'_>) -> Option<Instant> {
        self.events.next(Instant::now())?;
        if Instant::now() >= self.event_backoff.earliest() {
            self.write_waiting_events(writer).await;
        }
        self.events.next(Instant::now()).map(|_| self.event_backoff.earliest())
    }

    async fn write_waiting_events(&mut self, writer: &Writer<'_>) {
        loop {
            // What opened or closed during the last write, which may have taken two seconds.
            self.read_changes();
            let Some(event) = self.events.next(Instant::now()) else { return };
            let result = writer.event(&event).await;
            self.stats.count_event_write(result.is_ok());
            self.event_backoff.wrote(result.as_ref().map(drop));
            match (result, &event.series) {
                (Ok(name), _) => self.events.wrote(&event, name, Instant::now()),
                // The API keeps an event for an hour, and may refuse to change it: then a new one is written.
                (Err(WriteError { is_refused: true, .. }), Some(series)) => {
                    return self.events.forget(&series.name);
                }
                // The other events come first, then.
                (Err(_), _) => return self.events.postpone(&event),
            }
        }
    }

    /// Takes in every change of the stream that has arrived.
    fn read_changes(&mut self) {
        loop {
            match self.faults.changes.try_recv() {
                Ok(change) => self.events.record(&change),
                Err(TryRecvError::Lagged(missed)) => self.recover(missed),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// Goes on after a gap in the stream: the view shows what is open.
    fn recover(&mut self, missed: u64) {
        warn!(
            missed,
            "fault changes were not read in time: a fault that opened and closed meanwhile leaves no event"
        );
        self.stats.count_missed_changes(missed);
        self.events.resync(&self.faults.view.borrow());
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http_body_util::BodyExt;
    use hyper::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;
    use tokio::{
        sync::{Semaphore, mpsc},
        time::timeout,
    };

    use super::*;
    use crate::{
        checks::tests::fault,
        model::{Fault, FaultKind, NodeObservation, Scope, Transition},
    };

    /// A publisher that runs, and its surroundings: the kernel task, the session and an API server that answers a write
    /// only when it may.
    struct Scene {
        view: watch::Sender<Arc<FaultView>>,
        changes: broadcast::Sender<FaultChange>,
        answers: Arc<Semaphore>,
        writes: mpsc::UnboundedReceiver<Value>,
        stats: Arc<ApiStats>,
        _session: (watch::Sender<Arc<NodeView>>, watch::Sender<Option<Client>>),
    }

    impl Scene {
        fn start(capacity: usize) -> Self {
            let (view, view_seen) = watch::channel(Arc::default());
            let (changes, changes_seen) = broadcast::channel(capacity);
            let (answers, (sent, writes)) =
                (Arc::new(Semaphore::new(0)), mpsc::unbounded_channel());
            let last = NodeObservation { at: SystemTime::UNIX_EPOCH, node: Some(Node::default()) };
            let node = NodeView { api: ApiState::Up, last: Some(last) };
            let (node, node_seen) = watch::channel(Arc::new(node));
            let (client, client_seen) = watch::channel(Some(server(sent, answers.clone())));
            let (_nobody, notices) = mpsc::channel(1);
            let faults = FaultFeed { view: view_seen, changes: changes_seen, notices };
            let session = SessionFeed { node: node_seen, client: client_seen };
            let stats = Arc::<ApiStats>::default();
            let publisher =
                Publisher::new("n".into(), Arc::default(), faults, session, stats.clone());
            tokio::spawn(publisher.run());
            Self { view, changes, answers, writes, stats, _session: (node, client) }
        }

        /// Publishes a view with these faults and the change that led to it, as the kernel task does.
        fn publish(&self, open: &[u32], transition: Transition, changed: u32) {
            let sequence = self.view.borrow().sequence + 1;
            let faults = open.iter().copied().map(numbered).collect();
            self.view.send_replace(Arc::new(FaultView {
                faults,
                sequence,
                ..FaultView::default()
            }));
            let (at, fault) = (SystemTime::now(), Arc::new(numbered(changed)));
            self.changes.send(FaultChange { sequence, at, transition, fault }).unwrap();
        }

        /// The body of the next write.
        async fn write(&mut self) -> Value {
            timeout(Duration::from_mins(1), self.writes.recv()).await.unwrap().unwrap()
        }

        /// The notes of that many events.
        async fn notes(&mut self, count: usize) -> Vec<String> {
            let mut notes = Vec::new();
            while notes.len() < count {
                notes.extend(self.write().await["note"].as_str().map(str::to_owned));
            }
            notes
        }
    }

    fn numbered(number: u32) -> Fault {
        let (id, reason) = (format!("io_error-7:{number}"), format!("loop{number}: EIO"));
        Fault { id, reason, ..fault(FaultKind::IoError, Scope::Host) }
    }

    /// A client of an API server that sends on what is written, and takes it when it has a permit.
    fn server(sent: mpsc::UnboundedSender<Value>, answers: Arc<Semaphore>) -> Client {
        let service = tower::service_fn(move |request: Request<Body>| {
            let (sent, answers) = (sent.clone(), answers.clone());
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                sent.send(serde_json::from_slice(&body).unwrap()).unwrap();
                answers.acquire().await.unwrap().forget();
                let object = r#"{"metadata":{"name":"n"},"spec":{}}"#;
                Ok::<_, Infallible>(Response::new(Body::from(object.as_bytes().to_vec())))
            }
        });
        Client::new(service, "default")
    }

    #[tokio::test]
    async fn a_fault_that_opens_and_closes_during_a_write_leaves_two_events() {
        let mut scene = Scene::start(16);
        scene.publish(&[1], Transition::Opened, 1);
        let conditions = scene.write().await["status"]["conditions"].clone();
        assert_eq!(conditions[1]["status"], "True", "{conditions}");
        // The write is under way.
        scene.publish(&[1, 2], Transition::Opened, 2);
        scene.publish(&[1], Transition::Closed, 2);
        scene.answers.add_permits(16);
        let expected = ["2 faults: loop1: EIO; loop2: EIO", "no longer: loop2: EIO"];
        assert_eq!(scene.notes(2).await, expected);
        // The same during the write of an event.
        scene.answers.forget_permits(16);
        scene.publish(&[1, 3], Transition::Opened, 3);
        assert_eq!(scene.notes(1).await, ["loop3: EIO"]);
        scene.publish(&[1, 3, 4], Transition::Opened, 4);
        scene.publish(&[1, 3], Transition::Closed, 4);
        scene.answers.add_permits(16);
        assert_eq!(scene.notes(2).await, ["loop4: EIO", "no longer: loop4: EIO"]);
        assert_eq!(scene.stats.missed_changes(), 0);
    }

    #[tokio::test]
    async fn changes_that_were_not_read_in_time_are_counted_and_what_is_open_is_told() {
        let mut scene = Scene::start(4);
        scene.publish(&[1], Transition::Opened, 1);
        let _conditions = scene.write().await;
        for number in [2, 3] {
            scene.publish(&[1, number], Transition::Opened, number);
            scene.publish(&[1], Transition::Closed, number);
        }
        scene.publish(&[], Transition::Closed, 1);
        scene.publish(&[4], Transition::Opened, 4);
        scene.publish(&[4], Transition::Updated, 4);
        scene.answers.add_permits(16);
        let expected = ["2 faults: loop1: EIO; loop4: EIO", "no longer: loop1: EIO"];
        let mut notes = scene.notes(2).await;
        notes.sort();
        assert_eq!(notes, expected);
        assert_eq!(scene.stats.missed_changes(), 3);
    }
}
