//! Supervised tasks: each has a name, and one that ends when it should not ends the process.
//!
//! A process stops in two stages. The first SIGTERM or SIGINT requests the stop: graceful tasks, such as listeners,
//! finish what they have begun and end by themselves. Background tasks, such as sources of data, go on meanwhile, so that
//! the last answers are true, and are aborted after it. A second signal, or [`STOP_LIMIT`], aborts everything at once.
//!
//! ```no_run
//! # async fn answer(stop: tocsin_runtime::tasks::Stop) {}
//! # async fn watch() -> anyhow::Result<()> { Ok(()) }
//! # async fn example() -> anyhow::Result<()> {
//! use tocsin_runtime::tasks::Tasks;
//!
//! // Before anything that takes time: a signal that comes in the meantime is not lost.
//! let mut tasks = Tasks::new()?;
//! tasks.spawn_background("watch", watch());
//! tasks.spawn_graceful("listener", answer(tasks.stop()));
//! tasks.run().await
//! # }
//! ```

use std::{any::Any, collections::HashMap, future::Future, io, time::Duration};

use anyhow::{anyhow, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::timeout,
};
use tracing::{error, info};

/// 20 seconds for graceful tasks to end after the first signal: Kubernetes kills a pod after 30 s
/// (`terminationGracePeriodSeconds`), without a word in its log.
pub const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Tells a task that the process stops.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits until a stop is requested; at once where it was.
    pub async fn requested(&self) {
        // Without its sender the tasks are gone, and this one goes too.
        let _no_sender = self.0.clone().wait_for(|stop| *stop).await.is_err();
    }

    /// Whether a stop was requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// A stop for tasks without [`Tasks`], such as those of a test: `true` in the sender, or its end, requests it.
    #[must_use]
    pub fn channel() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }
}

/// What a task may return: nothing, an error, or a [`Result`].
pub trait TaskResult: Send + 'static {
    /// The error, if it is one.
    fn error(self) -> Option<anyhow::Error>;
}

impl TaskResult for () {
    fn error(self) -> Option<anyhow::Error> {
        None
    }
}

impl TaskResult for anyhow::Error {
    fn error(self) -> Option<anyhow::Error> {
        Some(self)
    }
}

impl<E: Into<anyhow::Error> + Send + 'static> TaskResult for Result<(), E> {
    fn error(self) -> Option<anyhow::Error> {
        self.err().map(Into::into)
    }
}

/// The tasks of a process.
#[derive(Debug)]
pub struct Tasks {
    signals: Signals,
    stages: Stages,
}

impl Tasks {
    /// No tasks yet; from here on SIGTERM and SIGINT are kept for [`Self::run`].
    ///
    /// Fails where the process may not handle signals. Must be called inside a tokio runtime.
    pub fn new() -> io::Result<Self> {
        Ok(Self { signals: Signals::listen()?, stages: Stages::new() })
    }

    /// Tells when the process stops.
    #[must_use]
    pub fn stop(&self) -> Stop {
        Stop(self.stages.stop.subscribe())
    }

    /// Starts a task that ends by itself soon after [`Self::stop`], and not before.
    pub fn spawn_graceful<T: TaskResult>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        self.stages.graceful.spawn(name, task);
    }

    /// Starts a task that runs until all graceful tasks have ended, and is aborted then.
    pub fn spawn_background<T: TaskResult>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        self.stages.background.spawn(name, task);
    }

    /// Runs until a signal has ended the tasks in order (`Ok`), or a task has ended unexpectedly, panicked or did not
    /// end in time (the error names it).
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { mut signals, stages } = self;
        stages.run(async || signals.next().await).await
    }
}

/// The tasks by the stage of a stop that ends them.
#[derive(Debug)]
struct Stages {
    stop: watch::Sender<bool>,
    graceful: TaskSet,
    background: TaskSet,
}

impl Stages {
    fn new() -> Self {
        let (stop, _) = watch::channel(false);
        Self { stop, graceful: TaskSet::default(), background: TaskSet::default() }
    }

    /// `signal` waits for the next request to stop and gives its name.
    async fn run(mut self, mut signal: impl AsyncFnMut() -> &'static str) -> anyhow::Result<()> {
        let first = tokio::select! {
            name = signal() => name,
            ended = self.graceful.next() => return Err(ended.unexpected()),
            ended = self.background.next() => return Err(ended.unexpected()),
        };
        info!(signal = first, "stopping: open requests are answered first");
        self.stop.send_replace(true);
        let ended = tokio::select! {
            // A background task may end because the last graceful one has.
            biased;
            drained = timeout(STOP_LIMIT, self.graceful.drain()) => drained.map_err(|_| None),
            name = signal() => Err(Some(name)),
            ended = self.background.next() => return Err(ended.unexpected()),
        };
        let left = || self.graceful.names().join(", ");
        match ended {
            Ok(result) => result,
            Err(Some(name)) => bail!("a second signal ({name}): not waiting for {}", left()),
            Err(None) => bail!("not stopped within {} s: {}", STOP_LIMIT.as_secs(), left()),
        }
    }
}

/// Tasks of one kind.
#[derive(Debug, Default)]
struct TaskSet {
    tasks: JoinSet<Option<anyhow::Error>>,
    names: HashMap<Id, &'static str>,
}

/// A task that has ended.
struct Ended {
    name: &'static str,
    error: Option<anyhow::Error>,
    panicked: bool,
}

impl Ended {
    /// The error of a task that should have gone on.
    fn unexpected(self) -> anyhow::Error {
        let Self { name, error, panicked } = self;
        let verb = if panicked { "panicked" } else { "ended" };
        error.unwrap_or_else(|| anyhow!("it returned")).context(format!("the {name} task {verb}"))
    }
}

