//! The types that the kernel programs and the agent share: kinds of events, the record in the ring buffer, keys and values
//! of the counters, and the field layouts that the agent gives to the programs.
//!
//! Both sides compile this file, so a record cannot change on one side only. It has no dependency and no code that can
//! fail.
#![no_std]

/// The kinds of events. Their numbers are the ABI between the programs and the agent, and through pinned maps between an
/// old agent and a new one, so a number is never used again for another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    /// A read request failed (`block_rq_error`, or `block_rq_complete` with an error before 5.18).
    BlockRead = 1,
    /// A write request failed.
    BlockWrite = 2,
    /// A cache flush failed.
    BlockFlush = 3,
    /// A discard (trim) request failed.
    BlockDiscard = 4,
    /// A write-zeroes or other command without data failed.
    BlockZeroes = 5,
    /// A speculative read failed. If the data is needed, the real read follows.
    BlockReadahead = 6,
    /// A read bio failed: `block_bio_complete` of bio-based drivers (device mapper, md), like the five that follow.
    BioRead = 11,
    /// A write bio failed.
    BioWrite = 12,
    /// A flush bio failed.
    BioFlush = 13,
    /// A discard bio failed.
    BioDiscard = 14,
    /// A write-zeroes bio failed.
    BioZeroes = 15,
    /// A readahead bio failed.
    BioReadahead = 16,
    /// `ext4_error`: ext4 found an error in its own structures or could not write them.
    Ext4Error = 20,
    /// `ext4_shutdown`: ext4 was shut down by ioctl.
    Ext4Shutdown = 21,
    /// `xfs_force_shutdown`: xfs shut itself down, or was shut down by ioctl.
    XfsShutdown = 22,
    /// `xfs_buf_ioerror`: a metadata buffer could not be read, written or verified.
    XfsBuffer = 23,
    /// `filemap_set_wb_err`: written data did not reach the disk, on any filesystem.
    Writeback = 24,
    /// `f2fs_fault_report`: f2fs found an error in its structures, or stopped writing checkpoints.
    F2fsError = 25,
    /// `f2fs_shutdown`: f2fs was shut down by ioctl.
    F2fsShutdown = 26,
    /// The mount table may have changed.
    MountChange = 30,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 20] = [
        Self::BlockRead,
        Self::BlockWrite,
        Self::BlockFlush,
        Self::BlockDiscard,
        Self::BlockZeroes,
        Self::BlockReadahead,
        Self::BioRead,
        Self::BioWrite,
        Self::BioFlush,
        Self::BioDiscard,
        Self::BioZeroes,
        Self::BioReadahead,
        Self::Ext4Error,
        Self::Ext4Shutdown,
        Self::XfsShutdown,
        Self::XfsBuffer,
        Self::Writeback,
        Self::F2fsError,
        Self::F2fsShutdown,
        Self::MountChange,
    ];

    /// The kind with this number; `None` if there is none.
    #[must_use]
    pub fn from_raw(raw: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == raw)
    }

    /// For a kind of bio, the kind of request with the same operation; for every other kind, the kind itself.
    #[must_use]
    pub fn operation(self) -> Self {
        match self {
            Self::BioRead => Self::BlockRead,
            Self::BioWrite => Self::BlockWrite,
            Self::BioFlush => Self::BlockFlush,
            Self::BioDiscard => Self::BlockDiscard,
            Self::BioZeroes => Self::BlockZeroes,
            Self::BioReadahead => Self::BlockReadahead,
            other => other,
        }
    }
}

/// The difference between the numbers of [`Kind::BioRead`] and [`Kind::BlockRead`], and so of each pair of kinds.
pub const BIO: u16 = Kind::BioRead as u16 - Kind::BlockRead as u16;

/// The errno values that the programs compare with, the same on `x86_64` and `aarch64`.
pub mod errno {
    /// A non-blocking request would have had to wait.
    pub const EAGAIN: i32 = 11;
    /// Invalid argument. Since Linux 6.11 it is the result of a command that the device does not have.
    pub const EINVAL: i32 = 22;
    /// Not supported.
    pub const EOPNOTSUPP: i32 = 95;
    /// The target refused the command. For a discard this means "not supported".
    pub const EREMOTEIO: i32 = 121;
}

