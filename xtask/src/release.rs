//! The binaries that are released: static, each built by the name of its package.
//!
//! A build of the whole workspace would give the agent the features that the controller asks of the libraries they
//! share.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::workspace::{announce, cargo, check, command, host_triple, output, target_dir};

/// Builds the agent.
pub(crate) fn build_agent(kernel_programs: bool) -> Result<PathBuf> {
    build("tocsin", kernel_programs)
}

/// Builds the controller.
pub(crate) fn build_controller() -> Result<PathBuf> {
    build("tocsin-controller", false)
}

/// Builds a package's binary of the same name, static: it runs on any node, whatever its libc.
fn build(package: &str, kernel_programs: bool) -> Result<PathBuf> {
    let triple = host_triple()?;
    // The target is named although it is the host: otherwise the flag would apply to procedural macros too, which cannot
    // be static.
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
    let mut values = "-C target-feature=+crt-static".to_owned();
    if glibc() >= Some(PACKED_RELOCATIONS) {
        // Otherwise, a tenth of the binary would be relocations.
        values.push_str(" -C link-arg=-Wl,-z,pack-relative-relocs");
    }
    if has_lld(&triple)? {
        // Generics have many functions with the same code; nothing here compares their addresses.
        values.push_str(" -C link-arg=-Wl,--icf=all");
    }
    let mut build = cargo()?;
    build
        .args(["build", "--release", "--package", package, "--bin", package, "--target", &triple])
        .env(flags, values);
    if !kernel_programs {
        build.env("AYA_BUILD_SKIP", "1");
    }
    announce(&build);
    check(&mut build)?;
    Ok(target_dir()?.join(triple).join("release").join(package))
}

/// Whether this compiler links with its own lld, which is the default on one platform only.
fn has_lld(triple: &str) -> Result<bool> {
    let sysroot = output(command("rustc")?.args(["--print", "sysroot"]))?;
    let lld = format!("lib/rustlib/{triple}/bin/gcc-ld/ld.lld");
    Ok(triple == "x86_64-unknown-linux-gnu" && Path::new(sysroot.trim()).join(lld).is_file())
}

/// The first glibc whose static start-up code supports packed relocations; with an older one the program crashes.
const PACKED_RELOCATIONS: (u32, u32) = (2, 36);

/// The version of glibc; none with another libc.
fn glibc() -> Option<(u32, u32)> {
    glibc_version(&output(command("getconf").ok()?.arg("GNU_LIBC_VERSION")).ok()?)
}

fn glibc_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_glibc_are_numbers() {
        assert_eq!(glibc_version("glibc 2.36\n"), Some((2, 36)));
        assert_eq!(glibc_version("glibc 2.4.1"), Some((2, 4)));
        assert_eq!(glibc_version("undefined"), None);
        assert!(Some((2, 35)) < Some(PACKED_RELOCATIONS) && None < Some(PACKED_RELOCATIONS));
        assert!(
            Some((2, 36)) >= Some(PACKED_RELOCATIONS) && Some((3, 0)) >= Some(PACKED_RELOCATIONS)
        );
    }
}
