//! The initramfs of the guests of one kernel: the agent, busybox, mkfs, kernel modules and the scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::debian::Kernel;
use super::groups::GROUPS;
use crate::setup::KERNEL_PROGRAMS;
use crate::workspace::{check, command, find_program, output};

/// Modules that are loaded before the agent starts. With crc32c among them, the crypto API does not call modprobe.
const EARLY: [&str; 2] = ["crc32c_generic", "loop"];
/// Programs that make the guests, and are not needed inside.
const ON_THE_HOST: [&str; 4] = ["qemu-system-x86_64", "cpio", "dpkg-deb", "depmod"];

pub(crate) fn build(kernel: &Kernel, agent: &Path) -> Result<PathBuf> {
    let root = kernel.dir.join("initramfs");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| root.display().to_string())?;
    }
    for dir in ["bin", "dev", "mnt", "modules", "proc", "run", "scenarios", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    copy_program(agent, &root, "bin/tocsin")?;
    for (name, _) in KERNEL_PROGRAMS.iter().filter(|(name, _)| !ON_THE_HOST.contains(name)) {
        let program = find_program(name).with_context(|| format!("no {name}"))?;
        copy_program(&program, &root, &format!("bin/{name}"))?;
    }
    let init = root.join("init");
    fs::write(&init, include_str!("guest/init.sh"))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    for group in &GROUPS {
        fs::write(root.join("scenarios").join(format!("{}.sh", group.name)), group.script)?;
    }
    copy_modules(kernel, &root.join("modules"))?;

    let archive = kernel.dir.join("initramfs.cpio");
    // The kernel reads this format only.
    let mut pack = command("sh")?;
    pack.args(["-ec", "find . | cpio --quiet --create --format=newc > \"$0\""]).arg(&archive);
    check(pack.current_dir(&root))?;
    Ok(archive)
}

/// Copies a program, and its shared libraries to the paths where it finds them.
fn copy_program(program: &Path, root: &Path, to: &str) -> Result<()> {
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to.parent().unwrap_or(root))?;
        fs::copy(from, to).map(drop).with_context(|| from.display().to_string())
    };
    copy(program, &root.join(to))?;
    // ldd fails on a static program, which has no libraries.
    let libraries = output(Command::new("ldd").arg(program)).unwrap_or_default();
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x..)`, and the loader as a path alone.
    for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        copy(Path::new(path), &root.join(path.trim_start_matches('/')))?;
    }
    Ok(())
}

/// Copies the modules, and writes the list `early` and that of each group in the order of loading.
fn copy_modules(kernel: &Kernel, to: &Path) -> Result<()> {
    let base = kernel.base.display().to_string();
    // The installation of the package would make modules.dep.
    let mut depmod = command(find_program("depmod").context("no depmod")?)?;
    check(depmod.args(["-b", &base, &kernel.release]))?;
    let modules = kernel.base.join("lib/modules").join(&kernel.release);
    let dependencies = fs::read_to_string(modules.join("modules.dep")).context("modules.dep")?;
    let early = load_order(&dependencies, &EARLY, &[]);
    let lists =
        GROUPS.iter().map(|group| (group.name, load_order(&dependencies, group.modules, &early)));
    for (list, new) in [("early", early.clone())].into_iter().chain(lists) {
        let mut names = String::new();
        for module in new {
            let name = copy_module(&modules.join(module), to)?;
            names.push_str(&format!("{name}\n"));
        }
        fs::write(to.join(list), names)?;
    }
    Ok(())
}

/// Copies a module uncompressed, because insmod may not know how to uncompress it; gives the file's name.
fn copy_module(module: &Path, to: &Path) -> Result<String> {
    let name = module.file_name().unwrap_or_default().to_string_lossy();
    let Some(plain) = name.strip_suffix(".xz") else {
        fs::copy(module, to.join(&*name)).with_context(|| module.display().to_string())?;
        return Ok(name.into_owned());
    };
    let target = fs::File::create(to.join(plain))?;
    check(command("busybox")?.arg("xzcat").arg(module).stdout(target))?;
    Ok(plain.to_owned())
}

/// The files to load for these modules, each after those that it needs, without those that are loaded. A module that this
/// kernel does not have, or has built in, is left out.
fn load_order<'a>(modules_dep: &'a str, wanted: &[&str], loaded: &[&'a str]) -> Vec<&'a str> {
    let stem = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or(path);
        file.split(".ko").next().unwrap_or(file).replace('-', "_")
    };
    let mut order = Vec::new();
    for module in wanted {
        let mut lines = modules_dep.lines().filter_map(|line| line.split_once(':'));
        let Some((path, needs)) = lines.find(|(path, _)| stem(path) == *module) else { continue };
        // depmod lists the dependencies in the reverse order of loading.
        for file in needs.split_whitespace().rev().chain([path]) {
            if !loaded.contains(&file) && !order.contains(&file) {
                order.push(file);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::load_order;

    #[test]
    fn modules_are_loaded_after_what_they_need() {
        let dependencies = "\
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/mbcache.ko.xz kernel/fs/jbd2/jbd2.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/drivers/block/loop.ko.xz:
kernel/fs/xfs/xfs.ko.xz: kernel/fs/mbcache.ko.xz
";
        let order = load_order(dependencies, &["crc32c_generic", "ext4"], &[]);
        assert_eq!(
            order,
            [
                "kernel/fs/jbd2/jbd2.ko.xz",
                "kernel/fs/mbcache.ko.xz",
                "kernel/lib/crc16.ko.xz",
                "kernel/fs/ext4/ext4.ko.xz"
            ]
        );
        assert_eq!(load_order(dependencies, &["xfs", "zfs"], &order), ["kernel/fs/xfs/xfs.ko.xz"]);
    }
}
