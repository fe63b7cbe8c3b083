//! A directory that an agent takes for the root of its host.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use crate::sys;

/// A mount namespace whose root is a directory, held by a thread. An agent watches it with `MOUNT_TABLE`, as one in a
/// container watches the host: `/` is then this directory, and not the machine's own root with its own fill level.
///
/// The namespace has copies of the mounts that the caller's had, so it has to be dropped before they are unmounted.
pub struct HostRoot {
    thread: i32,
    done: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl HostRoot {
    /// Starts the thread, from the caller's mount namespace.
    pub fn new(directory: &Path) -> Self {
        let directory = directory.to_owned();
        let (ready, started) = mpsc::channel();
        let (done, wait): (_, Receiver<()>) = mpsc::channel();
        let holder = thread::spawn(move || {
            sys::unshare_mounts().expect("unshare the mount namespace");
            rustix::process::chroot(&directory).expect("chroot");
            ready.send(rustix::thread::gettid().as_raw_pid()).expect("the caller waits");
            // Until the other end is dropped.
            let _dropped = wait.recv();
        });
        let thread = started.recv().expect("the thread has started");
        Self { thread, done: Some(done), holder: Some(holder) }
    }

    /// The namespace's mount table, for `MOUNT_TABLE`.
    pub fn mount_table(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/mountinfo", self.thread))
    }
}

impl Drop for HostRoot {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(holder) = self.holder.take() {
            let _panicked = holder.join();
        }
    }
}
