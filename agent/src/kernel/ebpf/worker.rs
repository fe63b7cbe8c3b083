//! Attaching hooks, and what else may wait for tracefs or the kernel's perf events, on a thread of its own.
//!
//! Both take locks of the kernel that another tracer may hold for long, and a hang there must not stop the kernel task. So
//! the loader itself goes to a thread for each errand, and comes back with a report. While it is away, what is attached
//! goes on counting, and the kernel task goes on reading that.

use std::{
    future::pending,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::warn;

use super::{loader::Loader, report::HookReport};

/// 5 seconds for an errand, which takes some 50 ms; after that its delay is a blind spot.
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);
/// The name of the thread.
pub(crate) const THREAD: &str = "tocsin-hooks";

/// What goes to the thread: the loader, and in tests something that hangs.
pub(crate) trait Hooks: Send + 'static {
    /// Attaches the hooks whose tracepoints have appeared since the last attempt.
    fn attach_missing(&mut self);
    /// Removes what earlier agents have left pinned.
    fn forget_predecessors(&mut self);
    /// How the hooks stand.
    fn report(&self) -> HookReport;
}

impl Hooks for Loader {
    fn attach_missing(&mut self) {
        Self::attach_missing(self);
    }

    fn forget_predecessors(&mut self) {
        if let Some(pins) = self.pins() {
            pins.forget_predecessors();
        }
    }

    fn report(&self) -> HookReport {
        Self::report(self)
    }
}

/// The thread of an errand has died.
#[derive(Debug, thiserror::Error)]
#[error("the thread that attaches hooks has died")]
pub(crate) struct Died;

/// What is wanted of the hooks; each at most once, however often it is asked for.
#[derive(Clone, Copy, Default)]
struct Orders {
    attach: bool,
    forget: bool,
}

/// The hooks, here or on an errand.
pub(crate) struct HookWorker<T = Loader> {
    here: Option<T>,
    away: Option<Errand<T>>,
    /// For the next errand.
    orders: Orders,
}

struct Errand<T> {
    back: oneshot::Receiver<(T, HookReport)>,
    since: Instant,
}

impl<T: Hooks> HookWorker<T> {
    pub(crate) fn new(hooks: T) -> Self {
        Self { here: Some(hooks), away: None, orders: Orders::default() }
    }

    /// Has missing hooks attached.
    pub(crate) fn attach_missing(&mut self) {
        self.orders.attach = true;
        self.begin();
    }

    /// Has what earlier agents left removed.
    pub(crate) fn forget_predecessors(&mut self) {
        self.orders.forget = true;
        self.begin();
    }

    /// Sends the hooks on the next errand, unless they are on one.
    fn begin(&mut self) {
        let orders = self.orders;
        if !(orders.attach || orders.forget) {
            return;
        }
        let Some(hooks) = self.here.take() else { return };
        // The thread gets the hooks when it runs: if it cannot be started, they stay here, and attached.
        let (give, given) = mpsc::sync_channel::<T>(1);
        let (done, back) = oneshot::channel();
        let body = move || {
            let Ok(mut hooks) = given.recv() else { return };
            if orders.attach {
                hooks.attach_missing();
            }
            if orders.forget {
                hooks.forget_predecessors();
            }
            let report = hooks.report();
            let _agent_ends = done.send((hooks, report));
        };
        match thread::Builder::new().name(THREAD.into()).spawn(body) {
            Ok(_) => {
                self.orders = Orders::default();
                self.away = Some(Errand { back, since: Instant::now() });
                let _died = give.send(hooks);
            }
            Err(error) => {
                warn!(%error, "no thread to attach hooks on");
                self.here = Some(hooks);
            }
        }
    }

    /// Waits until the hooks are back from an errand, for ever if they are on none. A call that is dropped loses nothing.
    pub(crate) async fn back(&mut self) -> Result<HookReport, Died> {
        let Some(errand) = &mut self.away else { return pending().await };
        let (hooks, report) = (&mut errand.back).await.map_err(|_| Died)?;
        (self.here, self.away) = (Some(hooks), None);
        self.begin();
        Ok(report)
    }

    /// What is not known because an errand takes long. It does not say how long, which would differ each time.
    pub(crate) fn overdue(&self) -> Option<String> {
        self.overdue_after(DEADLINE)
    }

    fn overdue_after(&self, deadline: Duration) -> Option<String> {
        let is_late = self.away.as_ref().is_some_and(|errand| errand.since.elapsed() > deadline);
        is_late.then(|| {
            format!(
                "attaching kernel hooks takes more than {} s (tracefs does not answer): hooks of modules that were loaded \
                 since are missing",
                DEADLINE.as_secs()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use super::*;

    /// Hooks whose errands hang until they are let go.
    struct Hanging {
        go: mpsc::Receiver<()>,
        attached: Arc<AtomicUsize>,
        forgotten: Arc<AtomicUsize>,
    }

    impl Hooks for Hanging {
        fn attach_missing(&mut self) {
            self.go.recv().unwrap();
            self.attached.fetch_add(1, Relaxed);
        }

        fn forget_predecessors(&mut self) {
            self.forgotten.fetch_add(1, Relaxed);
        }

        fn report(&self) -> HookReport {
            HookReport::new(
                super::super::report::HookStates::new(),
                self.attached.load(Relaxed),
                vec![],
            )
        }
    }

    fn hanging() -> (HookWorker<Hanging>, mpsc::Sender<()>, [Arc<AtomicUsize>; 2]) {
        let (go, gone) = mpsc::channel();
        let (attached, forgotten) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let hooks = Hanging { go: gone, attached: attached.clone(), forgotten: forgotten.clone() };
        (HookWorker::new(hooks), go, [attached, forgotten])
    }

    #[tokio::test]
    async fn an_errand_that_hangs_holds_nobody_up_and_is_named() {
        let (mut worker, go, [attached, forgotten]) = hanging();
        assert_eq!(worker.overdue_after(Duration::ZERO), None);
        worker.attach_missing();
        // Asked for again while it hangs: none of these waits, and they become one errand.
        for _ in 0..100 {
            worker.attach_missing();
            worker.forget_predecessors();
        }
        let wait = tokio::time::timeout(Duration::from_millis(10), worker.back());
        assert!(wait.await.is_err());
        assert_eq!(worker.overdue(), None);
        let why = worker.overdue_after(Duration::ZERO).unwrap();
        assert!(why.contains("tracefs does not answer"), "{why}");
        assert_eq!([&attached, &forgotten].map(|count| count.load(Relaxed)), [0, 0]);

        go.send(()).unwrap();
        assert_eq!(worker.back().await.unwrap().pinned(), 1);
        go.send(()).unwrap();
        assert_eq!(worker.back().await.unwrap().pinned(), 2);
        assert_eq!([&attached, &forgotten].map(|count| count.load(Relaxed)), [2, 1]);
        assert_eq!(worker.overdue_after(Duration::ZERO), None);
    }

    #[tokio::test]
    async fn the_death_of_its_thread_is_told() {
        let (mut worker, go, _) = hanging();
        drop(go);
        worker.attach_missing();
        assert_eq!(worker.back().await.unwrap_err().to_string(), Died.to_string());
    }
}
