//! A real `HAProxy` for one test: its configuration, what it says of its servers, and its log.
//!
//! The log comes through a datagram socket of the fixture's own, as it would go to syslog: each line is there within
//! microseconds of the change that it tells of, and has the time of its arrival.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::sandbox::require;
use crate::{Sandbox, sys, tool};

/// It answers within some 20 ms.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at what it says.
const PAUSE: Duration = Duration::from_millis(2);
/// How often the log's reader looks whether it is to end.
const LOG_PAUSE: Duration = Duration::from_millis(50);
/// As long as a line of a log may be.
const LINE: usize = 64 * 1024;

/// A line of the log, and when it came, on `CLOCK_MONOTONIC`.
#[derive(Clone, Debug)]
pub struct Line {
    /// When.
    pub at_ns: u64,
    /// What.
    pub text: String,
}

/// One server's row of `show stat`, by the names of its columns.
#[derive(Clone, Debug)]
pub struct Server(HashMap<String, String>);

impl Server {
    /// A column: empty where there is nothing to say.
    pub fn get(&self, column: &str) -> &str {
        self.0.get(column).map_or("", String::as_str)
    }

    /// `UP`, `DOWN (agent)`, `DRAIN`, `NOLB`, `MAINT`, also with numbers behind it while it is changing.
    pub fn status(&self) -> &str {
        self.get("status")
    }
}

/// The daemon; killed on drop.
pub struct Haproxy {
    child: Child,
    socket: PathBuf,
    log: Arc<Mutex<Vec<Line>>>,
    done: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

/// Whether there is one; prints why not.
#[must_use]
pub fn is_here() -> bool {
    require(tool::is_installed("haproxy"), "haproxy is not installed")
}

/// What it thinks of a configuration.
pub fn check(configuration: &Path) -> Output {
    tool::output("haproxy", &["-c".as_ref(), "-f".as_ref(), configuration.as_os_str()])
}

impl Haproxy {
    /// Starts one with this configuration, whose sockets are `/run/haproxy/` and `/dev/log`: here they are the
    /// sandbox's. None, with the reason printed, where there is no `HAProxy`.
    pub fn start(sandbox: &Sandbox, configuration: &str) -> Option<Self> {
        if !is_here() {
            return None;
        }
        let directory = sandbox.path("haproxy");
        fs::create_dir_all(&directory).expect("make its directory");
        let here = |name: &str| directory.join(name).to_string_lossy().into_owned();
        let text =
            configuration.replace("/run/haproxy/", &here("")).replace("/dev/log", &here("log"));
        assert!(text.contains(&here("admin.sock")), "no socket to ask it: {configuration}");
        let file = directory.join("haproxy.cfg");
        fs::write(&file, text).expect("write its configuration");

        let _from_before = fs::remove_file(directory.join("log"));
        let inbox = UnixDatagram::bind(directory.join("log")).expect("make a log");
        let (log, done) = (Arc::<Mutex<Vec<Line>>>::default(), Arc::<AtomicBool>::default());
        let reader = keep_log(inbox, Arc::clone(&log), Arc::clone(&done));

        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        // What it prints, the log has too.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        sys::die_with_parent(&mut command);
        let child = command.spawn().expect("start haproxy");
        let socket = directory.join("admin.sock");
        let mut haproxy = Self { child, socket, log, done, reader: Some(reader) };
        haproxy.wait_ready(&file);
        Some(haproxy)
    }

    fn wait_ready(&mut self, file: &Path) {
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask("show info").is_err() {
            let ended = self.child.try_wait().expect("wait for haproxy");
            let words = || String::from_utf8_lossy(&check(file).stderr).into_owned();
            assert!(ended.is_none(), "haproxy ended ({ended:?}):\n{}", words());
            assert!(Instant::now() < deadline, "haproxy does not answer");
            thread::sleep(PAUSE);
        }
    }

    /// A command on its socket.
    pub fn ask(&self, command: &str) -> String {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn try_ask(&self, command: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(format!("{command}\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// What it says of a server now.
    pub fn server(&self, backend: &str, name: &str) -> Server {
        let table = self.ask("show stat");
        let mut lines = table.trim_start_matches("# ").lines().map(fields);
        let columns = lines.next().expect("a header");
        let row = lines.find(|row| row.starts_with(&[backend.to_owned(), name.to_owned()]));
        let row = row.unwrap_or_else(|| panic!("no server {backend}/{name} in\n{table}"));
        Server(columns.into_iter().zip(row).collect())
    }

    /// Asks until a server is as it should be; how long that took.
    pub fn wait_for(
        &self,
        (backend, name): (&str, &str),
        what: &str,
        right: impl Fn(&Server) -> bool,
    ) -> Duration {
        let began = Instant::now();
        loop {
            let server = self.server(backend, name);
            if right(&server) {
                return began.elapsed();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{name} is not {what} but {}:\n{}",
                server.status(),
                self.story()
            );
            thread::sleep(PAUSE);
        }
    }

    /// What it logged so far, requests and all.
    pub fn log(&self) -> Vec<Line> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same for people, without the requests.
    fn story(&self) -> String {
        let log = self.log();
        let lines = log.iter().filter(|line| !line.text.ends_with("HTTP/1.1\""));
        lines.map(|line| format!("{} {}", line.at_ns, line.text)).collect::<Vec<_>>().join("\n")
    }

    /// The first line since then that has all these words.
    pub fn find_line(&self, since_ns: u64, words: &[&str]) -> Option<Line> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let late = log.iter().rev().take_while(|line| line.at_ns >= since_ns);
        late.filter(|line| words.iter().all(|word| line.text.contains(word))).last().cloned()
    }

    /// Waits for it.
    pub fn wait_line(&self, since_ns: u64, words: &[&str]) -> Line {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.find_line(since_ns, words) {
                return line;
            }
            assert!(Instant::now() < deadline, "no {words:?} in the log:\n{}", self.story());
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
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
            log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    })
}

/// The fields of a line with commas, some of them in quotes, which are doubled inside.
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
