//! Blocking calls that may never return, each with a deadline.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::yield_now, time::timeout_at};

/// 30 seconds that an idle thread waits for its next call: an agent whose probes run every second keeps its thread, and an
/// agent without probes has none half a minute after its last call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// 2 milliseconds that a call waits behind another one on the same thread, ten times what a healthy call takes. Then it
/// gets another thread.
const TURN: Duration = Duration::from_millis(2);

/// Why a blocking call gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// It did not return within its deadline; its thread goes on waiting.
    #[error("no answer in time")]
    Late,
    /// An earlier call with the same name was made this long ago and has not returned. (The message does not say how
    /// long: it would differ each time.)
    #[error("an earlier attempt is still stuck")]
    Still(Duration),
    /// No thread could be started.
    #[error("no thread to run it on")]
    NoThread,
}

/// Runs calls that may hang in the kernel (anything that touches a disk) on separate threads, each with a deadline and
/// never two of the same name at once: a disk that hangs for a day costs one thread.
///
/// Starting a thread costs more than most calls, and so does waking several at once. So calls that are made together
/// take turns on one thread, which stays for the next calls. If one call takes long, the others move to another thread.
#[derive(Clone, Debug, Default)]
pub struct Bounded {
    /// When each running call began, by its name.
    running: Arc<Mutex<BTreeMap<String, Instant>>>,
    workers: Arc<Workers>,
}

impl Bounded {
    /// Runs `call` under that name on another thread, and waits for its result for at most `deadline`.
    pub async fn run<T: Send + 'static>(
        &self,
        name: String,
        deadline: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        match lock(&self.running).entry(name.clone()) {
            Entry::Occupied(since) => return Err(Stuck::Still(since.get().elapsed())),
            Entry::Vacant(entry) => drop(entry.insert(Instant::now())),
        }
        let (sender, mut receiver) = oneshot::channel();
        let guard = Running { running: self.running.clone(), name };
        let job = Box::new(move || {
            let result = call();
            // Leaves the list first, so that the receiver of the result can make the same call again at once.
            drop(guard);
            let _nobody_waits = sender.send(result);
        });
        let ticket = self.workers.queue(job);
        let _unless_taken = Queued { workers: &self.workers, ticket };
        let end = Instant::now() + deadline;
        // Calls that are made together wake one thread, once.
        yield_now().await;
        let mut waits = self.workers.wake(ticket);
        loop {
            let limit = match waits {
                Ok(true) => end.min(Instant::now() + TURN),
                Ok(false) => end,
                Err(_) => return Err(Stuck::NoThread),
            };
            match timeout_at(limit.into(), &mut receiver).await {
                Ok(answer) => return answer.map_err(|_panicked| Stuck::Late),
                Err(_) if Instant::now() >= end => return Err(Stuck::Late),
                // The thread may have taken an earlier call and be stuck in it.
                Err(_) => waits = self.workers.wake_another(ticket),
            }
        }
    }

    /// How long the call of that name has been running; `None` if there is none.
    #[must_use]
    pub fn running_for(&self, name: &str) -> Option<Duration> {
        lock(&self.running).get(name).map(Instant::elapsed)
    }

    /// Number of calls that have not returned.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.running).len()
    }
}

/// Takes a call off the list of running calls when it returns or panics.
struct Running {
    running: Arc<Mutex<BTreeMap<String, Instant>>>,
    name: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.name);
    }
}

/// Takes a call out of the queue when its caller stops waiting before a thread has taken it.
struct Queued<'a> {
    workers: &'a Workers,
    ticket: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.workers.state);
        let place = state.queue.iter().position(|(ticket, _)| *ticket == self.ticket);
        let job = place.and_then(|place| state.queue.remove(place));
        drop(state);
        drop(job);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads and their queue. There are at most as many threads as there have been calls at once, and none some time
/// after the last call.
#[derive(Debug)]
struct Workers {
    state: Mutex<State>,
    /// How long a thread without a call waits for the next one.
    idle_timeout: Duration,
}

impl Default for Workers {
    fn default() -> Self {
        Self { state: Mutex::default(), idle_timeout: IDLE_TIMEOUT }
    }
}

