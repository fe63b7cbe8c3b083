//! Failed block requests and bios.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use tocsin_ebpf::{BIO, BlockLayout, Record, block_kind, is_benign_block_error};

use crate::emit::{emit, layout};

/// Failed requests of request-based drivers, since Linux 5.18. The tracepoint fires for errors only, so healthy I/O runs
/// no program.
#[tracepoint]
pub(crate) fn block_rq_error(ctx: TracePointContext) -> u32 {
    try_block(&ctx, &layout!(rq_error), 0)
}

/// The same before Linux 5.18. The tracepoint fires for every completed request, so the program drops those without an
/// error first.
#[tracepoint]
pub(crate) fn block_rq_complete(ctx: TracePointContext) -> u32 {
    try_block(&ctx, &layout!(rq_complete), 0)
}

/// Failed bios of bio-based drivers (device mapper, md, zram). The tracepoint does not fire for request-based I/O
/// (`blk_update_request` clears `BIO_TRACE_COMPLETION`).
#[tracepoint]
pub(crate) fn block_bio_complete(ctx: TracePointContext) -> u32 {
    try_block(&ctx, &layout!(bio_complete), BIO)
}

/// Emits an event of a block tracepoint, unless it has no error. `family` is 0 for requests and [`BIO`] for bios.
#[inline(always)]
fn try_block(ctx: &TracePointContext, layout: &BlockLayout, family: u16) -> u32 {
    // SAFETY: offsets are those of this kernel's own format file; the helper checks the address.
    let error = unsafe { ctx.read_at::<i32>(layout.error as usize) }.unwrap_or(0);
    if error == 0 {
        return 0;
    }
    // SAFETY: as above.
    let (dev, place, sectors, rwbs) = unsafe {
        (
            ctx.read_at::<u32>(layout.dev as usize).unwrap_or(0),
            ctx.read_at::<u64>(layout.sector as usize).unwrap_or(0),
            ctx.read_at::<u32>(layout.sectors as usize).unwrap_or(0),
            ctx.read_at::<[u8; 8]>(layout.rwbs as usize).unwrap_or([0; 8]),
        )
    };
    let kind = block_kind(rwbs, sectors) as u16;
    let errno = -error;
    let kind_of_family = kind + family;
    let mut record =
        Record { place, dev, errno, kind: kind_of_family, detail: sectors, rwbs, ..Record::EMPTY };
    emit(ctx, &mut record, is_benign_block_error(kind, errno));
    0
}
