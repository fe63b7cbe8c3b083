//! Errors that filesystems report, and data that did not reach the disk.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use tocsin_ebpf::{FilesystemLayout, Kind, Record};

use crate::emit::{emit, layout, u32_at, u64_at};

/// `XBF_READ_AHEAD` in fs/xfs/xfs_buf.h, the same from Linux 5.10 to 7.3. If the data is needed, the real read follows.
const XBF_READ_AHEAD: u32 = 1 << 2;

/// `F2FS_GOING_DOWN_NEED_FSCK` in include/uapi/linux/f2fs.h: f2fs goes on.
const F2FS_GOING_DOWN_NEED_FSCK: u32 = 4;

/// The low 12 bits of an `errseq_t`, which are its errno (lib/errseq.c).
const ERRSEQ_ERRNO: u32 = 0xfff;

#[inline(always)]
fn record(kind: Kind, dev: u32, errno: i32, place: u64, detail: u32) -> Record {
    Record { place, dev, errno, kind: kind as u16, detail, ..Record::EMPTY }
}

#[tracepoint]
pub(crate) fn ext4_error(ctx: TracePointContext) -> u32 {
    let layout: FilesystemLayout = layout!(ext4_error);
    let line = u32_at(&ctx, layout.detail);
    emit(&ctx, &mut record(Kind::Ext4Error, u32_at(&ctx, layout.dev), 0, 0, line), false);
    0
}

#[tracepoint]
pub(crate) fn ext4_shutdown(ctx: TracePointContext) -> u32 {
    let layout: FilesystemLayout = layout!(ext4_shutdown);
    let flags = u32_at(&ctx, layout.detail);
    emit(&ctx, &mut record(Kind::Ext4Shutdown, u32_at(&ctx, layout.dev), 0, 0, flags), false);
    0
}

#[tracepoint]
pub(crate) fn xfs_force_shutdown(ctx: TracePointContext) -> u32 {
    let layout: FilesystemLayout = layout!(xfs_shutdown);
    let flags = u32_at(&ctx, layout.detail);
    emit(&ctx, &mut record(Kind::XfsShutdown, u32_at(&ctx, layout.dev), 0, 0, flags), false);
    0
}

#[tracepoint]
pub(crate) fn xfs_buf_ioerror(ctx: TracePointContext) -> u32 {
    let layout: FilesystemLayout = layout!(xfs_buffer);
    let error = u32_at(&ctx, layout.error).cast_signed();
    // The kernel calls this function with 0 to clear an old error.
    if error == 0 {
        return 0;
    }
    let flags = u32_at(&ctx, layout.detail);
    let (dev, place) = (u32_at(&ctx, layout.dev), u64_at(&ctx, layout.place));
    let silent = flags & XBF_READ_AHEAD != 0;
    emit(&ctx, &mut record(Kind::XfsBuffer, dev, -error, place, flags), silent);
    0
}

#[tracepoint]
pub(crate) fn f2fs_fault_report(ctx: TracePointContext) -> u32 {
    let layout: FilesystemLayout = layout!(f2fs_error);
    let report = u32_at(&ctx, layout.detail);
    emit(&ctx, &mut record(Kind::F2fsError, u32_at(&ctx, layout.dev), 0, 0, report), false);
    0
}

#[tracepoint]
pub(crate) fn f2fs_shutdown(ctx: TracePointContext) -> u32 {
    let layout: FilesystemLayout = layout!(f2fs_shutdown);
    let mode = u32_at(&ctx, layout.detail);
    // The event is also there if the call failed, and if it only asks for fsck.
    if u32_at(&ctx, layout.error) != 0 || mode == F2FS_GOING_DOWN_NEED_FSCK {
        return 0;
    }
    emit(&ctx, &mut record(Kind::F2fsShutdown, u32_at(&ctx, layout.dev), 0, 0, mode), false);
    0
}

#[tracepoint]
pub(crate) fn filemap_set_wb_err(ctx: TracePointContext) -> u32 {
    let layout: FilesystemLayout = layout!(writeback);
    // The event has the old value. In the first event of a series that is 0, and the errno is not known.
    let errno = (u32_at(&ctx, layout.error) & ERRSEQ_ERRNO).cast_signed();
    let (dev, inode) = (u32_at(&ctx, layout.dev), u64_at(&ctx, layout.place));
    emit(&ctx, &mut record(Kind::Writeback, dev, errno, inode, 0), false);
    0
}