#[derive(Default)]
struct State {
    /// Calls that no thread has taken yet, with their tickets.
    queue: VecDeque<(u64, Job)>,
    last_ticket: u64,
    /// When a thread last took a call.
    taken: Option<Instant>,
    /// Threads that wait for a call. The last one to start waiting gets the next call: its caches are warm, and threads
    /// that are not needed any more reach their idle timeout.
    idle: Vec<Thread>,
    /// Threads that have been woken or started and have not taken a call yet.
    woken: usize,
    /// All threads.
    threads: usize,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Workers {
    /// Puts a call into the queue and returns its ticket. No thread is woken yet.
    fn queue(&self, job: Job) -> u64 {
        let mut state = lock(&self.state);
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.queue.push_back((ticket, job));
        ticket
    }

    /// Makes sure that a thread will take the call. True if that thread may be busy with another call first.
    fn wake(self: &Arc<Self>, ticket: u64) -> io::Result<bool> {
        let state = lock(&self.state);
        // A thread is about to look at the queue, or has just begun with another call.
        let is_a_thread_awake = state.woken > 0
            || (state.threads > state.idle.len()
                && state.taken.is_some_and(|at| at.elapsed() < TURN));
        drop(state);
        if is_a_thread_awake {
            return Ok(true);
        }
        // The woken thread may take an earlier call.
        self.wake_another(ticket)
    }

    /// Wakes or starts another thread for the call; false if a thread has taken the call already.
    fn wake_another(self: &Arc<Self>, ticket: u64) -> io::Result<bool> {
        let mut state = lock(&self.state);
        if state.queue.iter().all(|(other, _)| *other != ticket) {
            return Ok(false);
        }
        if state.woken >= state.queue.len() {
            return Ok(true);
        }
        state.woken += 1;
        if let Some(thread) = state.idle.pop() {
            drop(state);
            thread.unpark();
            return Ok(true);
        }
        state.threads += 1;
        drop(state);
        let worker = Worker(self.clone());
        // The kernel cuts thread names at 15 bytes; a stack of 128 KiB is plenty for a few system calls.
        let builder = thread::Builder::new().name("tocsin-probe".into()).stack_size(128 * 1024);
        let spawned = builder.spawn(move || {
            let mut was_woken = true;
            while let Some(job) = worker.0.next(was_woken) {
                job();
                was_woken = false;
            }
        });
        if spawned.is_err() {
            let mut state = lock(&self.state);
            state.woken -= 1;
            state.queue.retain(|(other, _)| *other != ticket);
        }
        spawned.map(|_| true)
    }

    /// Waits for the next call; `None` after the idle timeout. With `was_woken` this thread is counted in `woken`.
    fn next(&self, mut was_woken: bool) -> Option<Job> {
        let (since, own) = (Instant::now(), thread::current());
        let mut state = lock(&self.state);
        loop {
            state.woken -= usize::from(was_woken);
            if let Some((_, job)) = state.queue.pop_front() {
                state.taken = Some(Instant::now());
                return Some(job);
            }
            let left = self.idle_timeout.saturating_sub(since.elapsed());
            if left.is_zero() {
                return None;
            }
            state.idle.push(own.clone());
            drop(state);
            thread::park_timeout(left);
            state = lock(&self.state);
            let waiting = state.idle.len();
            state.idle.retain(|idle| idle.id() != own.id());
            // The caller that wakes a thread takes it off the list.
            was_woken = state.idle.len() == waiting;
        }
    }
}

/// Counts a thread for as long as it lives. A thread whose call panics ends, and is counted off as well.
struct Worker(Arc<Workers>);

impl Drop for Worker {
    fn drop(&mut self) {
        lock(&self.0.state).threads -= 1;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread::ThreadId};

    use super::*;

    /// Longer than any call takes here.
    const LONG: Duration = Duration::from_secs(10);

    fn with_idle_timeout(idle_timeout: Duration) -> Bounded {
        let workers = Workers { idle_timeout, ..Workers::default() };
        Bounded { workers: Arc::new(workers), ..Bounded::default() }
    }

    fn threads(bounded: &Bounded) -> usize {
        lock(&bounded.workers.state).threads
    }

    fn idle(bounded: &Bounded) -> usize {
        lock(&bounded.workers.state).idle.len()
    }

    async fn thread_of(bounded: &Bounded, name: &str) -> ThreadId {
        bounded.run(name.into(), LONG, || thread::current().id()).await.unwrap()
    }

