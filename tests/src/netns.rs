//! Network namespaces: hosts of one test's own, which the kernel takes down when nobody is in them any more.
//!
//! A test's thread moves into one, and what it starts is in there too: the agent, and the client that asks it. So the
//! addresses below are the test's alone, on no real network, and tests run in parallel. Another namespace is what is
//! at the far end of the host's links.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::mount::UnmountFlags;

use crate::sandbox::require;
use crate::{Sandbox, sys, tool};

/// A network namespace.
#[derive(Debug)]
pub struct NetNs {
    namespace: File,
}

impl NetNs {
    /// An empty one, with its loopback up; none, with the reason printed, where there cannot be one.
    pub fn new() -> Option<Self> {
        if !require(tool::is_installed("ip"), "ip is not installed") {
            return None;
        }
        // The thread ends; the open file keeps what it made.
        let made = thread::spawn(|| {
            sys::unshare_network()?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = made.join().expect("the thread does not panic");
        let namespace = Self { namespace: namespace.expect("make a network namespace") };
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// The machine's own, for somebody who has left it.
    pub fn outside() -> Self {
        // The main thread never leaves.
        Self { namespace: File::open("/proc/self/ns/net").expect("open the machine's own") }
    }

    /// Moves the calling thread here, and what it starts from now on; for good.
    pub fn enter(&self) {
        sys::join_network(self.namespace.as_fd()).expect("enter the network namespace");
    }

    /// Does something here, on a thread of its own. A socket that it makes stays here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter();
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `ip` here, which has to succeed.
    pub fn ip(&self, arguments: &str) -> String {
        self.run(|| tool::run("ip", &arguments.split(' ').collect::<Vec<_>>()))
    }

    /// Sets one of the kernel's variables for this namespace: `ipv4/ip_forward`.
    pub fn set(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(name);
        self.run(|| {
            fs::write(&path, value)
                .unwrap_or_else(|error| panic!("write {value} to {}: {error}", path.display()));
        });
    }

    /// Lays a cable: a link called `name` here and one called `there` at the other end, both up.
    pub fn cable(&self, name: &str, other: &Self, there: &str) {
        let theirs = other.path();
        self.ip(&format!("link add {name} type veth peer name {there} netns {}", theirs.display()));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {there} up"));
    }

    /// As other processes reach it, while this one lives.
    fn path(&self) -> PathBuf {
        let (process, file) = (std::process::id(), self.namespace.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{file}"))
    }
}

/// The resolv.conf of one test's mount namespace.
#[derive(Debug)]
pub struct ResolvConf {
    file: PathBuf,
}

impl ResolvConf {
    const PATH: &str = "/etc/resolv.conf";

    /// Puts one over the machine's.
    pub fn new(sandbox: &Sandbox, text: &str) -> Option<Self> {
        if !require(Path::new(Self::PATH).exists(), "there is no /etc/resolv.conf to cover") {
            return None;
        }
        let file = sandbox.path("resolv.conf");
        fs::write(&file, text).expect("write a resolv.conf");
        rustix::mount::mount_bind(&file, Self::PATH).expect("cover /etc/resolv.conf");
        Some(Self { file })
    }

    /// Changes it, in place.
    pub fn write(&self, text: &str) {
        fs::write(&self.file, text).expect("write the resolv.conf");
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(Self::PATH, UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", Self::PATH);
        }
    }
}
