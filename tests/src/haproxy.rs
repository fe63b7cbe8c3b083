//! A real `HAProxy` for one test: its configuration, its view of its servers, and its log.
//!
//! The log goes to a datagram socket of the fixture, as it would go to syslog: a line arrives within microseconds of the
//! change that it reports, and is kept with the time of its arrival.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sandbox::require;
use crate::sync::lock;
use crate::{Sandbox, sys, tool};

/// How long to wait for what takes it some 20 ms.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks of a loop that waits.
const PAUSE: Duration = Duration::from_millis(2);
/// How often the log's reader checks whether it is to end.
const LOG_PAUSE: Duration = Duration::from_millis(50);
/// The longest line of the log, in bytes.
const LINE: usize = 64 * 1024;

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Line {
    /// When it arrived, in nanoseconds of `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// Its text.
    pub text: String,
}

/// One server's row of `show stat`: values by the names of the columns.
#[derive(Clone, Debug)]
pub struct Server(HashMap<String, String>);

impl Server {
    /// The value of a column, which may be empty.
    pub fn get(&self, column: &str) -> &str {
        self.0.get(column).map_or("", String::as_str)
    }

    /// Its status: `UP`, `DOWN (agent)`, `DRAIN`, `NOLB`, `MAINT`, with numbers behind it while it is changing.
    pub fn status(&self) -> &str {
        self.get("status")
    }
}

/// A running `HAProxy`; killed on drop.
pub struct Haproxy {
    child: Child,
    socket: PathBuf,
    log: Arc<Mutex<Vec<Line>>>,
    done: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// Whether it is installed; prints a `SKIP` where it is not.
#[must_use]
pub fn is_installed() -> bool {
    require(tool::is_installed("haproxy"), "haproxy is not installed")
}

/// Runs its check of a configuration file.
pub fn check(configuration: &Path) -> Output {
    tool::output("haproxy", &["-c".as_ref(), "-f".as_ref(), configuration.as_os_str()])
}

impl Haproxy {
    /// Starts one with this configuration, in which `/run/haproxy/` and `/dev/log` are replaced by paths of the sandbox.
    /// None, with the reason printed, where it is not installed.
    pub fn start(sandbox: &Sandbox, configuration: &str) -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let directory = sandbox.path("haproxy");
        fs::create_dir_all(&directory).expect("make its directory");
        let here = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let text =
            configuration.replace("/run/haproxy/", &here("")).replace("/dev/log", &here("log"));
        assert!(text.contains(&here("admin.sock")), "no admin socket: {configuration}");
        let file = directory.join("haproxy.cfg");
        fs::write(&file, text).expect("write its configuration");

        // There may be one of an earlier start.
        let _removed = fs::remove_file(directory.join("log"));
        let inbox = UnixDatagram::bind(directory.join("log")).expect("make a log");
        let (log, done) = (Arc::<Mutex<Vec<Line>>>::default(), Arc::<AtomicBool>::default());
        let reader = keep_log(inbox, Arc::clone(&log), Arc::clone(&done));

        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        // The log has everything that it prints.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::die_with_parent(&mut command);
        let child = command.spawn().expect("start haproxy");
        let socket = directory.join("admin.sock");
        let mut haproxy = Self { child, socket, log, done, reader: Some(reader) };
        haproxy.wait_ready(&file);
        Some(haproxy)
    }

    fn wait_ready(&mut self, file: &Path) {
        let deadline = Instant::now() + TIMEOUT;
        while self.try_command("show info").is_err() {
            let ended = self.child.try_wait().expect("wait for haproxy");
            let errors = || String::from_utf8_lossy(&check(file).stderr).into_owned();
            assert!(ended.is_none(), "haproxy ended ({ended:?}):\n{}", errors());
            assert!(Instant::now() < deadline, "haproxy does not answer");
            thread::sleep(PAUSE);
        }
    }

    /// Runs a command on its admin socket.
    pub fn command(&self, command: &str) -> String {
        self.try_command(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn try_command(&self, command: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Its view of a server now.
    pub fn server(&self, backend: &str, name: &str) -> Server {
        let table = self.command("show stat");
        let mut lines = table.trim_start_matches("# ").lines().map(fields);
        let columns = lines.next().expect("a header");
        let row = lines.find(|row| row.starts_with(&[backend.to_owned(), name.to_owned()]));
        let row = row.unwrap_or_else(|| panic!("no server {backend}/{name} in\n{table}"));
        Server(columns.into_iter().zip(row).collect())
    }

    /// Waits until a condition holds for a server; gives how long that took.
    pub fn wait_for(
        &self,
        (backend, name): (&str, &str),
        what: &str,
        holds: impl Fn(&Server) -> bool,
    ) -> Duration {
        let began = Instant::now();
        loop {
            let server = self.server(backend, name);
            if holds(&server) {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < TIMEOUT,
                "{name} is not {what} but {}:\n{}",
                server.status(),
                self.events()
            );
            thread::sleep(PAUSE);
        }
    }

    /// The lines of its log so far, with those of requests.
    pub fn log(&self) -> Vec<Line> {
        lock(&self.log).clone()
    }

    /// The log without the lines of requests, for a message.
    fn events(&self) -> String {
        let log = self.log();
        let lines = log.iter().filter(|line| !line.text.ends_with("HTTP/1.1\""));
        lines.map(|line| format!("{} {}", line.at_ns, line.text)).collect::<Vec<_>>().join("\n")
    }

    /// The first line since a time that has all these words.
    pub fn find_line(&self, since_ns: u64, words: &[&str]) -> Option<Line> {
        let log = lock(&self.log);
        let late = log.iter().rev().take_while(|line| line.at_ns >= since_ns);
        late.filter(|line| words.iter().all(|word| line.text.contains(word))).last().cloned()
    }

    /// Waits for such a line.
    pub fn wait_line(&self, since_ns: u64, words: &[&str]) -> Line {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            if let Some(line) = self.find_line(since_ns, words) {
                return line;
            }
            assert!(Instant::now() < deadline, "no {words:?} in the log:\n{}", self.events());
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // It may have ended before.
        let _killed = self.child.kill();
        let _status = self.child.wait();
        self.done.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _panicked = reader.join();
        }
    }
}

fn keep_log(
    inbox: UnixDatagram,
    log: Arc<Mutex<Vec<Line>>>,
    done: Arc<AtomicBool>,
) -> JoinHandle<()> {
    inbox.set_read_timeout(Some(LOG_PAUSE)).expect("a time-out for the log");
    thread::spawn(move || {
        let mut buffer = vec![0; LINE];
        while !done.load(Ordering::Relaxed) {
            let Ok(length) = inbox.recv(&mut buffer) else { continue };
            let at_ns = sys::monotonic_ns();
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            let line = Line { at_ns, text: text.trim_end().to_owned() };
            lock(&log).push(line);
        }
    })
}

/// The fields of a line of comma-separated values. Some are in quotes, in which a quote is doubled.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => fields.last_mut().expect("at least one").push(other),
        }
    }
    fields
}
