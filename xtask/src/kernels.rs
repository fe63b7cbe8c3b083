//! `cargo xtask kernels`: the agent on Debian's kernels, each in a virtual machine.
//!
//! The machine is emulated without KVM: a kernel boots in seconds, also inside a container. The guest is an initramfs
//! with the static agent, the modules and `kernels/init.sh`, which makes the faults and prints the results on the serial
//! line. It is not part of `cargo xtask test`, because a kernel takes about a minute.

mod debian;
mod initramfs;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::release::build_agent;
use crate::setup::{self, Needs};
use crate::workspace::{announce, command, target_dir};

/// One kernel of each long-lived series: the last one without `block_rq_error`, and two whose mount table does not show
/// that an ext4 has become read-only by an error.
const VERSIONS: [&str; 3] = ["5.10", "6.1", "6.12"];
/// The scenarios of `init.sh`, in its order.
const SCENARIOS: [&str; 12] = [
    "hooks",
    "late_modules",
    "healthy",
    "ext4_error",
    "restart",
    "block_write",
    "journal_abort",
    "ext4_shutdown",
    "shutdown_restart",
    "xfs_shutdown",
    "counts",
    "syscall_hooks",
];
/// How long a guest may run: several times as long as it needs on two busy cores.
const DEADLINE: Duration = Duration::from_mins(5);

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How the versions begin; by default 5.10, 6.1 and 6.12
    versions: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Needs::Kernels)?;
    let agent = build_agent(true)?;
    let all = VERSIONS.map(str::to_owned);
    let versions = if options.versions.is_empty() { &all[..] } else { &options.versions };
    let dir = target_dir()?.join("kernels");
    let mut table = Vec::new();
    for version in versions {
        // The others run also where one cannot be downloaded.
        let results = guest(&dir, version, &agent).unwrap_or_else(|error| {
            eprintln!("kernels: {version}: {error:#}");
            Results::default()
        });
        table.push((version, results));
    }
    println!("\n{:<8}{}", "kernel", SCENARIOS.join("  "));
    for (version, results) in &table {
        let cells = SCENARIOS.map(|name| format!("{:<1$}  ", verdict(results, name), name.len()));
        println!("{version:<8}{}", cells.concat().trim_end());
    }
    let passed = |results| SCENARIOS.iter().all(|name| verdict(results, name) == "pass");
    if !table.iter().all(|(_, results)| passed(results)) {
        bail!(
            "not every scenario passed; each guest's log is {}/VERSION/serial.log",
            dir.display()
        );
    }
    Ok(())
}

/// Whether each scenario passed, and its detail.
type Results = BTreeMap<String, (bool, String)>;

fn verdict(results: &Results, scenario: &str) -> &'static str {
    match results.get(scenario) {
        Some((true, _)) => "pass",
        Some((false, _)) => "FAIL",
        // The guest ended before.
        None => "-",
    }
}

fn guest(dir: &Path, version: &str, agent: &Path) -> Result<Results> {
    let kernel = debian::kernel(dir, version)?;
    println!("\n{version}: {}", kernel.release);
    let initramfs = initramfs::build(&kernel, agent)?;
    let log = kernel.dir.join("serial.log");
    boot(&kernel.image, &initramfs, &log)?;
    let text = fs::read(&log).with_context(|| log.display().to_string())?;
    let results = parse(&String::from_utf8_lossy(&text));
    for scenario in SCENARIOS {
        if let Some((_, detail)) = results.get(scenario) {
            println!("  {} {scenario}: {detail}", verdict(&results, scenario));
        }
    }
    if results.len() < SCENARIOS.len() {
        println!("  it ended early: see {}", log.display());
    }
    Ok(results)
}

fn boot(image: &Path, initramfs: &Path, log: &Path) -> Result<()> {
    let serial = File::create(log).with_context(|| log.display().to_string())?;
    let mut qemu = command("qemu-system-x86_64")?;
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024"])
        // The kernel prints a panic alone; the scenarios print the rest themselves.
        .args(["-append", "console=ttyS0 loglevel=1 panic=-1"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stderr(serial.try_clone()?)
        .stdout(serial);
    announce(&qemu);
    let mut guest = qemu.spawn().context("start qemu-system-x86_64")?;
    let end = Instant::now() + DEADLINE;
    while guest.try_wait()?.is_none() {
        if Instant::now() >= end {
            guest.kill()?;
            guest.wait()?;
            eprintln!("kernels: the guest did not end in {} s", DEADLINE.as_secs());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// The results in the text of the serial line: `tocsin-guest: PASS name: detail`.
fn parse(log: &str) -> Results {
    let result = |line: &str| {
        // The line may begin with a kernel message.
        let (_, line) = line.split_once("tocsin-guest: ")?;
        let (verdict, rest) = line.trim_end().split_once(' ')?;
        let passed = match verdict {
            "PASS" => true,
            "FAIL" => false,
            _ => return None,
        };
        let (scenario, detail) = rest.split_once(':').unwrap_or((rest, ""));
        Some((scenario.to_owned(), (passed, detail.trim().to_owned())))
    };
    log.lines().filter_map(result).collect()
}

#[cfg(test)]
mod tests {
    use super::{SCENARIOS, parse, verdict};

    #[test]
    fn the_serial_line_is_read() {
        let results = parse(
            "[    1.0] boot\r\ntocsin-guest: PASS hooks: block:block_rq_error\r\n\
             [    2.0] x tocsin-guest: FAIL healthy: 503: loop0\r\ntocsin-guest: agent| PASS\r\n",
        );
        assert_eq!(results["hooks"], (true, "block:block_rq_error".to_owned()));
        assert_eq!(results["healthy"], (false, "503: loop0".to_owned()));
        assert_eq!(results.len(), 2);
        let verdicts = ["hooks", "healthy", "restart"].map(|name| verdict(&results, name));
        assert_eq!(verdicts, ["pass", "FAIL", "-"]);
    }

    #[test]
    fn the_guest_runs_the_scenarios_of_the_table() {
        let script = include_str!("kernels/init.sh");
        let run: Vec<&str> =
            script.lines().filter_map(|line| line.strip_prefix("scenario ")).collect();
        assert_eq!(run, SCENARIOS);
    }
}
