//! Notifications that the mount table may have changed. The agent reads from mountinfo what has changed.
//!
//! These hooks are attached only with `MOUNT_HOOKS=syscalls`: any enabled syscall tracepoint makes every system call of
//! every process take the slow path when it returns.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use tocsin_ebpf::{Kind, Record};

use crate::emit::{emit, layout};

#[inline(always)]
fn try_exit(ctx: &TracePointContext) -> u32 {
    let syscall_ret: u32 = layout!(syscall_ret);
    // SAFETY: the offset is that of this kernel's own format file; the helper checks the address.
    let ret = unsafe { ctx.read_at::<i64>(syscall_ret as usize) }.unwrap_or(0);
    if ret == 0 {
        let mut record = Record { kind: Kind::MountChange as u16, ..Record::EMPTY };
        emit(ctx, &mut record, false);
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
