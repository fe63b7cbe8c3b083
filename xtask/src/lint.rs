//! `cargo xtask lint`: formatting, clippy, licences. It changes no file.

use anyhow::{Result, bail};

use crate::bpf::Toolchain;
use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check, output};

pub(crate) fn run() -> Result<()> {
    setup::try_for(Needs::Lint);
    // All of them run, so that one run shows everything that is wrong.
    let steps = [
        ("formatting", formatting()),
        ("clippy", clippy()),
        ("clippy for the kernel programs", clippy_bpf()),
        ("dependencies", dependencies()),
    ];
    let mut failed = Vec::new();
    for (name, result) in steps {
        if let Err(error) = result {
            eprintln!("lint: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    println!("lint: clean");
    Ok(())
}

fn formatting() -> Result<()> {
    let mut fmt = cargo()?;
    fmt.args(["fmt", "--all", "--check"]);
    announce(&fmt);
    check(&mut fmt)
}

/// Everything but the bodies of the kernel programs, for the host's target.
fn clippy() -> Result<()> {
    let mut clippy = cargo()?;
    clippy
        .args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
        .env("AYA_BUILD_SKIP", "1");
    announce(&clippy);
    check(&mut clippy)
}

/// The kernel programs, for their own target: a run of its own, because features are unified in each run.
fn clippy_bpf() -> Result<()> {
    let Some(toolchain) = Toolchain::find()?.filter(Toolchain::has_clippy) else {
        println!(
            "SKIP clippy for the kernel programs: no toolchain with clippy and a core for them"
        );
        return Ok(());
    };
    let mut clippy = toolchain.cargo("clippy")?;
    clippy.args(["--quiet", "--", "-D", "warnings"]);
    announce(&clippy);
    check(&mut clippy)
}

fn dependencies() -> Result<()> {
    let mut deny = cargo()?;
    deny.args(["deny", "--log-level", "error", "check", "licenses", "bans", "sources"]);
    announce(&deny);
    check(&mut deny)?;
    advisories()
}

/// Prints advisories and never fails: a new advisory must not fail an old commit, and the database is only on the
/// network.
fn advisories() -> Result<()> {
    if let Err(error) = output(cargo()?.args(["deny", "fetch", "db"])) {
        println!("SKIP advisories: the database could not be fetched ({error:#})");
        return Ok(());
    }
    let mut deny = cargo()?;
    deny.args(["deny", "--log-level", "error", "check", "--disable-fetch", "advisories"]);
    announce(&deny);
    if let Err(error) = check(&mut deny) {
        eprintln!("lint: advisories to look at, not a failure: {error:#}");
    }
    Ok(())
}