impl TaskSet {
    fn spawn<T: TaskResult>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        let handle = self.tasks.spawn(async move { task.await.error() });
        self.names.insert(handle.id(), name);
    }

    /// The next one to end; never, where there is none.
    async fn next(&mut self) -> Ended {
        let Some(joined) = self.tasks.join_next_with_id().await else {
            return std::future::pending().await;
        };
        let (id, error, panicked) = match joined {
            Ok((id, error)) => (id, error, false),
            Err(join) => (join.id(), Some(panic_message(join)), true),
        };
        let name = self.names.remove(&id).unwrap_or("unnamed");
        Ended { name, error, panicked }
    }

    /// Waits until all have ended. Every error is logged, and the first one is given.
    async fn drain(&mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        while !self.tasks.is_empty() {
            let ended = self.next().await;
            if ended.error.is_some() {
                let failed = ended.unexpected();
                error!(error = format!("{failed:#}"), "a task failed while it stopped");
                result = result.and(Err(failed));
            }
        }
        result
    }

    /// Names of the tasks that have not ended, sorted.
    fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.names.values().copied().collect();
        names.sort_unstable();
        names
    }
}

/// What a task panicked with.
fn panic_message(error: JoinError) -> anyhow::Error {
    let text = |panic: &(dyn Any + Send)| {
        let text = panic.downcast_ref::<&str>().copied();
        text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).map(str::to_owned)
    };
    match error.try_into_panic() {
        Ok(panic) => anyhow!(text(&*panic).unwrap_or_else(|| "without a message".to_owned())),
        Err(error) => anyhow!(error),
    }
}

/// Requests to stop.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    /// Waits for the next one and gives its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering::Relaxed},
        },
    };

    use tokio::{sync::mpsc, time::Instant};

    use super::*;

    /// Runs `stages` with the signals that are sent.
    async fn run(stages: Stages, signals: &[&'static str]) -> anyhow::Result<()> {
        let (sender, mut receiver) = mpsc::channel(4);
        for name in signals {
            sender.send(*name).await.unwrap();
        }
        stages.run(async || receiver.recv().await.unwrap()).await
    }

    fn text(result: &anyhow::Result<()>) -> String {
        result.as_ref().map_or_else(|error| format!("{error:#}"), |()| "in order".to_owned())
    }

    #[tokio::test]
    async fn an_unexpected_end_names_the_task() {
        for (graceful, expected) in
            [(true, "the a task ended: it returned"), (false, "the a task ended: out of luck")]
        {
            let mut stages = Stages::new();
            stages.background.spawn("b", pending::<()>());
            if graceful {
                stages.graceful.spawn("a", ready(()));
            } else {
                stages.background.spawn("a", ready(anyhow!("out of luck")));
            }
            assert_eq!(text(&run(stages, &[]).await), expected);
        }
        let mut stages = Stages::new();
        stages.background.spawn("a", async { assert_eq!(1, 2, "no arithmetic") });
        let found = text(&run(stages, &[]).await);
        assert!(found.starts_with("the a task panicked: ") && found.contains("no arithmetic"));
    }

    #[tokio::test]
    async fn background_tasks_go_on_until_graceful_ones_have_ended() {
        let mut stages = Stages::new();
        let (stop, alive) = (Stop(stages.stop.subscribe()), Arc::new(AtomicBool::new(true)));
        let (asked, mut questions) = mpsc::channel::<tokio::sync::oneshot::Sender<u8>>(1);
        let guard = OnDrop(alive.clone());
        stages.background.spawn("b", async move {
            let _guard = guard;
            while let Some(answer) = questions.recv().await {
                answer.send(7).unwrap();
            }
        });
        stages.graceful.spawn("a", async move {
            stop.requested().await;
            assert!(stop.is_requested());
            // What it ends with needs the other one.
            let (answer, answered) = tokio::sync::oneshot::channel();
            asked.send(answer).await?;
            answered.await?;
            pending_briefly().await;
            anyhow::Ok(())
        });
        assert_eq!(text(&run(stages, &["SIGTERM"]).await), "in order");
        while alive.load(Relaxed) {
            tokio::task::yield_now().await;
        }
    }

    struct OnDrop(Arc<AtomicBool>);

    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(false, Relaxed);
        }
    }

    async fn pending_briefly() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    #[tokio::test]
    async fn a_second_signal_waits_for_nobody() {
        let mut stages = Stages::new();
        stages.graceful.spawn("slow", pending::<()>());
        stages.graceful.spawn("also", pending::<()>());
        assert_eq!(
            text(&run(stages, &["SIGTERM", "SIGINT"]).await),
            "a second signal (SIGINT): not waiting for also, slow"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_has_an_end() {
        let mut stages = Stages::new();
        stages.graceful.spawn("slow", pending::<()>());
        let began = Instant::now();
        assert_eq!(text(&run(stages, &["SIGTERM"]).await), "not stopped within 20 s: slow");
        assert!(began.elapsed() >= STOP_LIMIT);
    }

    #[tokio::test]
    async fn a_failure_while_stopping_is_told_after_the_others_have_stopped() {
        let mut stages = Stages::new();
        let (stop, other) = (Stop(stages.stop.subscribe()), Stop(stages.stop.subscribe()));
        stages.graceful.spawn("a", async move {
            stop.requested().await;
            Err::<(), _>(anyhow!("the file is gone"))
        });
        let (done, is_done) = tokio::sync::oneshot::channel();
        stages.graceful.spawn("b", async move {
            other.requested().await;
            pending_briefly().await;
            done.send(()).unwrap();
        });
        assert_eq!(text(&run(stages, &["SIGTERM"]).await), "the a task ended: the file is gone");
        is_done.await.unwrap();
    }
}
