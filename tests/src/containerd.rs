//! A real containerd for one test, with configuration, images, state and sockets of its own.
//!
//! It starts no containers: it has no children, mounts nothing, and needs neither systemd nor a registry.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Sandbox, require, sys, tool};

/// How long it may take to start: half a second on an idle machine, most of it for its database.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The directories of the CNI plugins: Debian's, and the common one.
const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Its default socket.
pub const DEFAULT_SOCKET: &str = "/run/containerd/containerd.sock";

/// A CNI network with loopback alone, which is enough for `NetworkReady`.
const NETWORK: &str = r#"{"cniVersion":"0.4.0","name":"e2e","plugins":[{"type":"loopback"}]}"#;

/// A running containerd; killed on drop, also while it is stopped.
pub struct Containerd {
    directory: PathBuf,
    /// Whether it has a mount namespace of its own.
    is_apart: bool,
    child: Option<Child>,
}

impl Containerd {
    /// Starts one whose socket is in the sandbox, and whose pods have no network yet. None, with the reason printed,
    /// where the programs are missing.
    pub fn start(sandbox: &Sandbox) -> Option<Self> {
        Self::start_in(sandbox.path("containerd"), false)
    }

    /// Starts one in a mount namespace of its own, where its socket is the default one.
    pub fn start_apart(sandbox: &Sandbox) -> Option<Self> {
        Self::start_in(sandbox.path("containerd-apart"), true)
    }

    fn start_in(directory: PathBuf, is_apart: bool) -> Option<Self> {
        let plugins = PLUGINS.into_iter().find(|path| Path::new(path).join("loopback").is_file());
        let installed = tool::is_installed("containerd");
        if !require(installed, "containerd is not installed")
            || !require(plugins.is_some(), "containernetworking-plugins is not installed")
        {
            return None;
        }
        fs::create_dir_all(directory.join("cni")).expect("make its directory");
        let mut containerd = Self { directory, is_apart, child: None };
        let configuration = containerd.configuration(plugins.unwrap_or_default());
        fs::write(containerd.path("config.toml"), configuration).expect("write its configuration");
        containerd.start_again();
        Some(containerd)
    }

    fn configuration(&self, plugins: &str) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let (root, state, networks) = (path("root"), path("state"), path("cni"));
        let socket =
            if self.is_apart { DEFAULT_SOCKET.to_owned() } else { path("containerd.sock") };
        let ttrpc = path("ttrpc.sock");
        // Without the snapshotters that need a filesystem or a device of their own.
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

    /// The path of its socket, as this process sees it.
    pub fn socket(&self) -> PathBuf {
        if self.is_apart {
            return PathBuf::from(format!("/proc/{}/root{DEFAULT_SOCKET}", self.pid()));
        }
        self.path("containerd.sock")
    }

    /// The directory of its images.
    pub fn images(&self) -> PathBuf {
        self.path("root/io.containerd.snapshotter.v1.native")
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running containerd").id()
    }

    /// Gives its pods a network, which containerd notices by itself.
    pub fn add_network(&self) {
        // Written in place and at once: containerd does not notice a file that is renamed to there.
        fs::write(self.network(), NETWORK).expect("write a network");
    }

    /// Takes the network away again.
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

    /// Kills it, which leaves the socket's file behind.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill containerd");
            child.wait().expect("wait for containerd");
        }
    }

    /// Starts it again, with its old state; returns when it listens.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "containerd runs");
        let log = File::options().append(true).create(true).open(self.log()).expect("open a log");
        let errors = log.try_clone().expect("a second handle");
        let mut command = if self.is_apart {
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
        let deadline = Instant::now() + START_TIMEOUT;
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
            // It may have ended before.
            let _killed = child.kill();
            let _status = child.wait();
        }
    }
}
