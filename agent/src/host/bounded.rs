//! Blocking calls that may never return, each with a deadline.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use tokio::{sync::oneshot, task::yield_now, time::timeout_at};

/// 30 seconds that a thread for calls that may hang waits for its next one: an agent whose probes run every second keeps
/// it, and one without probes has none half a minute after its last look at a disk.
const IDLE_THREAD: Duration = Duration::from_secs(30);
/// 2 milliseconds that such a call waits for its turn on a thread that has another one, which takes a tenth of that
/// while all is well; then it gets another thread.
const TURN: Duration = Duration::from_millis(2);

/// A blocking call gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// Not within its deadline; its thread goes on waiting.
    #[error("no answer in time")]
    Late,
    /// An earlier call with the same name has not returned since it was made, this long ago. (The text does not
    /// say how long: it would be another one each time.)
    #[error("an earlier attempt is still stuck")]
    Still(Duration),
    /// No thread could be started.
    #[error("no thread to run it on")]
    NoThread,
}

/// Runs calls that may hang in the kernel (anything that touches a disk) on threads of their own, each
/// with a deadline, never two of the same name at once: a disk that hangs for a day costs one thread.
///
/// To start and end a thread costs more than most calls, and so does waking several at once. So calls that come together
/// take turns on one thread, which stays for the next ones. Where one takes long, the others go on another thread.
#[derive(Clone, Debug, Default)]
pub struct Bounded {
    /// Since when each of them.
    running: Arc<Mutex<BTreeMap<String, Instant>>>,
    workers: Arc<Workers>,
}

impl Bounded {
    /// Runs `call`, of that name, on a thread and waits for it, for `deadline` at most.
    pub async fn run<T: Send + 'static>(
        &self,
        name: String,
        deadline: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        match lock(&self.running).entry(name.clone()) {
            Entry::Occupied(since) => return Err(Stuck::Still(since.get().elapsed())),
            Entry::Vacant(seat) => drop(seat.insert(Instant::now())),
        }
        let (sender, mut receiver) = oneshot::channel();
        let guard = Running { running: self.running.clone(), name };
        let job = Box::new(move || {
            let result = call();
            // First out of the list, so that who gets the result can call again at once.
            drop(guard);
            let _nobody_waits = sender.send(result);
        });
        let ticket = self.workers.queue(job);
        let _unless_taken = Queued { workers: &self.workers, ticket };
        let end = Instant::now() + deadline;
        // Those that come together wake one thread, once.
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
                // That thread may take one that came before, and get stuck.
                Err(_) => waits = self.workers.hurry(ticket),
            }
        }
    }

    /// How long the call of that name has been running or stuck; `None` if there is none.
    #[must_use]
    pub fn running_for(&self, name: &str) -> Option<Duration> {
        lock(&self.running).get(name).map(Instant::elapsed)
    }

    /// How many calls are running or stuck.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.running).len()
    }
}

/// Takes a call out of the list when it returns, or when it panics.
struct Running {
    running: Arc<Mutex<BTreeMap<String, Instant>>>,
    name: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.name);
    }
}

/// A call that nobody waits for any more need not be made, if it has not begun.
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

/// The threads. There are never more than calls of different names were under way at once, and without calls there are
/// none.
#[derive(Debug)]
struct Workers {
    state: Mutex<State>,
    /// For how long one waits for the next call.
    patience: Duration,
}

impl Default for Workers {
    fn default() -> Self {
        Self { state: Mutex::default(), patience: IDLE_THREAD }
    }
}

#[derive(Default)]
struct State {
    /// Calls that no thread has taken yet, with their tickets.
    queue: VecDeque<(u64, Job)>,
    last_ticket: u64,
    /// When a thread took the last one.
    taken: Option<Instant>,
    /// Those that wait. The last one to come is the next to go: what it works on is still in the caches, and those that
    /// are too many see the end of their patience.
    idle: Vec<Thread>,
    /// Those that have been woken or started, and are not here yet.
    coming: usize,
    /// All of them.
    threads: usize,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("threads", &self.threads).finish_non_exhaustive()
    }
}

impl Workers {
    /// Takes it, for a thread that is yet to come.
    fn queue(&self, job: Job) -> u64 {
        let mut state = lock(&self.state);
        state.last_ticket += 1;
        let ticket = state.last_ticket;
        state.queue.push_back((ticket, job));
        ticket
    }

    /// Has a thread do it, which may take a while where this is true.
    fn wake(self: &Arc<Self>, ticket: u64) -> io::Result<bool> {
        let state = lock(&self.state);
        // One is on its way, or has begun with another call just now.
        let is_one_awake = state.coming > 0
            || (state.threads > state.idle.len()
                && state.taken.is_some_and(|at| at.elapsed() < TURN));
        drop(state);
        if is_one_awake {
            return Ok(true);
        }
        // It may take one that came before.
        self.hurry(ticket)
    }

    /// Has another thread take it if none has yet; false where one has.
    fn hurry(self: &Arc<Self>, ticket: u64) -> io::Result<bool> {
        let mut state = lock(&self.state);
        if state.queue.iter().all(|(other, _)| *other != ticket) {
            return Ok(false);
        }
        if state.coming >= state.queue.len() {
            return Ok(true);
        }
        state.coming += 1;
        if let Some(thread) = state.idle.pop() {
            drop(state);
            thread.unpark();
            return Ok(true);
        }
        state.threads += 1;
        drop(state);
        let one = OneThread(self.clone());
        // The kernel cuts thread names at 15 bytes; a stack of 128 KiB is plenty for a few system calls.
        let builder = thread::Builder::new().name("tocsin-probe".into()).stack_size(128 * 1024);
        let spawned = builder.spawn(move || {
            let mut comes = true;
            while let Some(job) = one.0.next(comes) {
                job();
                comes = false;
            }
        });
        if spawned.is_err() {
            let mut state = lock(&self.state);
            state.coming -= 1;
            state.queue.retain(|(other, _)| *other != ticket);
        }
        spawned.map(|_| true)
    }

    /// The next call, for a thread; none where there has been none for long.
    fn next(&self, mut comes: bool) -> Option<Job> {
        let (since, own) = (Instant::now(), thread::current());
        let mut state = lock(&self.state);
        loop {
            state.coming -= usize::from(comes);
            if let Some((_, job)) = state.queue.pop_front() {
                state.taken = Some(Instant::now());
                return Some(job);
            }
            let left = self.patience.saturating_sub(since.elapsed());
            if left.is_zero() {
                return None;
            }
            state.idle.push(own.clone());
            drop(state);
            thread::park_timeout(left);
            state = lock(&self.state);
            let waiting = state.idle.len();
            state.idle.retain(|idle| idle.id() != own.id());
            // Who wakes a thread takes it off the list.
            comes = state.idle.len() == waiting;
        }
    }
}

/// One of them, as long as it lives: one whose call panics ends.
struct OneThread(Arc<Workers>);

impl Drop for OneThread {
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

    fn impatient(patience: Duration) -> Bounded {
        let workers = Workers { patience, ..Workers::default() };
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
        let bounded = impatient(Duration::from_millis(20));
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
        let patience = Duration::from_micros(300);
        let bounded = impatient(patience);
        for number in 0..500 {
            assert_eq!(bounded.run("x".into(), LONG, move || number).await, Ok(number));
            thread::sleep(patience + Duration::from_micros(number % 100));
        }
    }
}
