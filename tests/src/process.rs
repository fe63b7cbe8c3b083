//! A Tocsin program that runs for one test: its log, its signals, its end.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::sync::lock;
use crate::sys;

/// How long a test waits for what takes milliseconds on an idle machine; the measured time is printed.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks of a loop that waits.
pub const PAUSE: Duration = Duration::from_millis(1);

/// The lines of standard error so far.
type Log = Arc<Mutex<Vec<String>>>;

/// A running program; killed on drop, and by the kernel if the thread that started it ends.
pub struct Process {
    child: Child,
    log: Log,
    /// Reads the log; taken once the program has ended.
    reader: Option<JoinHandle<()>>,
}

/// A program that ended instead of listening.
#[derive(Debug)]
pub struct Exited {
    /// Its exit status.
    pub status: ExitStatus,
    /// All lines of its log.
    pub log: Vec<String>,
}

/// The file of a program of the workspace: what `variable` names, or else what cargo has built.
pub fn binary(name: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    // This program is <target>/<profile>/[deps/]<name>.
    let own = std::env::current_exe().expect("the path of this program");
    let candidates = own.ancestors().skip(2).take(2);
    candidates
        .flat_map(|target| ["release", "debug"].map(|profile| target.join(profile).join(name)))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("no {name} binary: build it, or set {variable}"))
}

/// Takes the caller's environment away, except what a program of ours may need to be debugged.
pub fn clear_environment(command: &mut Command) {
    command.env_clear();
    for name in ["PATH", "RUST_LOG", "RUST_BACKTRACE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
}

impl Process {
    /// Starts a command, whose standard error is its log.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        sys::die_with_parent(&mut command);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let log = Log::default();
        let stderr = child.stderr.take().expect("a pipe");
        let lines = Arc::clone(&log);
        let reader = thread::spawn(move || read_log(stderr, &lines));
        Self { child, log, reader: Some(reader) }
    }

    /// Waits for the line of the log that says `listening`, which has the addresses as its fields.
    pub fn wait_listening(&mut self) -> Result<Value, Exited> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            // In this order: a program that ended has said all it will ever say.
            let ended = self.child.try_wait().expect("wait for the process");
            if let Some(line) = self.log().iter().find_map(|line| listening(line)) {
                return Ok(line);
            }
            if let Some(status) = ended {
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("read its log to the end");
                }
                return Err(Exited { status, log: self.log() });
            }
            assert!(Instant::now() < deadline, "it does not listen:\n{}", self.log().join("\n"));
            thread::sleep(PAUSE);
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The lines that it logged so far.
    pub fn log(&self) -> Vec<String> {
        lock(&self.log).clone()
    }

    /// Waits for a line of the log with all these words; gives the number of such lines. The log is read a moment
    /// after the program's answers change.
    pub fn wait_for_log(&self, words: &[&str]) -> usize {
        let all = |line: &&String| words.iter().all(|word| line.contains(word));
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let log = self.log();
            match log.iter().filter(all).count() {
                0 => {}
                count => return count,
            }
            assert!(Instant::now() < deadline, "no {words:?} in the log:\n{}", log.join("\n"));
            thread::sleep(PAUSE);
        }
    }

    /// Sends a signal to this process alone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal the process");
    }

    /// Stops it (`SIGSTOP`), and waits until each of its threads stands still.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let deadline = Instant::now() + TIMEOUT;
        while !self.is_stopped() {
            assert!(Instant::now() < deadline, "it does not stop");
            thread::sleep(PAUSE);
        }
    }

    /// Whether each of its threads is stopped.
    pub fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let state = |thread: std::fs::DirEntry| {
            let text = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            text.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        threads.expect("its threads").flatten().all(state)
    }

    /// Waits until it has ended.
    pub fn wait_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the process") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.log().join("\n"));
            thread::sleep(PAUSE);
        }
    }

    /// Sends SIGTERM and waits; gives the exit status.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_exit()
    }

    /// Its resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        sys::resident_kib(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended before.
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}

fn read_log(stderr: impl Read, lines: &Log) {
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        lock(lines).push(line);
    }
}

fn listening(line: &str) -> Option<Value> {
    let line: Value = serde_json::from_str(line).ok()?;
    (line["message"] == "listening").then_some(line)
}
