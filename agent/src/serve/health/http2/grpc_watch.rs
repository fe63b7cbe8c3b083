//! The stream of a gRPC `Watch`: the status now, and then every change of it.

use std::sync::Arc;

use futures_util::{Stream, stream};
use tocsin_runtime::tasks::Stop;
use tonic::Status;

use super::grpc_messages::{CheckResponse, ServingStatus};
use crate::{
    health::{Board, Changes, HealthQuery, Refused},
    serve::health::{connection_slot::ConnectionSlot, fair_limit::Held},
};

/// The check set that a service name stands for; `None` where a name in it is not that of a check.
#[must_use]
pub fn check_set(board: &Board, service: &str) -> Option<HealthQuery> {
    let mut checks: Vec<String> = Vec::new();
    for name in service.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        board.check(name)?;
        if checks.iter().all(|other| other != name) {
            checks.push(name.to_owned());
        }
    }
    // "," names nothing, and is not the default set either.
    (service.is_empty() || !checks.is_empty())
        .then(|| HealthQuery { checks, ..HealthQuery::default() })
}

/// The status of a check set, once every probe in it has a result.
pub async fn status(board: &Board, question: &HealthQuery) -> ServingStatus {
    match board.ask(question).await {
        Ok(answer) => ServingStatus::of(answer.is_ready()),
        Err(Refused::NoNodeName(_) | Refused::TooMany | Refused::NoName) => ServingStatus::Unknown,
    }
}

/// The state of one watch.
struct Watch {
    board: Board,
    changes: Changes,
    /// `None` where there is no such check: then the status never changes.
    question: Option<HealthQuery>,
    sent: Option<ServingStatus>,
    stop: Stop,
    /// The connection, which is spared while it has a watch.
    slot: Arc<ConnectionSlot>,
    held: Held,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.slot.watch_closed();
    }
}

/// The statuses of a service until the agent stops or the watch is evicted.
pub fn watch(
    board: Board,
    service: &str,
    slot: Arc<ConnectionSlot>,
    held: Held,
    stop: Stop,
) -> impl Stream<Item = Result<CheckResponse, Status>> + Send + use<> {
    let question = check_set(&board, service);
    let changes = board.changes();
    slot.watch_opened();
    let watch = Watch { board, changes, question, sent: None, stop, slot, held };
    stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        let next = watch.next().await;
        let goes_on = next.is_ok().then_some(watch);
        Some((next, goes_on))
    })
}

impl Watch {
    async fn next(&mut self) -> Result<CheckResponse, Status> {
        let Self { board, changes, question, sent, stop, held, .. } = self;
        tokio::select! {
            biased;
            () = stop.requested() => Err(Status::unavailable("the agent is stopping")),
            () = held.evicted() => {
                Err(Status::resource_exhausted("too many watches, and most of them here"))
            }
            status = changed_status(board, changes, question.as_ref(), sent) => Ok(status.into()),
        }
    }
}

/// The next status that differs from the one that was sent.
async fn changed_status(
    board: &Board,
    changes: &mut Changes,
    question: Option<&HealthQuery>,
    sent: &mut Option<ServingStatus>,
) -> ServingStatus {
    loop {
        // Changes are marked as seen before the status is read, so that none is lost between the two.
        let _any = changes.any();
        let now = match question {
            Some(question) => status(board, question).await,
            None => ServingStatus::ServiceUnknown,
        };
        if sent.replace(now) != Some(now) {
            return now;
        }
        changes.wait().await;
    }
}
