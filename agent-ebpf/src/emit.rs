//! The maps, and the function that writes events into them.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext, Global,
    bindings::BPF_NOEXIST,
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::TracePointContext,
};
use aya_log_ebpf::debug;
use tocsin_ebpf::{CountKey, CountValue, Gate, Layouts, LimitKey, LimitValue, Record};

/// The layouts. The agent writes them before it attaches a program. They have a section of their own, so that they are one
/// map with one value that can be written again.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.layouts")]
static LAYOUTS: Global<Layouts> = Global::new(Layouts::UNSET);

/// The ring buffer. 64 KiB hold 1,170 records (48 bytes and a header of 8 bytes each): with ten records per (kind, device)
/// and second these are over a hundred devices that fail at once while nothing reads.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// The exact counters. 1,024 keys are every kind with three errnos on some 20 failing devices, and take 32 KiB per CPU,
/// which the kernel charges to the agent's memory limit. Events without room are counted in `UNCOUNTED`.
#[map]
static COUNTS: PerCpuHashMap<CountKey, CountValue> = PerCpuHashMap::with_max_entries(1024, 0);

/// The rate limiter. 1,024 keys; the least recently used is forgotten first, and may send records again.
#[map]
static LIMITS: LruHashMap<LimitKey, LimitValue> = LruHashMap::with_max_entries(1024, 0);

/// Events for which `COUNTS` had no room, per CPU.
#[map]
static UNCOUNTED: PerCpuArray<CountValue> = PerCpuArray::with_max_entries(1, 0);

/// The time for which these programs count. It begins as all zeroes, which is open without an end.
#[map]
static GATE: Array<Gate> = Array::with_max_entries(1, 0);

const SECOND: u64 = 1_000_000_000;

/// Reads one part of the layouts. The read is volatile, because the compiler must not use the zeroes of their initial value;
/// and it is of one part only, because a program has 512 bytes of stack.
#[inline(always)]
pub(crate) fn read_layout<T: Copy>(part: impl FnOnce(*const Layouts) -> *const T) -> T {
    // SAFETY: `Global` is a transparent cell around the value, `part` stays inside it, and the agent writes
    // it before it attaches the program that reads it.
    unsafe { part((&raw const LAYOUTS).cast::<Layouts>()).read_volatile() }
}

/// `layout!(rq_error)` reads that part of the layouts.
macro_rules! layout {
    ($part:ident) => {
        // SAFETY: only the address is taken, inside a static.
        $crate::emit::read_layout(|layouts| unsafe { &raw const (*layouts).$part })
    };
}
pub(crate) use layout;

/// Four bytes of the tracepoint's record; 0 if they cannot be read.
#[inline(always)]
pub(crate) fn u32_at(ctx: &TracePointContext, offset: u32) -> u32 {
    // SAFETY: offsets are those of this kernel's own format file; the helper checks the address.
    unsafe { ctx.read_at::<u32>(offset as usize) }.unwrap_or(0)
}

/// Eight bytes of the tracepoint's record; 0 if they cannot be read.
#[inline(always)]
pub(crate) fn u64_at(ctx: &TracePointContext, offset: u32) -> u64 {
    // SAFETY: as in `u32_at`.
    unsafe { ctx.read_at::<u64>(offset as usize) }.unwrap_or(0)
}

/// Adds one to a counter to which an interrupt on the same CPU may be adding as well. It is the one atomic instruction that
/// every kernel has. The atomics of `core` have no `fetch_add` on this target, which has no compare-and-swap before
/// version 3 of its instruction set.
#[inline(always)]
fn add(counter: *mut u64) {
    // SAFETY: the pointer comes from a map lookup and is aligned; the map outlives the program.
    unsafe {
        asm!("lock *(u64 *)({counter} + 0) += {one}", counter = in(reg) counter, one = in(reg) 1u64)
    };
}

/// The counter of a key, made if it is new; `None` if there is no room.
#[inline(always)]
fn counter(key: &CountKey) -> Option<*mut CountValue> {
    if let Some(value) = COUNTS.get_ptr_mut(key) {
        return Some(value);
    }
    let zero = CountValue { count: 0, suppressed: 0, dropped: 0, last: 0 };
    // If another CPU has made the entry in the meantime, this fails and the lookup succeeds.
    let _exists = COUNTS.insert(key, zero, u64::from(BPF_NOEXIST));
    COUNTS.get_ptr_mut(key)
}

/// Counts an event and, unless it is `silent`, sends a record of it to the agent. Outside the time of the gate it does
/// nothing: the programs of another agent count the event.
#[inline(always)]
pub(crate) fn emit<C: EbpfContext>(ctx: &C, record: &mut Record, silent: bool) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if GATE.get(0).is_some_and(|gate| !gate.is_open(now)) {
        return;
    }
    record.ktime = now;
    let key = CountKey { dev: record.dev, errno: record.errno, kind: record.kind, reserved: 0 };
    // Without room among the counters, the event is counted in `UNCOUNTED`, and its record is sent all the same.
    let Some(value) = counter(&key).or_else(|| UNCOUNTED.get_ptr_mut(0)) else { return };
    // SAFETY: a valid pointer from the lookup; a torn `last` is off by one event at most.
    unsafe {
        add(&raw mut (*value).count);
        (*value).last = now;
    }
    if silent {
        return;
    }
    let Some(suppressed) = admit(record, now) else {
        // SAFETY: as above.
        add(unsafe { &raw mut (*value).suppressed });
        return;
    };
    record.suppressed = suppressed;
    match EVENTS.reserve::<Record>(0) {
        Some(mut entry) => {
            entry.write(*record);
            entry.submit(0);
            debug!(ctx, "kind {} dev {} errno {}", record.kind, record.dev, record.errno);
        }
        // SAFETY: as above.
        None => add(unsafe { &raw mut (*value).dropped }),
    }
}

/// Applies the rate limit to a record: `None` if its (kind, device) must not send any more in this second, else the number
/// of events that were suppressed since its last record. If two CPUs begin a new second at the same time, a few more
/// records are sent.
#[inline(always)]
fn admit(record: &Record, now: u64) -> Option<u64> {
    let key = LimitKey { dev: record.dev, kind: u32::from(record.kind) };
    let Some(limit) = LIMITS.get_ptr_mut(key) else {
        let fresh = LimitValue { start: now, records: 1, suppressed: 0 };
        let _full = LIMITS.insert(key, fresh, 0);
        return Some(0);
    };
    let most = u64::from(layout!(records_per_second));
    // SAFETY: a valid pointer from the lookup.
    unsafe {
        if now.wrapping_sub((*limit).start) >= SECOND {
            let suppressed = (*limit).suppressed;
            (*limit).start = now;
            (*limit).records = 1;
            (*limit).suppressed = 0;
            return Some(suppressed);
        }
        if (*limit).records >= most {
            add(&raw mut (*limit).suppressed);
            return None;
        }
        add(&raw mut (*limit).records);
    }
    Some(0)
}