/// Whether a block error is normal for healthy hardware and software. Such an error is counted; no record is sent, and it
/// is never a fault.
///
/// `kind` is a [`Kind`] from `BlockRead` to `BlockReadahead`; `error` is the positive errno.
/// * A failed readahead is followed by the real read if the data is needed.
/// * `mkfs` and `fstrim` try discard and write-zeroes, and do without them if they are "not supported".
/// * EAGAIN is the result of a request that must not wait.
#[inline]
#[must_use]
pub fn is_benign_block_error(kind: u16, error: i32) -> bool {
    if kind == Kind::BlockReadahead as u16 || error == errno::EAGAIN {
        return true;
    }
    let command_only = kind == Kind::BlockDiscard as u16 || kind == Kind::BlockZeroes as u16;
    if command_only {
        return error == errno::EOPNOTSUPP || error == errno::EREMOTEIO || error == errno::EINVAL;
    }
    kind == Kind::BlockFlush as u16 && error == errno::EOPNOTSUPP
}

/// The kind of a block event with this `rwbs` text (`blk_fill_rwbs` in `kernel/trace/blktrace.c`) and this length in
/// sectors.
///
/// The text is an optional `F` (preflush), one letter for the operation (`R`, `W`, `D`, `F`, `Z` for zones, `N` for all
/// others, write-zeroes among them), and flags, of which `A` is readahead. The block layer reports the flush before a
/// write as a write of no sectors.
#[inline]
#[must_use]
pub fn block_kind(rwbs: [u8; 8], sectors: u32) -> Kind {
    let is_operation = |letter: u8| matches!(letter, b'R' | b'W' | b'D' | b'F' | b'N' | b'Z');
    let preflush = rwbs[0] == b'F' && is_operation(rwbs[1]);
    let operation = if preflush { rwbs[1] } else { rwbs[0] };
    let flags = [rwbs[1], rwbs[2], rwbs[3], rwbs[4]];
    match operation {
        b'R' if flags.contains(&b'A') => Kind::BlockReadahead,
        b'R' => Kind::BlockRead,
        // Newer kernels have "WZ" for write-zeroes, older ones "N".
        b'W' if !preflush && rwbs[1] == b'Z' => Kind::BlockZeroes,
        b'W' if sectors == 0 => Kind::BlockFlush,
        b'W' => Kind::BlockWrite,
        b'F' => Kind::BlockFlush,
        b'D' => Kind::BlockDiscard,
        _ => Kind::BlockZeroes,
    }
}

/// A record in the ring buffer: one event. 48 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Record {
    /// `CLOCK_MONOTONIC` nanoseconds at which the tracepoint fired.
    pub ktime: u64,
    /// First sector (of 512 bytes), or the inode number for [`Kind::Writeback`].
    pub place: u64,
    /// The device as the kernel's `dev_t`: major << 20 | minor.
    pub dev: u32,
    /// Positive errno; 0 if the tracepoint has none.
    pub errno: i32,
    /// The number of a [`Kind`].
    pub kind: u16,
    /// Keeps the layout free of padding.
    pub reserved: u16,
    /// Length in sectors, shutdown flags, or the source line of `ext4_error`.
    pub detail: u32,
    /// The `rwbs` text of block events.
    pub rwbs: [u8; 8],
    /// Number of events of this (kind, device) that were suppressed since its last record.
    pub suppressed: u64,
}

impl Record {
    /// A record of nothing, for the fields that a program does not set.
    pub const EMPTY: Self = Self {
        ktime: 0,
        place: 0,
        dev: 0,
        errno: 0,
        kind: 0,
        reserved: 0,
        detail: 0,
        rwbs: [0; 8],
        suppressed: 0,
    };
}

/// Key of the exact counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct CountKey {
    /// As in [`Record`].
    pub dev: u32,
    /// As in [`Record`].
    pub errno: i32,
    /// As in [`Record`].
    pub kind: u16,
    /// Keeps the layout free of padding.
    pub reserved: u16,
}

/// Value of the exact counters, one per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CountValue {
    /// Events.
    pub count: u64,
    /// Those of them for which no record was sent, because their (kind, device) had used up its share of the second.
    pub suppressed: u64,
    /// Those of them for which no record was sent, because the ring buffer was full.
    pub dropped: u64,
    /// When the last one happened, in `CLOCK_MONOTONIC` nanoseconds.
    pub last: u64,
}

/// Version of what an agent leaves pinned in the kernel for the next one: [`CountKey`], [`CountValue`], [`Gate`] and the
/// numbers of [`Kind`]. A change of one of them needs another version.
pub const PINNED_VERSION: u32 = 1;

/// The time for which the programs of one agent count. While one agent takes over from another, the programs of both are
/// attached, and each event is counted by one of them: the later gate opens when the earlier one closes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Gate {
    /// The programs count from here on, in `CLOCK_MONOTONIC` nanoseconds.
    pub from: u64,
    /// The programs do not count any more from here on, in `CLOCK_MONOTONIC` nanoseconds; 0 for no end.
    pub until: u64,
}

