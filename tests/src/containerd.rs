//! A real containerd for one test, with everything of its own: configuration, images, state, sockets.
//!
//! It starts no containers, so it has no children and mounts nothing, and needs neither systemd nor a registry.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Sandbox, require, sys, tool};

/// Half a second on a quiet machine, most of it for its database.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where Debian has the plugins, and where everybody else has them.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Where it listens when nobody tells it where.
pub const DEFAULT_SOCKET: &str = "/run/containerd/containerd.sock";

/// Pods get loopback, and nothing else: enough for a network that is ready.
const NETWORK: &str = r#"{"cniVersion":"0.4.0","name":"e2e","plugins":[{"type":"loopback"}]}"#;

/// The daemon; killed on drop, also while it is stopped.
pub struct Containerd {
    directory: PathBuf,
    apart: bool,
    child: Option<Child>,
}

impl Containerd {
    /// Starts one whose socket is in the sandbox. Its pods have no network yet. None, with the reason
    /// printed, where the programs are missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        Self::start_in(sandbox.path("containerd"), false)
    }

    /// Starts one in a mount namespace of its own, where its socket is in the default place.
    pub fn start_apart(sandbox: &Sandbox) -> Option<Self> {
        Self::start_in(sandbox.path("containerd-apart"), true)
    }

    fn start_in(directory: PathBuf, apart: bool) -> Option<Self> {
        let plugins = PLUGINS.into_iter().find(|path| Path::new(path).join("loopback").is_file());
        let installed = tool::is_installed("containerd");
        if !require(installed, "containerd is not installed")
            || !require(plugins.is_some(), "containernetworking-plugins is not installed")
        {
            return None;
        }
        fs::create_dir_all(directory.join("cni")).expect("make its directory");
        let mut containerd = Self { directory, apart, child: None };
        let configuration = containerd.configuration(plugins.unwrap_or_default());
        fs::write(containerd.path("config.toml"), configuration).expect("write its configuration");
        containerd.start_again();
        Some(containerd)
    }

    fn configuration(&self, plugins: &str) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let (root, state, networks) = (path("root"), path("state"), path("cni"));
        let socket = if self.apart { DEFAULT_SOCKET.to_owned() } else { path("containerd.sock") };
        let ttrpc = path("ttrpc.sock");
        // The snapshotters that look for a filesystem or a device of their own stay out of it.
        format!(
            r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.overlayfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
]
[grpc]
address = "{socket}"
[ttrpc]
address = "{ttrpc}"
[plugins."io.containerd.grpc.v1.cri"]
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{networks}"
"#
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Where its socket is, from here.
    pub fn socket(&self) -> PathBuf {
        if self.apart {
            return PathBuf::from(format!("/proc/{}/root{DEFAULT_SOCKET}", self.pid()));
        }
        self.path("containerd.sock")
    }

    /// Where it keeps its images: somebody may want to mount something there, or to fill it.
    pub fn images(&self) -> PathBuf {
        self.path("root/io.containerd.snapshotter.v1.native")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running containerd").id()
    }

    /// Gives pods a network; containerd notices by itself.
    pub fn add_network(&self) {
        // Written in place, in one piece: containerd does not notice a file that is moved there.
        fs::write(self.network(), NETWORK).expect("write a network");
    }

    /// Takes it away again.
    pub fn remove_network(&self) {
        fs::remove_file(self.network()).expect("remove the network");
    }

    fn network(&self) -> PathBuf {
        self.path("cni/10-e2e.conflist")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a running containerd");
        kill_process(Pid::from_child(child), signal).expect("signal containerd");
    }

    /// It is gone, and its socket's file is not: nobody had the time to tidy up.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill containerd");
            child.wait().expect("wait for containerd");
        }
    }

    /// Starts it, with what it knew before; returns when it listens.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "containerd runs");
        let log = File::options().append(true).create(true).open(self.log()).expect("open a log");
        let errors = log.try_clone().expect("a second handle");
        let mut command = if self.apart {
            let mut command = Command::new("unshare");
            command.args(["--mount", "--propagation", "private", "sh", "-c"]);
            command.args(["mount -t tmpfs tmpfs /run && exec \"$@\"", "sh", "containerd"]);
            command
        } else {
            Command::new("containerd")
        };
        command.arg("--config").arg(self.path("config.toml")).env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        sys::die_with_parent(&mut command);
        self.child = Some(command.spawn().expect("start containerd"));
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).is_err() {
            let child = self.child.as_mut().expect("just started");
            let ended = child.try_wait().expect("wait for containerd");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "containerd does not listen ({ended:?}):\n{}",
                fs::read_to_string(self.log()).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> PathBuf {
        self.path("log")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ended_before = child.kill();
            let _status = child.wait();
        }
    }
}
