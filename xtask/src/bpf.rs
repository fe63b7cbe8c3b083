//! Finds a compiler that can build the kernel programs.
//!
//! Such a toolchain has a compiled core library for `bpfel-unknown-none`, or core's source; its name says nothing about
//! that. Its LLVM must have the linker's version, because it passes LLVM bitcode to the linker.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::workspace::{self, command, output, target_dir};

/// The version of LLVM that bpf-linker is built with, and that the compiler must have. Debian 12 has it.
pub(crate) const LLVM: &str = "22";
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// rustup's name for Debian's compiler, once that is linked as a toolchain.
pub(crate) const DEBIAN_TOOLCHAIN: &str = "tocsin-bpf";

/// What a toolchain has of core, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Core {
    Ready,
    Source,
}

pub(crate) struct Toolchain {
    /// Its name for `rustup run`; without rustup a word for the log.
    pub(crate) name: String,
    pub(crate) sysroot: PathBuf,
    pub(crate) core: Core,
    rustup: bool,
}

impl Toolchain {
    /// The toolchain that `agent/build.rs` uses, if it can build; otherwise the best one that is installed.
    pub(crate) fn find() -> Result<Option<Self>> {
        if let Ok(name) = env::var("TOCSIN_BPF_TOOLCHAIN") {
            return Ok(Self::named(&name));
        }
        let recorded = fs::read_to_string(record_path()?).unwrap_or_default();
        if let Some(recorded) = Self::named(recorded.trim()).filter(Self::has_our_llvm) {
            return Ok(Some(recorded));
        }
        let mut all: Vec<Self> = match rustup_toolchains() {
            Some(dir) => fs::read_dir(dir)
                .into_iter()
                .flatten()
                .filter_map(|entry| Self::named(entry.ok()?.file_name().to_str()?))
                .collect(),
            None => Self::named("system").into_iter().collect(),
        };
        all.sort_by_cached_key(|toolchain| (toolchain.core, toolchain.name.clone()));
        Ok(all.into_iter().find(Self::has_our_llvm))
    }

    fn named(name: &str) -> Option<Self> {
        if name.is_empty() {
            return None;
        }
        let (sysroot, rustup) = match rustup_toolchains() {
            Some(dir) => (installed(&dir, name)?, true),
            None => (
                PathBuf::from(output(rustc("rustc").args(["--print", "sysroot"])).ok()?.trim()),
                false,
            ),
        };
        let library = sysroot.join("lib/rustlib");
        let core = if has_core(&library.join(TARGET).join("lib")) {
            Core::Ready
        } else if library.join("src/rust/library/core/src/lib.rs").is_file() {
            Core::Source
        } else {
            return None;
        };
        // rustup links a toolchain by a symbolic link.
        let sysroot = sysroot.canonicalize().ok()?;
        Some(Self { name: name.to_owned(), sysroot, core, rustup })
    }

    fn has_our_llvm(&self) -> bool {
        llvm_of(&self.sysroot.join("bin/rustc")).as_deref() == Some(LLVM)
    }

    pub(crate) fn has_clippy(&self) -> bool {
        self.sysroot.join("bin/cargo-clippy").is_file()
    }

    /// A program of this toolchain, with the environment in which it accepts the target.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let mut command = if self.rustup {
            let mut rustup = command("rustup")?;
            rustup.args(["run", &self.name, program]);
            rustup
        } else {
            command(program)?
        };
        // As in agent/build.rs: with the crates named, cargo itself behaves as a stable cargo.
        let unstable = match self.core {
            Core::Ready => "tocsin_ebpf,aya_ebpf,aya_log_ebpf",
            Core::Source => "1",
        };
        command.env("RUSTC_BOOTSTRAP", unstable).env_remove("RUSTC");
        Ok(command)
    }

    /// `cargo SUBCOMMAND` on the kernel programs, with aya-build's flags.
    pub(crate) fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut cargo = self.command("cargo")?;
        cargo.args([
            subcommand,
            "--package",
            "tocsin-ebpf",
            "--bins",
            "--release",
            "--target",
            TARGET,
        ]);
        if self.core == Core::Source {
            cargo.args(["-Z", "build-std=core"]);
        }
        let arch = env::consts::ARCH;
        cargo.env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{arch}\"\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf"),
        );
        // A directory of its own: cargo rebuilds everything when the flags change.
        cargo.arg("--target-dir").arg(target_dir()?.join("bpf"));
        Ok(cargo)
    }

    /// Writes the file from which `agent/build.rs` takes the name. A file with this name is left alone, because its time is
    /// an input of the build.
    pub(crate) fn record(&self) -> Result<()> {
        let path = record_path()?;
        if fs::read_to_string(&path).is_ok_and(|old| old.trim() == self.name) {
            return Ok(());
        }
        fs::create_dir_all(target_dir()?).context("create the target directory")?;
        fs::write(&path, format!("{}\n", self.name)).with_context(|| path.display().to_string())
    }
}

/// The path of a bpf-linker that runs and has [`LLVM`]'s version.
pub(crate) fn linker() -> Option<PathBuf> {
    let path = workspace::find_program("bpf-linker")?;
    // One with LLVM linked statically does not name it, and is taken as it is.
    let libraries = output(Command::new("ldd").arg(&path)).ok()?;
    let llvm = libraries.lines().find(|line| line.contains("libLLVM"));
    let fits = |line: &str| {
        let version =
            line.trim().trim_start_matches("libLLVM").trim_start_matches(['.', '-', 's', 'o']);
        version.starts_with(LLVM) && !line.contains("not found")
    };
    llvm.is_none_or(fits).then_some(path)
}

/// The major version of a compiler's LLVM.
pub(crate) fn llvm_of(rustc_path: &Path) -> Option<String> {
    let version = output(rustc(rustc_path).arg("-vV")).ok()?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(llvm.split('.').next()?.to_owned())
}

/// The directory of rustup's toolchains; none without rustup.
pub(crate) fn rustup_toolchains() -> Option<PathBuf> {
    workspace::find_program("rustup")?;
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    Some(home.or_else(|| Some(env::home_dir()?.join(".rustup")))?.join("toolchains"))
}

/// The directory of a toolchain by its name, where `nightly` stands for `nightly-x86_64-unknown-linux-gnu`.
fn installed(toolchains: &Path, name: &str) -> Option<PathBuf> {
    let exact = toolchains.join(name);
    if exact.is_dir() {
        return Some(exact);
    }
    let arch = env::consts::ARCH;
    Some(toolchains.join(format!("{name}-{arch}-unknown-linux-gnu"))).filter(|path| path.is_dir())
}

fn has_core(library: &Path) -> bool {
    let files = fs::read_dir(library).into_iter().flatten().flatten();
    files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libcore-"))
}

fn rustc(path: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut rustc = Command::new(path);
    // `cargo run` sets it to the libraries of its own compiler.
    rustc.env_remove("LD_LIBRARY_PATH");
    rustc
}

fn record_path() -> Result<PathBuf> {
    Ok(target_dir()?.join("bpf-toolchain"))
}
