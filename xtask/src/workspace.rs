//! Paths in this tree, and calling cargo from a program that cargo has started.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The top of the tree.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The target directory; absolute, because the commands below run in another directory than the user's.
pub(crate) fn target_dir() -> Result<PathBuf> {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(dir).context("CARGO_TARGET_DIR"),
        None => Ok(root().join("target")),
    }
}

/// The directory of `cargo install`, which is not in PATH where cargo is Debian's.
pub(crate) fn cargo_bin() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    Some(home.or_else(|| Some(env::home_dir()?.join(".cargo")))?.join("bin"))
}

/// A command that runs at the top of the tree and finds programs of `cargo install`.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir(root());
    let mut path = env::var_os("PATH").unwrap_or_default();
    if let Some(bin) = cargo_bin() {
        path.push(":");
        path.push(bin);
    }
    command.env("PATH", path);
    if env::var_os("CARGO_TARGET_DIR").is_some() {
        command.env("CARGO_TARGET_DIR", target_dir()?);
    }
    Ok(command)
}

/// The cargo that has started this program.
pub(crate) fn cargo() -> Result<Command> {
    command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command with the user's terminal; an error if it fails.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", line(command)))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command and gives its standard output; an error if it fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {}", line(command)))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let cause = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no output");
        bail!("{} failed: {cause}", line(command));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it, without the path of the program.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or(program.as_os_str()).to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    words.join(" ")
}

/// Prints the command that is run next, as make does.
pub(crate) fn announce(command: &Command) {
    eprintln!("$ {}", line(command));
}

pub(crate) fn host_triple() -> Result<String> {
    let version = output(command("rustc")?.arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}

/// The path of a program: in PATH, in the directory of `cargo install`, or among the system's tools.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let others = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(cargo_bin())
        .chain(others)
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
