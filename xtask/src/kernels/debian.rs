//! Debian's kernels: downloaded with apt, unpacked, never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace::{announce, check, command, output};

/// The archives with the newest kernel of each series. Every Debian has the keyring.
const SOURCES: &str = "\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bullseye-security main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security bookworm-security main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security trixie-security main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie-backports main
";

/// Unpacks a package without most of the modules that no guest needs.
const UNPACK: &str = "dpkg-deb --fsys-tarfile \"$0\" | tar -x --exclude='*/kernel/net/[!9]*' \
    --exclude='*/kernel/sound' --exclude='*/kernel/drivers/[acefghijklopqrtuwxyz]*' \
    --exclude='*/kernel/drivers/media' --exclude='*/kernel/drivers/net' --exclude='*/System.map*'";

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub(crate) release: String,
    /// The image that qemu boots.
    pub(crate) image: PathBuf,
    /// The directory with its `lib/modules`.
    pub(crate) base: PathBuf,
    /// The directory for files that are made for this kernel.
    pub(crate) dir: PathBuf,
}

/// A kernel by the beginning of its version: the one that was unpacked before, or else Debian's newest.
pub(crate) fn kernel(dir: &Path, version: &str) -> Result<Kernel> {
    let here = dir.join(version);
    if let Some(kernel) = unpacked(&here) {
        return Ok(kernel);
    }
    let package = newest(dir, version)?;
    let packages = here.join("packages");
    fs::create_dir_all(&packages).with_context(|| packages.display().to_string())?;
    let mut download = apt(dir, "apt-get")?;
    download.args(["-qq", "download", &package]).args(parts(dir, &package)?);
    download.current_dir(&packages);
    announce(&download);
    output(&mut download)?;
    let root = here.join("root");
    fs::create_dir_all(&root)?;
    for package in fs::read_dir(&packages)? {
        let mut unpack = command("sh")?;
        unpack.args(["-ec", UNPACK]).arg(package?.path()).current_dir(&root);
        check(&mut unpack)?;
    }
    fs::remove_dir_all(&packages)?;
    unpacked(&here).with_context(|| format!("{package} holds no kernel with modules"))
}

fn unpacked(dir: &Path) -> Option<Kernel> {
    // Debian 13 has them below /usr/lib.
    let bases = [dir.join("root"), dir.join("root/usr")];
    let base = bases.into_iter().find(|base| base.join("lib/modules").is_dir())?;
    let modules = fs::read_dir(base.join("lib/modules")).ok()?.next()?.ok()?;
    let release = modules.file_name().into_string().ok()?;
    let images =
        [dir.join("root/boot").join(format!("vmlinuz-{release}")), modules.path().join("vmlinuz")];
    let image = images.into_iter().find(|image| image.is_file())?;
    Some(Kernel { release, image, base, dir: dir.to_owned() })
}

/// The packages of a kernel besides its image: Debian splits 7.x into several.
fn parts(dir: &Path, package: &str) -> Result<Vec<String>> {
    let text = output(apt(dir, "apt-cache")?.args(["depends", package]))?;
    let kinds = ["linux-base-", "linux-binary-", "linux-modules-"];
    let part = |name: &&str| kinds.iter().any(|kind| name.starts_with(kind));
    let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(names.filter(part).map(str::to_owned).collect())
}

/// The name of the newest package of a series.
fn newest(dir: &Path, version: &str) -> Result<String> {
    let state = dir.join("apt");
    fs::create_dir_all(state.join("lists/partial")).with_context(|| state.display().to_string())?;
    fs::write(state.join("sources.list"), SOURCES)?;
    fs::write(state.join("apt.conf"), configuration(&state))?;
    // By this state, no package is installed.
    fs::write(state.join("status"), "")?;
    let mut update = apt(dir, "apt-get")?;
    update.args(["-qq", "update"]);
    announce(&update);
    output(&mut update)?;
    let pattern = format!("^linux-image-{}[.-].*-amd64$", version.replace('.', "[.]"));
    let found = output(apt(dir, "apt-cache")?.args(["search", "--names-only", &pattern]))?;
    let names = found.lines().filter_map(|line| line.split_whitespace().next());
    match names.filter(|name| is_plain(name)).max_by_key(|name| numbers(name)) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("Debian has no kernel {version}"),
    }
}

/// Whether a package is a kernel: not a meta package, and no cloud or real-time kernel.
fn is_plain(name: &str) -> bool {
    let release = name.trim_start_matches("linux-image-").trim_end_matches("-amd64");
    let flavour = ["cloud", "rt", "unsigned", "dbg"];
    numbers(release).len() > 2 && !release.split('-').any(|word| flavour.contains(&word))
}

/// The numbers in a package's name, to compare versions: `6.12.9` is older than `6.12.10`.
fn numbers(name: &str) -> Vec<u32> {
    let name = name.trim_end_matches("-amd64");
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// A command of apt with a state of its own, which leaves this machine's sources and lists alone.
fn apt(dir: &Path, program: &str) -> Result<Command> {
    let mut apt = command(program)?;
    apt.env("APT_CONFIG", dir.join("apt/apt.conf"));
    Ok(apt)
}

fn configuration(state: &Path) -> String {
    let at = state.display();
    // apt's sandbox user may not write to this directory.
    format!(
        "Dir::Etc::SourceList \"{at}/sources.list\";\n\
         Dir::Etc::SourceParts \"/dev/null\";\n\
         Dir::State \"{at}\";\n\
         Dir::State::Lists \"{at}/lists\";\n\
         Dir::State::Status \"{at}/status\";\n\
         Dir::Cache \"{at}/cache\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n"
    )
}

#[cfg(test)]
mod tests {
    use super::{is_plain, numbers};

    #[test]
    fn the_newest_plain_kernel_is_taken() {
        let names = [
            "linux-image-6.12-amd64",
            "linux-image-6.12.9+deb13-amd64",
            "linux-image-6.12.117+deb13-amd64",
            "linux-image-6.12.118+deb13-cloud-amd64",
            "linux-image-6.12.118+deb13-rt-amd64",
        ];
        let newest =
            names.into_iter().filter(|name| is_plain(name)).max_by_key(|name| numbers(name));
        assert_eq!(newest, Some("linux-image-6.12.117+deb13-amd64"));
        assert!(numbers("linux-image-5.10.0-9-amd64") < numbers("linux-image-5.10.0-46-amd64"));
    }
}
