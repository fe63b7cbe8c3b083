//! Builds the kernel programs with aya-build and leaves the object, without DWARF, at `$OUT_DIR/tocsin-ebpf`.
//!
//! The toolchain is `TOCSIN_BPF_TOOLCHAIN`, else the one that `cargo xtask setup` found and wrote into
//! `bpf-toolchain` in the target directory, else `nightly`. `AYA_BUILD_SKIP=1` leaves an empty file
//! instead: the agent then builds anywhere, and runs without kernel programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, anyhow};

const PROGRAMS: &str = "../agent-ebpf";
/// The crates that use unstable features. Naming them, not `1`, keeps aya-build from `-Z build-std`.
const UNSTABLE_CRATES: &str = "tocsin_ebpf,aya_ebpf,aya_log_ebpf";

fn main() {
    for path in [PROGRAMS, "../Cargo.toml", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in ["AYA_BUILD_SKIP", "TOCSIN_BPF_TOOLCHAIN", "RUSTC_BOOTSTRAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(error) = object() {
        // Not a panic: cargo then prints this sentence, and not the whole output of the script.
        println!("cargo::error={error:#}");
    }
}

fn object() -> Result<()> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let object = out.join("tocsin-ebpf");
    if env::var("AYA_BUILD_SKIP").is_ok_and(|skip| skip == "1" || skip.eq_ignore_ascii_case("true"))
    {
        println!("cargo::warning=AYA_BUILD_SKIP is set: this build has no kernel programs");
        return fs::write(&object, []).context("write an empty object");
    }

    let toolchain = toolchain(&out);
    let sysroot = sysroot(&toolchain).with_context(|| {
        format!(
            "no compiler for the kernel programs (tried `{toolchain}`): run `cargo xtask setup`"
        )
    })?;
    prepare_environment(&sysroot);
    let package =
        aya_build::Package { name: "tocsin-ebpf", root_dir: PROGRAMS, ..Default::default() };
    let built = aya_build::build_ebpf([package], aya_build::Toolchain::Custom(&toolchain));
    // The cause is in the warnings; aya-build's own words are the whole command line.
    built.map_err(|_command_line| {
        anyhow!(
            "the kernel programs did not build with `{toolchain}`: unless the warnings show a \
             mistake in them, run `cargo xtask setup`"
        )
    })?;
    without_dwarf(&object).with_context(|| format!("take DWARF out of {}", object.display()))
}

/// Deletes the DWARF sections, nine tenths of the object. The linker has made BTF of them, which is all that the kernel
/// and aya read.
fn without_dwarf(path: &Path) -> Result<()> {
    let whole = fs::read(path)?;
    let mut object = object::build::elf::Builder::read(whole.as_slice())?;
    for section in &mut object.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    object.delete_orphans();
    // LLVM keeps the names of sections and symbols in one table; this writer wants two.
    let names = object.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = object::build::elf::SectionData::SectionString;
    let mut small = Vec::new();
    object.write(&mut object::write::StreamingBuffer::new(&mut small))?;
    Ok(fs::write(path, small)?)
}

fn toolchain(out: &Path) -> String {
    if let Ok(name) = env::var("TOCSIN_BPF_TOOLCHAIN") {
        return name;
    }
    // OUT_DIR is inside the target directory, wherever that is.
    let recorded = out.ancestors().map(|dir| dir.join("bpf-toolchain")).find(|path| path.is_file());
    let Some(recorded) = recorded else { return "nightly".to_owned() };
    println!("cargo::rerun-if-changed={}", recorded.display());
    fs::read_to_string(recorded)
        .map_or_else(|_| "nightly".to_owned(), |name| name.trim().to_owned())
}

/// Where that toolchain's libraries are. Without rustup it is the compiler in PATH, as for aya-build.
fn sysroot(toolchain: &str) -> Result<PathBuf> {
    let ask =
        |command: &mut Command| command.args(["--print", "sysroot"]).env_remove("RUSTC").output();
    let answer = match ask(Command::new("rustup").args(["run", toolchain, "rustc"])) {
        Err(_no_rustup) => ask(&mut Command::new("rustc")).context("rustc")?,
        Ok(answer) => answer,
    };
    if !answer.status.success() {
        return Err(anyhow!(
            "{}",
            String::from_utf8_lossy(&answer.stderr).lines().next().unwrap_or_default()
        ));
    }
    Ok(PathBuf::from(String::from_utf8(answer.stdout).context("sysroot")?.trim()))
}

fn prepare_environment(sysroot: &Path) {
    let bootstrap =
        if sysroot.join("lib/rustlib/bpfel-unknown-none").is_dir() { UNSTABLE_CRATES } else { "1" };
    // `cargo install` puts bpf-linker there; where cargo is Debian's, PATH need not name it.
    let cargo_bin = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(env::home_dir()?.join(".cargo")));
    let mut path = env::var_os("PATH").unwrap_or_default();
    if let Some(home) = cargo_bin {
        path.push(":");
        path.push(home.join("bin"));
    }
    // SAFETY: a build script that has not started a thread; nothing reads the environment meanwhile.
    unsafe {
        env::set_var("PATH", path);
        // aya-build hands on each line as a warning, and cargo repeats warnings at each build.
        env::set_var("CARGO_TERM_QUIET", "true");
        if env::var_os("RUSTC_BOOTSTRAP").is_none() {
            env::set_var("RUSTC_BOOTSTRAP", bootstrap);
        }
    }
}
