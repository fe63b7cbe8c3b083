//! etcd and the API server as processes: where the programs are, free ports, signals.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::runtime;
use crate::sys;

/// The programs of a control plane: the set that `KUBEBUILDER_ASSETS` stands for.
const PROGRAMS: [&str; 3] = ["etcd", "kube-apiserver", "kubectl"];

/// The directory with the programs, if all of them are there.
pub(super) fn programs() -> Option<PathBuf> {
    let own = std::env::current_exe().expect("the path of this program");
    // This program is <target>/<profile>/[deps/]<name>.
    let built = own.ancestors().skip(2).take(2).map(|target| target.join("cluster/bin"));
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/cluster/bin");
    let given = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let complete = |bin: &PathBuf| PROGRAMS.iter().all(|program| bin.join(program).is_file());
    given.into_iter().chain(built).chain([tree]).find(complete)
}

/// A loopback port that is free now and, unless another program wants the very same, stays so.
///
/// It is below the range from which the kernel takes source ports: a server that is killed and started again must find
/// its port free, and a client that connects to it meanwhile must not end up connected to itself. It is also below
/// 25,000, where the agent's own ports are.
pub fn free_port() -> u16 {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 9_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes start at different places.
    let start = u16::try_from(std::process::id() % 90).expect("below 90") * 100;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(step) % COUNT;
        if TcpListener::bind(loopback(port)).is_ok() {
            return port;
        }
    }
    panic!("no free port in {FIRST}..{}", FIRST + COUNT);
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(super) fn listens(port: u16) -> bool {
    TcpStream::connect(loopback(port)).is_ok()
}

/// A running server; killed on drop, also while it is stopped.
pub(super) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it with a clean environment; its output is added to the log.
    pub(super) fn start(mut command: Command, log: PathBuf) -> Self {
        let file = || File::options().append(true).create(true).open(&log).expect("open a log");
        command.stdin(Stdio::null()).stdout(file()).stderr(file());
        // Ctrl-C goes to the test alone, which takes the servers with it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let program = command.get_program().to_owned();
        let child = runtime::spawn(command)
            .unwrap_or_else(|error| panic!("start {}: {error}", program.display()));
        Self { child, log }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a server")
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal a server");
    }

    pub(super) fn resident_kib(&self) -> u64 {
        sys::resident_kib(self.pid())
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        const LINES: usize = 30;
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A command with nothing of the caller's environment.
pub(super) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Whether a server ended because its port was taken, in the words of Go's net package.
pub(super) fn port_was_taken(words: &str) -> bool {
    words.contains("address already in use")
}
