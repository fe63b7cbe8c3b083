//! What must hold before tests are worth running. Nothing here changes a file.

use anyhow::{Result, bail};

use crate::bpf::Toolchain;
use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check, output};

pub(crate) fn run() -> Result<()> {
    setup::try_for(Needs::Lint);
    // All of them, so that one run shows everything there is to mend.
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

/// The host's side: everything but the bodies of the kernel programs.
fn clippy() -> Result<()> {
    let mut clippy = cargo()?;
    clippy
        .args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
        .env("AYA_BUILD_SKIP", "1");
    announce(&clippy);
    check(&mut clippy)
}

/// The kernel's side. A run of its own: features are unified per run, and the target differs.
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

/// A new advisory must not turn an old commit red, and the database is only on the network: this
/// tells, and never fails.
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
