//! `cargo xtask setup`: installs what Tocsin's build and its tests need on a machine that has only Rust, and prints a line
//! for each thing that it could not install.
//!
//! The compiler for the kernel programs is the first of these that works: one that is installed; rustup's, with core's
//! source; Debian's, which has a compiled core. See [`crate::bpf`] for what "works" means.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::bpf::{self, Toolchain};
use crate::cluster;
use crate::workspace::{announce, cargo, check, command, find_program, output};

const LINKER_VERSION: &str = "0.13.0";
const DENY_VERSION: &str = "0.20.2";
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
const DEBIAN_LLVM: [&str; 4] = ["llvm-22-dev", "libzstd-dev", "zlib1g-dev", "g++"];

/// Programs that the tests and the demo call, and Debian's packages of them.
const TEST_PROGRAMS: [(&str, &str); 19] = [
    ("mount", "mount"),
    ("fstrim", "util-linux"),
    ("mkfs.ext4", "e2fsprogs"),
    ("e2fsck", "e2fsprogs"),
    ("debugfs", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_db", "xfsprogs"),
    ("mkfs.btrfs", "btrfs-progs"),
    ("mksquashfs", "squashfs-tools"),
    ("modinfo", "kmod"),
    ("curl", "curl"),
    ("containerd", "containerd"),
    // A path instead of a name: it is not in PATH.
    ("/usr/lib/cni/loopback", "containernetworking-plugins"),
    ("ip", "iproute2"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("keepalived", "keepalived"),
    ("wrk", "wrk"),
    ("taskset", "util-linux"),
];

/// Packages of these that Debian starts as services, and the services' names.
const SERVICES: [(&str, &str); 4] = [
    ("containerd", "containerd"),
    ("haproxy", "haproxy"),
    ("nginx-light", "nginx"),
    ("keepalived", "keepalived"),
];

/// The program that Debian runs to find whether a service may be started.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Programs that `cargo xtask kernels` needs for its guests, and Debian's packages of them.
pub(crate) const KERNEL_PROGRAMS: [(&str, &str); 16] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("dpkg-deb", "dpkg"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.xfs", "xfsprogs"),
    ("xfs_io", "xfsprogs"),
    ("depmod", "kmod"),
    ("dmsetup", "dmsetup"),
    ("mkfs.vfat", "dosfstools"),
    ("mkfs.exfat", "exfatprogs"),
    ("mkfs.f2fs", "f2fs-tools"),
    ("mkfs.jfs", "jfsutils"),
    ("mkfs.nilfs2", "nilfs-tools"),
    ("mkntfs", "ntfs-3g"),
    ("mdadm", "mdadm"),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also build the control plane for the tests (needs Go, and takes about twelve minutes)
    #[arg(long)]
    cluster: bool,
    /// Also install what `cargo xtask lint` needs (cargo-deny builds for about two minutes)
    #[arg(long)]
    lint: bool,
}

/// The needs of a command.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Build,
    /// Programs that make real faults: for the demo and the bench.
    Faults,
    /// The same, and a control plane.
    Tests,
    Kernels,
    /// A compiler for libFuzzer.
    Fuzz,
    Lint,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut setup = Setup::default();
    setup.provide(if options.cluster { Needs::Tests } else { Needs::Faults });
    if options.lint {
        setup.provide(Needs::Lint);
    }
    setup.finish()?;
    let toolchain = Toolchain::find()?.context("no compiler for the kernel programs")?;
    println!("setup: nothing missing (kernel programs: toolchain {})", toolchain.name);
    Ok(())
}

/// Provides everything, or fails.
pub(crate) fn ensure(needs: Needs) -> Result<()> {
    let mut setup = Setup::default();
    setup.provide(needs);
    setup.finish()
}

/// Provides what it can, and prints what is missing. True if the kernel programs can be built.
pub(crate) fn try_for(needs: Needs) -> bool {
    let mut setup = Setup::default();
    let kernel_programs = setup.provide(needs);
    if let Err(incomplete) = setup.finish() {
        eprintln!("setup: {incomplete}; going on without");
    }
    kernel_programs
}

#[derive(Default)]
struct Setup {
    /// A line for each thing that could not be installed.
    missing: Vec<String>,
}

impl Setup {
    fn provide(&mut self, needs: Needs) -> bool {
        let compiler = self.note("compiler for the kernel programs", &provide_compiler());
        let linker = self.note("bpf-linker", &provide_linker());
        match needs {
            Needs::Build => {}
            Needs::Faults => {
                self.note("programs for the tests", &provide_programs(&TEST_PROGRAMS));
            }
            Needs::Tests => {
                self.note("programs for the tests", &provide_programs(&TEST_PROGRAMS));
                self.note("control plane for the tests", &cluster::provide());
            }
            Needs::Kernels => {
                self.note("programs for the guests", &provide_programs(&KERNEL_PROGRAMS));
            }
            Needs::Fuzz => {
                self.note("compiler for libFuzzer", &provide_programs(&[("g++", "g++")]));
            }
            Needs::Lint => {
                self.note("rustfmt and clippy", &provide_rust_tools());
                self.note("clippy for the kernel programs", &provide_bpf_clippy());
                self.note("cargo-deny", &provide_cargo_deny());
            }
        }
        compiler && linker
    }

    fn note(&mut self, what: &str, result: &Result<()>) -> bool {
        if let Err(error) = result {
            self.missing.push(format!("{what}: {error:#}"));
        }
        result.is_ok()
    }

    fn finish(self) -> Result<()> {
        for line in &self.missing {
            eprintln!("setup: missing: {line}");
        }
        if !self.missing.is_empty() {
            bail!("{} of the things needed are missing", self.missing.len());
        }
        Ok(())
    }
}

fn provide_compiler() -> Result<()> {
    if let Ok(name) = env::var("TOCSIN_BPF_TOOLCHAIN") {
        // The user has chosen: nothing is recorded, and nothing else tried.
        Toolchain::find()?.with_context(|| {
            format!("TOCSIN_BPF_TOOLCHAIN={name} has no core for {}", bpf::TARGET)
        })?;
        return Ok(());
    }
    if let Some(toolchain) = Toolchain::find()? {
        return toolchain.record();
    }
    let mut ways =
        [("rustup", add_core_source as fn() -> Result<()>), ("Debian", add_debian_compiler)];
    if debian_core().is_dir() {
        // Debian's is installed, but not linked in rustup.
        ways.reverse();
    }
    let mut refusals = Vec::new();
    for (way, take) in ways {
        if let Err(error) = take() {
            refusals.push(format!("{way}: {error:#}"));
        } else if let Some(toolchain) = Toolchain::find()? {
            return toolchain.record();
        } else {
            refusals.push(format!("{way}: installed, but still no core for {}", bpf::TARGET));
        }
    }
    bail!("{}", refusals.join("; "))
}

/// Installs core's source, so that the installed compiler can build core.
fn add_core_source() -> Result<()> {
    let Some(toolchains) = bpf::rustup_toolchains() else { bail!("not installed") };
    let active = match env::var("RUSTUP_TOOLCHAIN") {
        Ok(name) => name,
        Err(_) => output(command("rustup")?.args(["show", "active-toolchain"]))?,
    };
    let active = active.split_whitespace().next().unwrap_or("stable");
    let llvm = bpf::llvm_of(&toolchains.join(active).join("bin/rustc"));
    if llvm.as_deref() != Some(bpf::LLVM) {
        bail!(
            "{active} has LLVM {}, the linker needs {}",
            llvm.as_deref().unwrap_or("?"),
            bpf::LLVM
        );
    }
    // Without a network, rustup fails at once or hangs.
    let mut add = command("timeout")?;
    add.args(["120", "rustup", "component", "add", "rust-src", "--toolchain", active]);
    announce(&add);
    output(&mut add).map(drop)
}

/// Installs the compiler that Debian has for its browsers.
fn add_debian_compiler() -> Result<()> {
    if !debian_core().is_dir() {
        apt_install(&DEBIAN_COMPILER)?;
    }
    if bpf::rustup_toolchains().is_some() {
        let mut link = command("rustup")?;
        link.args(["toolchain", "link", bpf::DEBIAN_TOOLCHAIN, "/usr"]);
        announce(&link);
        output(&mut link)?;
    }
    Ok(())
}

fn debian_core() -> PathBuf {
    Path::new("/usr/lib/rustlib").join(bpf::TARGET)
}

fn provide_linker() -> Result<()> {
    if bpf::linker().is_some() {
        return Ok(());
    }
    let prefix = env::var("LLVM_PREFIX").unwrap_or_else(|_| format!("/usr/lib/llvm-{}", bpf::LLVM));
    // Without root, the installed LLVM has to do.
    if is_root() || !Path::new(&prefix).join("bin/llvm-config").is_file() {
        apt_install(&DEBIAN_LLVM)?;
    }
    cargo_install(
        "bpf-linker",
        LINKER_VERSION,
        &["--features", "llvm-22"],
        &[("LLVM_PREFIX", &prefix)],
    )?;
    bpf::linker().context("installed, but it does not run or has another LLVM")?;
    Ok(())
}

fn provide_programs(programs: &[(&str, &str)]) -> Result<()> {
    let absent = |(program, _): &&(&str, &str)| find_program(program).is_none();
    let mut packages: Vec<&str> =
        programs.iter().filter(absent).map(|(_, package)| *package).collect();
    packages.dedup();
    if packages.is_empty() {
        return Ok(());
    }
    apt_install(&packages)?;
    match programs.iter().find(absent) {
        Some((program, package)) => bail!("{package} is installed, but there is no {program}"),
        None => Ok(()),
    }
}

fn provide_rust_tools() -> Result<()> {
    let tools = ["cargo-fmt", "cargo-clippy"];
    if bpf::rustup_toolchains().is_none() {
        return provide_programs(&[
            ("cargo-fmt", "rustfmt-web"),
            ("cargo-clippy", "rust-web-clippy"),
        ]);
    }
    // rustup has proxies in PATH also for what is not installed: only a call shows whether it is.
    let works = |tool: &str| output(command(tool)?.arg("--version"));
    if tools.iter().all(|tool| works(tool).is_ok()) {
        return Ok(());
    }
    let mut add = command("timeout")?;
    add.args(["120", "rustup", "component", "add", "rustfmt", "clippy"]);
    announce(&add);
    output(&mut add).map(drop)
}

/// Installs the clippy of the compiler that builds the programs: it reads the same core library.
fn provide_bpf_clippy() -> Result<()> {
    match Toolchain::find()? {
        Some(toolchain) if toolchain.has_clippy() => Ok(()),
        Some(toolchain) if toolchain.sysroot == Path::new("/usr") => {
            apt_install(&["rust-web-clippy"])
        }
        Some(toolchain) => bail!("toolchain {} has none", toolchain.name),
        None => bail!("no compiler"),
    }
}

fn provide_cargo_deny() -> Result<()> {
    if find_program("cargo-deny").is_some() {
        return Ok(());
    }
    cargo_install("cargo-deny", DENY_VERSION, &[], &[])
}

fn cargo_install(name: &str, version: &str, features: &[&str], env: &[(&str, &str)]) -> Result<()> {
    let mut install = cargo()?;
    install
        .args(["install", name, "--version", version, "--locked", "--no-default-features"])
        .args(features)
        .envs(env.iter().copied());
    announce(&install);
    check(&mut install)
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!("not Debian; install what it calls {list}");
    }
    if !is_root() {
        bail!("as root: apt-get install --no-install-recommends {list}");
    }
    let apt = |args: &[&str]| {
        let mut apt = command("apt-get")?;
        apt.args(["-qq", "-o", "DPkg::Lock::Timeout=120"]).args(args);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        Ok::<_, anyhow::Error>(apt)
    };
    // apt must not remove an installed package: that is the user's decision.
    let mut install = apt(&["install", "-y", "--no-remove", "--no-install-recommends"])?;
    install.args(packages);
    announce(&install);
    let services: Vec<_> = SERVICES.iter().filter(|(name, _)| packages.contains(name)).collect();
    let _refusal = if services.is_empty() { None } else { Refusal::new()? };
    if output(&mut install).is_err() {
        // The package lists may be missing or old.
        output(&mut apt(&["update"])?)?;
        output(&mut install)?;
    }
    if !services.is_empty() && find_program("systemctl").is_some() {
        let mut disable = command("systemctl")?;
        disable.args(["--quiet", "disable"]).args(services.iter().map(|(_, service)| service));
        announce(&disable);
        output(&mut disable)?;
    }
    Ok(())
}

/// Keeps Debian from starting the services of the packages that it installs: the tests need the programs only.
struct Refusal;

impl Refusal {
    /// None where the machine has a policy of its own.
    fn new() -> Result<Option<Self>> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut file = fs::OpenOptions::new();
        match file.write(true).create_new(true).mode(0o755).open(POLICY) {
            Ok(mut file) => {
                let refusal = Self;
                file.write_all(b"#!/bin/sh\nexit 101\n").context(POLICY)?;
                Ok(Some(refusal))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error).context(POLICY),
        }
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(POLICY) {
            eprintln!("setup: remove {POLICY} by hand, or no package can start a service: {error}");
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
