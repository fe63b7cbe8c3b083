//! Another project's server (nginx, keepalived, Envoy) for one test, with its output.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::sys;

/// How long a program may take to end on SIGTERM before it is killed: keepalived ends its children first.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two looks of a loop that waits.
const PAUSE: Duration = Duration::from_millis(2);

/// A program that runs until it is dropped, or until the thread that started it ends.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a command, whose output goes to this file.
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let output = File::create(&log).expect("make a log");
        let errors = output.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        sys::die_with_parent(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, log }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until a condition holds; fails with the log after `timeout`, or at once if the program ends.
    pub fn wait_for(&mut self, what: &str, timeout: Duration, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + timeout;
        while !holds() {
            let ended = self.child.try_wait().expect("wait for the process");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "not {what} ({ended:?}):\n{}",
                self.log()
            );
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended before.
        let _signalled = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + STOP_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
        let _killed = self.child.kill();
        let _status = self.child.wait();
    }
}
