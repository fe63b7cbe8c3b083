//! Changes of the mount table, as a doorbell: what changed is read from mountinfo.

use aya_ebpf::{
    EbpfContext,
    macros::{fexit, tracepoint},
    programs::{FExitContext, TracePointContext},
};
use tocsin_ebpf::{Kind, Record};

use crate::emit::{emit, layouts};

#[inline(always)]
fn ring<C: EbpfContext>(ctx: &C) {
    let mut record = Record {
        ktime: 0,
        place: 0,
        dev: 0,
        errno: 0,
        kind: Kind::MountChange as u16,
        reserved: 0,
        detail: 0,
        rwbs: [0; 8],
        suppressed: 0,
    };
    emit(ctx, &mut record, false);
}

/// Every remount of a superblock, by mount(2), fsconfig(2) or sysrq-u. It costs nothing until it
/// happens, and is the only edge of an fsconfig(2) remount: poll(2) on mountinfo misses that one.
#[fexit(function = "reconfigure_super")]
pub(crate) fn reconfigure_super(ctx: FExitContext) -> u32 {
    ring(&ctx);
    0
}

#[inline(always)]
fn try_exit(ctx: &TracePointContext) -> u32 {
    // SAFETY: the offset is that of this kernel's own format file; the helper checks the address.
    let ret = unsafe { ctx.read_at::<i64>(layouts().syscall_ret as usize) }.unwrap_or(0);
    if ret == 0 {
        ring(ctx);
    }
    0
}

#[tracepoint]
pub(crate) fn sys_exit_mount(ctx: TracePointContext) -> u32 {
    try_exit(&ctx)
}

#[tracepoint]
pub(crate) fn sys_exit_umount(ctx: TracePointContext) -> u32 {
    try_exit(&ctx)
}

#[tracepoint]
pub(crate) fn sys_exit_fsconfig(ctx: TracePointContext) -> u32 {
    try_exit(&ctx)
}

#[tracepoint]
pub(crate) fn sys_exit_mount_setattr(ctx: TracePointContext) -> u32 {
    try_exit(&ctx)
}

#[tracepoint]
pub(crate) fn sys_exit_move_mount(ctx: TracePointContext) -> u32 {
    try_exit(&ctx)
}
