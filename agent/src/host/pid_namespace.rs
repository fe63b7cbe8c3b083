//! The PID namespace of this process.

use std::{fs, path::Path};

/// Whether this process is in a PID namespace of its own, as a container without `hostPID` is: then `/proc/1` is not the
/// host's first process. The kernel's first namespace has a fixed inode number (`PROC_PID_INIT_INO` in
/// `include/linux/proc_ns.h`, Linux 3.8 and later).
#[must_use]
pub fn is_pid_namespaced(proc: &Path) -> bool {
    const FIRST: &str = "pid:[4026531836]";
    fs::read_link(proc.join("self/ns/pid")).is_ok_and(|link| link.as_os_str() != FIRST)
}