    async fn until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < LONG, "{what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_stuck_call_is_not_started_twice() {
        let bounded = Bounded::default();
        let (release, wait) = mpsc::channel::<()>();
        let stuck =
            bounded.run("disk".into(), Duration::from_millis(20), move || wait.recv().ok()).await;
        assert_eq!(stuck, Err(Stuck::Late));
        let again = bounded.run("disk".into(), Duration::from_millis(20), || ()).await;
        assert!(matches!(again, Err(Stuck::Still(time)) if time >= Duration::from_millis(20)));
        let other = bounded.run("other".into(), LONG, || 7).await;
        assert_eq!(other, Ok(7));
        release.send(()).unwrap();
        until("it returns", || bounded.running() == 0).await;
        let after = bounded.run("disk".into(), LONG, || 8).await;
        assert_eq!(after, Ok(8));
    }

    #[tokio::test]
    async fn a_panicking_call_is_an_answer_too() {
        let bounded = Bounded::default();
        let first = thread_of(&bounded, "x").await;
        let result: Result<(), _> = bounded.run("x".into(), LONG, || panic!("on purpose")).await;
        assert_eq!(result, Err(Stuck::Late));
        assert_eq!(bounded.running(), 0);
        // Its thread is gone, and nothing waits for it.
        assert_ne!(thread_of(&bounded, "x").await, first);
        until("the first one is gone", || threads(&bounded) == 1).await;
    }

    #[tokio::test]
    async fn one_thread_serves_one_call_after_the_other() {
        let bounded = Bounded::default();
        let first = thread_of(&bounded, "a").await;
        for name in ["a", "b", "a"] {
            // On a busy machine it may be late to come back, and then there is another one.
            until("it waits", || idle(&bounded) == 1).await;
            assert_eq!(thread_of(&bounded, name).await, first);
        }
        until("it waits", || idle(&bounded) == 1).await;
        assert_eq!(threads(&bounded), 1);
        // One that is stuck keeps its thread, and the next calls share another.
        let (release, wait) = mpsc::channel::<()>();
        let stuck = bounded.run("disk".into(), Duration::ZERO, move || wait.recv().ok()).await;
        assert_eq!(stuck, Err(Stuck::Late));
        let second = thread_of(&bounded, "a").await;
        assert_ne!(second, first);
        until("it waits", || idle(&bounded) == 1).await;
        assert_eq!(thread_of(&bounded, "b").await, second);
        assert_eq!(threads(&bounded), 2);
        // When it returns, it is one like the others.
        release.send(()).unwrap();
        until("both wait", || idle(&bounded) == 2).await;
        assert!([first, second].contains(&thread_of(&bounded, "a").await));
        assert_eq!(threads(&bounded), 2);
    }

    #[tokio::test]
    async fn threads_without_a_call_end() {
        let bounded = with_idle_timeout(Duration::from_millis(20));
        thread_of(&bounded, "a").await;
        until("it ends", || threads(&bounded) == 0).await;
        assert_eq!(idle(&bounded), 0);
        thread_of(&bounded, "a").await;
    }

    #[tokio::test]
    async fn calls_that_come_together_take_turns_unless_one_takes_long() {
        let bounded = Bounded::default();
        let short = ["a", "b", "c"].map(|name| thread_of(&bounded, name));
        let [a, b, c] = short;
        let (a, b, c) = tokio::join!(a, b, c);
        // A machine that is busy for longer than a turn may need another one.
        assert!(
            [a, b, c].into_iter().collect::<std::collections::HashSet<_>>().len()
                <= threads(&bounded)
        );
        // All of them at once, or none would return.
        let many = 10;
        let barrier = Arc::new(std::sync::Barrier::new(many));
        let mut running = tokio::task::JoinSet::new();
        for number in 0..many {
            let (bounded, barrier) = (bounded.clone(), barrier.clone());
            running.spawn(async move {
                bounded.run(number.to_string(), LONG, move || barrier.wait().is_leader()).await
            });
        }
        assert!(running.join_all().await.iter().all(Result::is_ok));
        assert_eq!(threads(&bounded), many);
    }

    #[tokio::test]
    async fn a_call_that_comes_when_its_thread_is_about_to_end_is_not_lost() {
        let idle_timeout = Duration::from_micros(300);
        let bounded = with_idle_timeout(idle_timeout);
        for number in 0..500 {
            assert_eq!(bounded.run("x".into(), LONG, move || number).await, Ok(number));
            thread::sleep(idle_timeout + Duration::from_micros(number % 100));
        }
    }
}