impl Gate {
    /// A gate that is not open yet.
    pub const CLOSED: Self = Self { from: u64::MAX, until: 0 };

    /// Whether events at that time are counted.
    #[must_use]
    pub const fn is_open(&self, now: u64) -> bool {
        now >= self.from && (self.until == 0 || now < self.until)
    }
}

/// Key of the rate limiter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LimitKey {
    /// As in [`Record`].
    pub dev: u32,
    /// As in [`Record`], widened so that there is no padding.
    pub kind: u32,
}

/// Value of the rate limiter: what was sent in the current second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LimitValue {
    /// When the second began, in `CLOCK_MONOTONIC` nanoseconds.
    pub start: u64,
    /// Records sent in this second.
    pub records: u64,
    /// Events suppressed since the last record.
    pub suppressed: u64,
}

/// Offsets of the fields of a block event, in bytes from the start of the tracepoint's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BlockLayout {
    /// `dev_t dev`, 4 bytes.
    pub dev: u32,
    /// `sector_t sector`, 8 bytes.
    pub sector: u32,
    /// `unsigned int nr_sector`, 4 bytes.
    pub sectors: u32,
    /// `int error`, 4 bytes, a negative errno.
    pub error: u32,
    /// `char rwbs[]`, at least 8 bytes.
    pub rwbs: u32,
}

/// Offsets of the fields of a filesystem event, in bytes from the start of the tracepoint's record. [`Layouts`] says what
/// each field is for each tracepoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FilesystemLayout {
    /// `dev_t dev`, 4 bytes.
    pub dev: u32,
    /// The event's errno, error word or flags, 4 bytes.
    pub error: u32,
    /// An inode number or disk address, 8 bytes.
    pub place: u32,
    /// A source line or flags, 4 bytes.
    pub detail: u32,
}

/// All layouts, as one global that the agent writes before it attaches a program. The agent writes it again whenever the
/// tracepoints of a module appear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Layouts {
    /// `block:block_rq_error`
    pub rq_error: BlockLayout,
    /// `block:block_rq_complete`
    pub rq_complete: BlockLayout,
    /// `block:block_bio_complete`
    pub bio_complete: BlockLayout,
    /// `ext4:ext4_error`: `detail` is the source line.
    pub ext4_error: FilesystemLayout,
    /// `ext4:ext4_shutdown`: `detail` is the flags.
    pub ext4_shutdown: FilesystemLayout,
    /// `xfs:xfs_force_shutdown`: `detail` is the flags.
    pub xfs_shutdown: FilesystemLayout,
    /// `xfs:xfs_buf_ioerror`: `error` is a negative errno, `detail` the buffer's flags, `place` its address.
    pub xfs_buffer: FilesystemLayout,
    /// `filemap:filemap_set_wb_err`: `error` is an `errseq_t`, `place` the inode.
    pub writeback: FilesystemLayout,
    /// `f2fs:f2fs_fault_report`: `detail` is the kind of report.
    pub f2fs_error: FilesystemLayout,
    /// `f2fs:f2fs_shutdown`: `error` is the ioctl's result, `detail` the mode.
    pub f2fs_shutdown: FilesystemLayout,
    /// Offset of `long ret` in every `syscalls:sys_exit_*` record.
    pub syscall_ret: u32,
    /// Number of records that may be sent per (kind, device) and second.
    pub records_per_second: u32,
}

impl Layouts {
    /// The layouts before the agent has written them.
    pub const UNSET: Self = Self {
        rq_error: BlockLayout::UNSET,
        rq_complete: BlockLayout::UNSET,
        bio_complete: BlockLayout::UNSET,
        ext4_error: FilesystemLayout::UNSET,
        ext4_shutdown: FilesystemLayout::UNSET,
        xfs_shutdown: FilesystemLayout::UNSET,
        xfs_buffer: FilesystemLayout::UNSET,
        writeback: FilesystemLayout::UNSET,
        f2fs_error: FilesystemLayout::UNSET,
        f2fs_shutdown: FilesystemLayout::UNSET,
        syscall_ret: 0,
        records_per_second: 0,
    };
}

impl BlockLayout {
    const UNSET: Self = Self { dev: 0, sector: 0, sectors: 0, error: 0, rwbs: 0 };
}

impl FilesystemLayout {
    const UNSET: Self = Self { dev: 0, error: 0, place: 0, detail: 0 };
}
