//! The programs that run in the kernel. One object file; one file per family of hooks.
//!
//! Every program does the same four things, in `emit`: count exactly, ask the rate limiter, write a
//! record into the ring buffer, count what could not be written. Nothing here decides anything: the
//! only filter is "no error" and "known to be harmless".
//!
//! Built for `bpfel-unknown-none` by `agent/build.rs`. For any other target this is an empty program,
//! so that `cargo clippy --workspace` works on a machine without a BPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod block;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod filesystem;
#[cfg(target_arch = "bpf")]
mod mount;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: the verifier refuses a program that could get here.
    loop {}
}

/// `bpf_probe_read_kernel` and `bpf_ktime_get_ns` are for GPL-compatible programs only; "Dual MIT/GPL"
/// is the string the kernel accepts (include/linux/license.h).
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
