//! One guest: boots a kernel with a group of scenarios, and reads their results from the serial line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::debian::Kernel;
use super::groups::Group;
use crate::workspace::{announce, command};

/// How long a guest may run: several times as long as it needs on two busy cores.
const DEADLINE: Duration = Duration::from_mins(5);

/// The size of the disk of a guest that has one.
const DISK_SIZE: u64 = 128 << 20;

/// Whether each scenario passed, and its detail.
pub(super) type Results = BTreeMap<String, (bool, String)>;

/// Runs a group on a kernel.
pub(super) fn run(kernel: &Kernel, initramfs: &Path, group: &Group) -> Result<Results> {
    let log = kernel.dir.join(format!("{}.log", group.name));
    let begin = Instant::now();
    boot(kernel, initramfs, group, &log)?;
    let text = fs::read(&log).with_context(|| log.display().to_string())?;
    let results = parse(&String::from_utf8_lossy(&text));
    println!("{} {}, {} s:", kernel.release, group.name, begin.elapsed().as_secs());
    for scenario in group.scenarios {
        if let Some((_, detail)) = results.get(*scenario) {
            println!("  {} {scenario}: {detail}", verdict(&results, scenario));
        }
    }
    if results.len() < group.scenarios.len() {
        println!("  it ended early: see {}", log.display());
    }
    Ok(results)
}

pub(super) fn verdict(results: &Results, scenario: &str) -> &'static str {
    match results.get(scenario) {
        Some((true, _)) => "pass",
        Some((false, _)) => "FAIL",
        // The guest ended before.
        None => "-",
    }
}

fn boot(kernel: &Kernel, initramfs: &Path, group: &Group, log: &Path) -> Result<()> {
    let serial = File::create(log).with_context(|| log.display().to_string())?;
    let disk = kernel.dir.join("disk");
    File::create(&disk).and_then(|file| file.set_len(DISK_SIZE)).context("the guest's disk")?;
    // The kernel prints a panic alone; the scenarios print the rest themselves.
    let words = format!("console=ttyS0 loglevel=1 panic=-1 tocsin.group={}", group.name);
    let mut qemu = command("qemu-system-x86_64")?;
    qemu.args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "1024"])
        .args(["-append", &words])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .args(group.devices.iter().map(|word| word.replace("DISK", &disk.to_string_lossy())))
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
    use super::{parse, verdict};

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
}
