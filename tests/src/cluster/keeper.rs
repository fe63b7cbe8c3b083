//! One thread that outlives every test: the parent of all servers, and the home of the runtime.
//!
//! The kernel kills a server when the thread that started it is gone, which is how not even a killed
//! test run leaves one behind. A test's own thread ends with the test, so it cannot be that thread.
//! Nor may servers live in the mount namespace of whichever test came first: it would never end.

use std::fs;
use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::sys;

/// The tests wait, the API server works: two are plenty.
const WORKERS: usize = 2;

struct Order {
    command: Command,
    answer: Sender<io::Result<Child>>,
}

struct Keeper {
    runtime: Handle,
    orders: Sender<Order>,
}

static KEEPER: OnceLock<Keeper> = OnceLock::new();

fn keeper() -> &'static Keeper {
    KEEPER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        let (ready, started) = mpsc::channel();
        let work = move || {
            join_the_main_thread();
            // Held until the process ends; the workers are this thread's children too.
            let runtime = runtime();
            ready.send(runtime.handle().clone()).expect("who started this waits");
            for Order { mut command, answer } in inbox {
                answer.send(command.spawn()).expect("who ordered waits");
            }
        };
        thread::Builder::new().name("keeper".to_owned()).spawn(work).expect("start a thread");
        Keeper { runtime: started.recv().expect("a runtime"), orders }
    })
}

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(WORKERS).thread_name("cluster").enable_all();
    builder.build().expect("build a runtime")
}

/// A thread begins in the mount namespace of the one that started it.
fn join_the_main_thread() {
    let main = "/proc/self/ns/mnt";
    let same = fs::read_link(main).ok() == fs::read_link("/proc/thread-self/ns/mnt").ok();
    if !same {
        sys::join_mounts(main.as_ref()).expect("join the main thread's mount namespace");
    }
}

/// Where everything asynchronous of the fixtures runs.
pub(super) fn handle() -> &'static Handle {
    &keeper().runtime
}

/// Starts a process that ends with this one, however this one ends.
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
    sys::die_with_parent(&mut command);
    let (answer, child) = mpsc::channel();
    keeper().orders.send(Order { command, answer }).expect("the keeper lives");
    child.recv().expect("the keeper answers")
}
