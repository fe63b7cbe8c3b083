//! A thread that outlives every test: it is the parent of all servers, and holds the fixtures' tokio runtime.
//!
//! The kernel kills a server when the thread that started it ends (`PR_SET_PDEATHSIG`), so that not even a killed test
//! run leaves a server behind. A test's own thread ends with the test, so it cannot be that thread. Nor may a server be
//! in the mount namespace of the test that happened to start it: that namespace would live as long as the server.

use std::fs;
use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::sys;

/// Threads of the runtime: the tests wait and the API server works, so two are plenty.
const WORKERS: usize = 2;

/// A process to start.
struct Spawn {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

struct Background {
    runtime: Handle,
    spawns: Sender<Spawn>,
}

static BACKGROUND: OnceLock<Background> = OnceLock::new();

fn background() -> &'static Background {
    BACKGROUND.get_or_init(|| {
        let (spawns, inbox) = mpsc::channel::<Spawn>();
        let (ready, started) = mpsc::channel();
        let work = move || {
            join_the_main_thread();
            // Held until the process ends.
            let runtime = runtime();
            ready.send(runtime.handle().clone()).expect("the starter waits");
            for Spawn { mut command, answer } in inbox {
                answer.send(command.spawn()).expect("the caller waits");
            }
        };
        let thread = thread::Builder::new().name("background".to_owned());
        thread.spawn(work).expect("start a thread");
        Background { runtime: started.recv().expect("a runtime"), spawns }
    })
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(WORKERS).thread_name("cluster").enable_all();
    builder.build().expect("build a runtime")
}

/// Moves this thread to the main thread's mount namespace: it begins in that of the test that started it.
fn join_the_main_thread() {
    let main = "/proc/self/ns/mnt";
    let same = fs::read_link(main).ok() == fs::read_link("/proc/thread-self/ns/mnt").ok();
    if !same {
        sys::join_mounts(main.as_ref()).expect("join the main thread's mount namespace");
    }
}

/// The runtime for everything asynchronous of the fixtures.
pub(super) fn handle() -> &'static Handle {
    &background().runtime
}

/// Starts a process that ends with this one, however this one ends.
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    sys::die_with_parent(&mut command);
    let (answer, child) = mpsc::channel();
    background().spawns.send(Spawn { command, answer }).expect("the thread lives");
    child.recv().expect("the thread answers")
}
