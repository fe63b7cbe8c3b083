//! What the kernel itself says of the failed requests of one device, to compare an agent's counts with: it uses nothing of
//! the agent's way, which is a program on a perf event.
//!
//! * ftrace writes each event of `block_rq_error` for the device into a ring buffer of its own, and counts what it writes,
//!   also what is overwritten later. That is how many events there were.
//! * A program on the raw tracepoint counts them as well. It has no perf event, no lock and no filter of its own that
//!   could lose one. Where it did not run although ftrace has the event, the kernel ran no BPF program at all: kernels of
//!   some virtual machines run none while a thread of the machine's own process 1 is interrupted.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mount::MountFlags;

use crate::{LoopDevice, Mount, Sandbox};

/// Sizes of requests that differ: from 9 sectors up to 127, which every disk takes as one request.
const SIZES: u32 = 60;

/// The number of counters that this process has made.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A size that no other counter has, in this process and most probably in others. A raw tracepoint does not tell the device
/// without the kernel's types, and filesystems read even numbers of sectors.
fn next_size() -> u32 {
    let number = std::process::id().wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % SIZES;
    (9 + 2 * number) * 512
}

/// The number of events so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events that the kernel emitted.
    pub emitted: u64,
    /// Those of them for which it ran BPF programs.
    pub programs: u64,
}

/// The independent counters of one device. They end when this is dropped.
pub struct Emitted {
    instance: PathBuf,
    request: u32,
    program: Program,
    // Dropped last: the instance is in it.
    _tracefs: Mount,
}

impl Emitted {
    /// Begins to count. `None`, where the kernel lacks something that this takes; the agent can do without.
    pub fn new(sandbox: &Sandbox, device: &LoopDevice) -> Option<Self> {
        let point = sandbox.path(format!("tracefs-{}", device.name()));
        let flags = MountFlags::empty();
        let tracefs = Mount::try_new(Path::new("tracefs"), &point, "tracefs", flags, "").ok()?;
        let request = next_size();
        let program = Program::attach(request).ok()?;
        let name = format!("tocsin-e2e-{}-{}", std::process::id(), device.name());
        let instance = point.join("instances").join(name);
        fs::create_dir(&instance).ok()?;
        let emitted = Self { instance, request, program, _tracefs: tracefs };
        let (major, minor) = device.number().split_once(':').expect("major:minor");
        let number = |text: &str| text.parse::<u32>().expect("a number");
        let device = (number(major) << 20) | number(minor);
        emitted.write("buffer_size_kb", "256").ok()?;
        emitted.write("events/block/block_rq_error/filter", &format!("dev == {device}")).ok()?;
        emitted.write("events/block/block_rq_error/enable", "1").ok()?;
        Some(emitted)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.instance.join(file), text)
    }

    /// The size of the requests that are counted, in bytes.
    pub fn request(&self) -> usize {
        self.request as usize
    }

    /// The numbers of events so far.
    pub fn counts(&self) -> Counts {
        let cpus = fs::read_dir(self.instance.join("per_cpu")).expect("read its buffers");
        let cpus = cpus.map(|cpu| cpu.expect("read its buffers").path().join("stats"));
        let emitted =
            cpus.map(|stats| written(&fs::read_to_string(stats).expect("read a buffer's state")));
        Counts { emitted: emitted.sum(), programs: self.program.count().expect("read the count") }
    }
}

impl Drop for Emitted {
    fn drop(&mut self) {
        let _off = self.write("events/block/block_rq_error/enable", "0");
        if let Err(error) = fs::remove_dir(&self.instance) {
            eprintln!("remove {}: {error}", self.instance.display());
        }
    }
}

/// The number of events that were written into one ring buffer, by its state.
fn written(stats: &str) -> u64 {
    let fields = stats.lines().filter_map(|line| line.split_once(": "));
    let counted = ["entries", "overrun", "commit overrun", "dropped events", "read events"];
    let these = fields.filter(|(name, _)| counted.contains(name));
    these.map(|(_, count)| count.trim().parse::<u64>().expect("a number")).sum()
}

