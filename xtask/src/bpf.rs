//! Which compiler can build the kernel programs.
//!
//! It is known by what it has, never by its name: a ready core library for `bpfel-unknown-none`, or
//! core's source to build one from. A toolchain called nightly may have neither. And its LLVM must be
//! the linker's, because what it hands to the linker is LLVM's bitcode.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::workspace::{self, command, output, target_dir};

/// What bpf-linker is built with, and so what the compiler must have. Debian 12 carries both.
pub(crate) const LLVM: &str = "22";
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The name under which Debian's compiler becomes a toolchain of rustup.
pub(crate) const DEBIAN_TOOLCHAIN: &str = "tocsin-bpf";

/// In the order of preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Core {
    Ready,
    Source,
}

pub(crate) struct Toolchain {
    /// As `rustup run` takes it; without rustup only a word for the log.
    pub(crate) name: String,
    pub(crate) sysroot: PathBuf,
    pub(crate) core: Core,
    rustup: bool,
}

impl Toolchain {
    /// The toolchain that `agent/build.rs` would take, if it can build, else the best there is.
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
        // A linked toolchain is a symbolic link.
        let sysroot = sysroot.canonicalize().ok()?;
        Some(Self { name: name.to_owned(), sysroot, core, rustup })
    }

    fn has_our_llvm(&self) -> bool {
        llvm_of(&self.sysroot.join("bin/rustc")).as_deref() == Some(LLVM)
    }

    pub(crate) fn has_clippy(&self) -> bool {
        self.sysroot.join("bin/cargo-clippy").is_file()
    }

    /// A program of this toolchain, with what makes it accept the target.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        let mut command = if self.rustup {
            let mut rustup = command("rustup")?;
            rustup.args(["run", &self.name, program]);
            rustup
        } else {
            command(program)?
        };
        // The same as agent/build.rs: with the crates named, cargo itself stays a stable cargo.
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
        // A directory of its own: other flags in the same one would rebuild everything each time.
        cargo.arg("--target-dir").arg(target_dir()?.join("bpf"));
        Ok(cargo)
    }

    /// Tells `agent/build.rs`. The file is left alone when it says so already: its time is an input.
    pub(crate) fn record(&self) -> Result<()> {
        let path = record_path()?;
        if fs::read_to_string(&path).is_ok_and(|old| old.trim() == self.name) {
            return Ok(());
        }
        fs::create_dir_all(target_dir()?).context("create the target directory")?;
        fs::write(&path, format!("{}\n", self.name)).with_context(|| path.display().to_string())
    }
}

/// bpf-linker, if there is one that runs and has our LLVM.
pub(crate) fn linker() -> Option<PathBuf> {
    let path = workspace::find_program("bpf-linker")?;
    // A linker with LLVM inside does not name it: then only using it can tell.
    let libraries = output(Command::new("ldd").arg(&path)).ok()?;
    let llvm = libraries.lines().find(|line| line.contains("libLLVM"));
    let fits = |line: &str| {
        let version =
            line.trim().trim_start_matches("libLLVM").trim_start_matches(['.', '-', 's', 'o']);
        version.starts_with(LLVM) && !line.contains("not found")
    };
    llvm.is_none_or(fits).then_some(path)
}

/// The major version of the LLVM inside a compiler.
pub(crate) fn llvm_of(rustc_path: &Path) -> Option<String> {
    let version = output(rustc(rustc_path).arg("-vV")).ok()?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    Some(llvm.split('.').next()?.to_owned())
}

/// rustup's toolchains; none where cargo came another way.
pub(crate) fn rustup_toolchains() -> Option<PathBuf> {
    workspace::find_program("rustup")?;
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    Some(home.or_else(|| Some(env::home_dir()?.join(".rustup")))?.join("toolchains"))
}

/// `nightly` may be written for `nightly-x86_64-unknown-linux-gnu`.
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
    // `cargo run` names its own compiler's libraries there.
    rustc.env_remove("LD_LIBRARY_PATH");
    rustc
}

fn record_path() -> Result<PathBuf> {
    Ok(target_dir()?.join("bpf-toolchain"))
}
