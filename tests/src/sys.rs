//! System calls that no crate in use has a safe wrapper for.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// `struct loop_info64` of linux/loop.h.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of linux/loop.h (5.8 and later).
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct PartitionRequest {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    partition: *const Partition,
}

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct Partition {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

const BLKPG: libc::Ioctl = 0x1269;
const BLKPG_ADD_PARTITION: libc::c_int = 1;
const LOOP_CTL_ADD: libc::Ioctl = 0x4c80;
const LOOP_CTL_REMOVE: libc::Ioctl = 0x4c81;
const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
const LOOP_CLR_FD: libc::Ioctl = 0x4c01;
/// `_IOR('X', 125, u32)`: `XFS_IOC_GOINGDOWN`, and the same number on ext4 and f2fs.
const SHUTDOWN: libc::Ioctl = 0x8004_587d;
/// `_IOWR('X', 119, int)` and the next one.
const FREEZE: libc::Ioctl = 0xc004_5877;
const THAW: libc::Ioctl = 0xc004_5878;

/// Flag: the kernel detaches the device when its last user is gone, so that a killed run leaves nothing behind.
pub const LOOP_AUTOCLEAR: u32 = 4;
/// Flag: refuse writes.
pub const LOOP_READ_ONLY: u32 = 1;
/// Flag: go around the page cache of the backing file.
pub const LOOP_DIRECT_IO: u32 = 16;

fn number(fd: impl AsFd, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests used with this function take a number, or nothing, instead of a pointer.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes the loop device with this number; the error is `AlreadyExists` where there is one.
pub fn loop_add(control: &File, index: u32) -> io::Result<()> {
    number(control, LOOP_CTL_ADD, index.into()).map(drop)
}

/// Removes the loop device with this number; an error while it is in use.
pub fn loop_remove(control: &File, index: u32) -> io::Result<()> {
    number(control, LOOP_CTL_REMOVE, index.into()).map(drop)
}

/// Detaches the backing file, now or when the device is no longer in use.
pub fn loop_clear(device: &File) -> io::Result<()> {
    number(device, LOOP_CLR_FD, 0).map(drop)
}

/// Attaches a backing file in one step: no other process sees a device that is half configured.
pub fn loop_configure(device: &File, backing: &File, flags: u32) -> io::Result<()> {
    let mut config = LoopConfig {
        fd: backing.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: LoopInfo {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: LOOP_CONFIGURE reads a `struct loop_config`, whose layout `LoopConfig` has.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw mut config) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a partition of a disk, without a partition table; sizes are in bytes.
pub fn add_partition(disk: &File, number: i32, start: i64, length: i64) -> io::Result<()> {
    let partition = Partition { start, length, number, names: [0; 128] };
    let request = PartitionRequest {
        operation: BLKPG_ADD_PARTITION,
        flags: 0,
        length: i32::try_from(size_of::<Partition>()).map_err(io::Error::other)?,
        partition: &raw const partition,
    };
    // SAFETY: BLKPG reads a `struct blkpg_ioctl_arg`, whose pointer leads to a `struct blkpg_partition`.
    let result = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Shuts down the filesystem of an open directory: 0 after a sync, 1 after a log flush, 2 at once.
pub fn shutdown(directory: &File, how: u32) -> io::Result<()> {
    // SAFETY: the ioctl reads one u32.
    let result = unsafe { libc::ioctl(directory.as_raw_fd(), SHUTDOWN, &raw const how) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Freezes a filesystem, as `fsfreeze -f` does.
pub fn freeze(directory: &OwnedFd) -> io::Result<()> {
    number(directory, FREEZE, 0).map(drop)
}

/// Thaws a filesystem, as `fsfreeze -u` does.
pub fn thaw(directory: &OwnedFd) -> io::Result<()> {
    number(directory, THAW, 0).map(drop)
}

/// Gives the calling thread, and what it starts from now on, a mount namespace of its own.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: NEWNS does not touch the descriptor table that Rust's I/O safety depends on; it implies a working
    // directory of this thread's own, which nothing here relies on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    Ok(())
}

/// Gives a command a mount namespace of its own, with a copy of what is mounted now.
pub fn unshare_mounts_of(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: unshare(2) is async-signal-safe, and the child has no other thread.
    unsafe { command.pre_exec(unshare_mounts) };
}

/// Gives the calling thread, and what it starts from now on, a network namespace of its own.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: NEWNET changes what this thread's future sockets are in, and nothing that memory depends on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    Ok(())
}

/// Moves the calling thread to a network namespace.
pub fn join_network(namespace: BorrowedFd<'_>) -> io::Result<()> {
    let network = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(namespace, Some(network))?;
    Ok(())
}

/// Moves the calling thread to the mount namespace that this file of /proc stands for.
pub fn join_mounts(namespace: &Path) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, UnshareFlags};
    let namespace = File::open(namespace)?;
    // SAFETY: FS gives this thread a working directory of its own, which the kernel demands before a thread may move;
    // nothing here relies on sharing it.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    Ok(())
}

/// Calls a function when the process exits; not when it is killed or aborts.
pub fn at_exit(function: extern "C" fn()) {
    // SAFETY: atexit keeps the pointer, to a function that exists as long as the process does.
    let refused = unsafe { libc::atexit(function) };
    assert_eq!(refused, 0, "atexit");
}

/// Makes the kernel kill the command's process when the thread that starts it ends: not even a killed test run leaves a
/// process behind.
pub fn die_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: one prctl between fork and exec: no allocation, no lock.
    unsafe {
        command.pre_exec(|| {
            let signal = Some(rustix::process::Signal::KILL);
            Ok(rustix::process::set_parent_process_death_signal(signal)?)
        });
    }
}

/// A process's resident memory in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    status_field(pid, "VmRSS:")
}

/// The most resident memory that a process has had so far, in KiB.
pub fn peak_resident_kib(pid: u32) -> u64 {
    status_field(pid, "VmHWM:")
}

fn status_field(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("read its status");
    let line = status.lines().find(|line| line.starts_with(name));
    let field = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    field.unwrap_or_else(|| panic!("no {name} of {pid}"))
}

/// `CLOCK_MONOTONIC` in nanoseconds: the clock of `bpf_ktime_get_ns`.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The time that a process has spent on CPUs, with every thread that it ever had.
pub fn cpu_time(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both write to the place that they get a pointer to, and keep no pointer.
    let result = unsafe {
        match libc::clock_getcpuclockid(pid, &raw mut clock) {
            0 if libc::clock_gettime(clock, &raw mut time) == 0 => Ok(()),
            0 => Err(io::Error::last_os_error()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    };
    result?;
    let seconds = Duration::from_secs(time.tv_sec.cast_unsigned());
    Ok(seconds + Duration::from_nanos(time.tv_nsec.cast_unsigned()))
}

/// One thread of another process that stands still (`ptrace(2)`) until the value is dropped, or until the thread that made
/// it ends. A signal would stop the whole process.
#[derive(Debug)]
pub struct StoppedThread(libc::pid_t);

impl StoppedThread {
    /// Stops the thread of that name.
    pub fn new(process: u32, name: &str) -> io::Result<Self> {
        let is_it = |entry: &std::fs::DirEntry| {
            std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
        };
        let mut threads = std::fs::read_dir(format!("/proc/{process}/task"))?.flatten();
        let thread = threads.find(is_it).ok_or(io::ErrorKind::NotFound)?;
        let id = thread.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
        trace(libc::PTRACE_SEIZE, id)?;
        let stopped = Self(id);
        trace(libc::PTRACE_INTERRUPT, id)?;
        // SAFETY: waitpid may be given no place for the status.
        let waited = unsafe { libc::waitpid(id, std::ptr::null_mut(), libc::__WALL) };
        if waited < 0 { Err(io::Error::last_os_error()) } else { Ok(stopped) }
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // An error means that the thread has ended.
        let _gone = trace(libc::PTRACE_DETACH, self.0);
    }
}

fn trace(request: libc::c_uint, thread: libc::pid_t) -> io::Result<()> {
    // SAFETY: these requests read no memory: address and data are null.
    let result = unsafe {
        libc::ptrace(request, thread, std::ptr::null_mut::<u8>(), std::ptr::null_mut::<u8>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `PACKET_VNET_HDR` and `PACKET_IGNORE_OUTGOING` of `linux/if_packet.h`.
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// A socket that receives and sends the frames of an interface of this thread's network namespace. Each has a
/// `virtio_net_hdr` before it, which says what the sender left to the network card, such as the checksum: it has to be
/// sent on as it is.
pub fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    let checked = |result: libc::c_int| {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    };
    let name = std::ffi::CString::new(interface).map_err(io::Error::other)?;
    // SAFETY: a new descriptor, which is owned from the next line on.
    let fd =
        checked(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: it is open, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for option in [PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING] {
        let one: libc::c_int = 1;
        let size = libc::socklen_t::try_from(size_of_val(&one)).map_err(io::Error::other)?;
        // SAFETY: the kernel reads `size` bytes of a value that lives as long as the call.
        checked(unsafe {
            libc::setsockopt(fd, libc::SOL_PACKET, option, (&raw const one).cast(), size)
        })?;
    }
    // SAFETY: a plain structure of integers, for which zeros are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let number = |value: libc::c_int| u16::try_from(value).map_err(io::Error::other);
    address.sll_family = number(libc::AF_PACKET)?;
    address.sll_protocol = number(libc::ETH_P_ALL)?.to_be();
    // SAFETY: a string with its zero at the end.
    address.sll_ifindex = unsafe { libc::if_nametoindex(name.as_ptr()) }.cast_signed();
    let size = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `size` bytes of a value that lives as long as the call.
    checked(unsafe { libc::bind(fd, (&raw const address).cast(), size) })?;
    Ok(socket)
}
