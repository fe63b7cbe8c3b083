//! A server program for one test: ended in order on drop, with everything it printed at hand.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::sys;

/// What ends its children first may take that long.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

/// A program that runs until it is dropped, or until the thread that started it ends.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts it; what it prints goes to this file.
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let output = File::create(&log).expect("make a log");
        let errors = output.try_clone().expect("a second handle");
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        sys::die_with_parent(&mut command);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { child, log }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until something is as it should be; fails with what it printed, also if it ends.
    pub fn wait_for(&mut self, what: &str, patience: Duration, mut right: impl FnMut() -> bool) {
        let deadline = Instant::now() + patience;
        while !right() {
            let ended = self.child.try_wait().expect("wait for it");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "not {what} ({ended:?}):\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ended_before = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + ENDS_WITHIN;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        let _ended_in_order = self.child.kill();
        let _status = self.child.wait();
    }
}
