//! The programs that run in the kernel: one object file, with one source file per family of hooks.
//!
//! Every program ends in `emit`, which counts the event exactly, applies the rate limit, writes a record into the ring
//! buffer, and counts what it could not write. The programs decide nothing: they drop what has no error, and send no
//! record of what is known to be harmless.
//!
//! `agent/build.rs` builds them for `bpfel-unknown-none`. For any other target this is an empty program, so that
//! `cargo clippy --workspace` works on a machine without a BPF toolchain.
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
    // The verifier refuses a program that can get here.
    loop {}
}

/// The license of the programs. `bpf_probe_read_kernel` and `bpf_ktime_get_ns` are for GPL-compatible programs only, and
/// "Dual MIT/GPL" is one of the strings that the kernel accepts (include/linux/license.h).
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