/// A BPF program that counts the failed requests of one size.
struct Program {
    map: OwnedFd,
    fd: OwnedFd,
    _link: OwnedFd,
}

/// Commands of bpf(2) in linux/bpf.h, and the type of the program.
const MAP_CREATE: libc::c_long = 0;
const MAP_LOOKUP_ELEM: libc::c_long = 1;
const PROG_LOAD: libc::c_long = 5;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_RAW_TRACEPOINT: u32 = 17;

/// The beginning of `union bpf_attr` as words of 64 bits, with zeroes behind.
fn bpf(command: libc::c_long, attributes: &[u64]) -> io::Result<libc::c_int> {
    let mut attr = [0_u64; 16];
    attr[..attributes.len()].copy_from_slice(attributes);
    // SAFETY: the kernel reads the attributes, which live as long as the call; the pointers in them are the caller's,
    // which keeps what they point to.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), size_of_val(&attr)) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(libc::c_int::try_from(result).map_err(io::Error::other)?)
    }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: a new descriptor, which nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Two fields of 32 bits, as `union bpf_attr` has them side by side.
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | (u64::from(high) << 32)
}

/// `struct bpf_insn`: operation, destination and source register, offset, immediate value.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    let registers = (source << 4) | target;
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([code, registers, low, high, a, b, c, d])
}

impl Program {
    fn attach(request: u32) -> io::Result<Self> {
        let map = owned(bpf(MAP_CREATE, &[pair(MAP_TYPE_ARRAY, 4), pair(8, 1)])?);
        let bytes = request.cast_signed();
        let code = [
            // r6 = the third argument of the tracepoint, nr_bytes; others are none of its business
            instruction(0x61, 6, 1, 16, 0),
            instruction(0x55, 6, 0, 9, bytes),
            // r0 = the address of the map's value 0
            instruction(0x62, 10, 0, -4, 0),
            instruction(0xbf, 2, 10, 0, 0),
            instruction(0x07, 2, 0, 0, -4),
            instruction(0x18, 1, 1, 0, map.as_raw_fd()),
            0,
            instruction(0x85, 0, 0, 0, 1),
            instruction(0x15, 0, 0, 2, 0),
            // atomically: *r0 += 1
            instruction(0xb7, 1, 0, 0, 1),
            instruction(0xdb, 0, 1, 0, 0),
            // return 0
            instruction(0xb7, 0, 0, 0, 0),
            instruction(0x95, 0, 0, 0, 0),
        ];
        let length = u32::try_from(code.len()).map_err(io::Error::other)?;
        let attributes =
            [pair(PROG_TYPE_RAW_TRACEPOINT, length), code.as_ptr() as u64, c"GPL".as_ptr() as u64];
        let program = owned(bpf(PROG_LOAD, &attributes)?);
        let name = c"block_rq_error".as_ptr() as u64;
        let link = bpf(
            RAW_TRACEPOINT_OPEN,
            &[name, u64::try_from(program.as_raw_fd()).map_err(io::Error::other)?],
        )?;
        Ok(Self { map, fd: program, _link: owned(link) })
    }

    /// Its count, with the calls that it missed because it was running on that CPU already.
    fn count(&self) -> io::Result<u64> {
        let (key, mut value) = (0_u32, 0_u64);
        let map = u64::try_from(self.map.as_raw_fd()).map_err(io::Error::other)?;
        let [key, place] = [(&raw const key) as u64, (&raw mut value) as u64];
        bpf(MAP_LOOKUP_ELEM, &[map, key, place])?;
        let state = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd()))?;
        let missed = state.lines().find_map(|line| line.strip_prefix("recursion_misses:"));
        Ok(value + missed.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0))
    }
}
