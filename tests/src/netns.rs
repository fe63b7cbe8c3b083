//! Network namespaces: the kernel removes one when no process, socket or open file is in it any more.
//!
//! A test's thread moves into one, and what it starts is in there too: the agent, and its client. So the addresses of a
//! test are on no real network, and tests run in parallel. A second namespace is the router at the far end of a link.

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
    /// A new namespace with its loopback up. None, with the reason printed, where the machine lacks `ip`.
    pub fn new() -> Option<Self> {
        if !require(tool::is_installed("ip"), "ip is not installed") {
            return None;
        }
        // The thread ends; the open file keeps its namespace.
        let made = thread::spawn(|| {
            sys::unshare_network()?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = made.join().expect("the thread does not panic");
        let namespace = Self { namespace: namespace.expect("make a network namespace") };
        namespace.ip("link set lo up");
        Some(namespace)
    }

    /// The machine's own namespace, for a thread that has left it.
    pub fn outside() -> Self {
        // The main thread never leaves.
        Self { namespace: File::open("/proc/self/ns/net").expect("open the machine's own") }
    }

    /// Moves the calling thread here, for good, and with it what it starts from now on.
    pub fn enter(&self) {
        sys::join_network(self.namespace.as_fd()).expect("enter the network namespace");
    }

    /// Runs `work` here, on a thread of its own. A socket that it makes stays here.
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

    /// Sets a sysctl of this namespace, such as `ipv4/ip_forward`.
    pub fn set(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(name);
        self.run(|| {
            fs::write(&path, value)
                .unwrap_or_else(|error| panic!("write {value} to {}: {error}", path.display()));
        });
    }

    /// Makes a veth pair: `name` here and `there` in the other namespace, both up.
    pub fn veth(&self, name: &str, other: &Self, there: &str) {
        let theirs = other.path();
        self.ip(&format!("link add {name} type veth peer name {there} netns {}", theirs.display()));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {there} up"));
    }

    /// The path of this namespace for other processes, while this process lives.
    fn path(&self) -> PathBuf {
        let (process, file) = (std::process::id(), self.namespace.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{file}"))
    }
}

/// An /etc/resolv.conf of one test's mount namespace; unmounted on drop.
#[derive(Debug)]
pub struct ResolvConf {
    file: PathBuf,
}

impl ResolvConf {
    const PATH: &str = "/etc/resolv.conf";

    /// Mounts a file with this text over the machine's.
    pub fn new(sandbox: &Sandbox, text: &str) -> Option<Self> {
        if !require(Path::new(Self::PATH).exists(), "there is no /etc/resolv.conf to cover") {
            return None;
        }
        let file = sandbox.path("resolv.conf");
        fs::write(&file, text).expect("write a resolv.conf");
        rustix::mount::mount_bind(&file, Self::PATH).expect("cover /etc/resolv.conf");
        Some(Self { file })
    }

    /// Writes another text to the same file.
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
