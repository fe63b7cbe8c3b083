//! The ledger: events and evidence in, open faults out. Pure: it holds no file, no socket and no clock.
//!
//! An event only says that something happened. The ledger decides from evidence whether anything is wrong *now*: from
//! the mount table and sysfs (a [`Snapshot`](super::sampling::snapshot::Snapshot)), and from the results of bounded
//! probes that it asks for ([`Action`]). So a missed event costs a moment and never the verdict, and a harmless event
//! never becomes a fault. A fault closes when its cause is gone, never for want of evidence.
//!
//! | file | has |
//! |---|---|
//! | `state` | the [`Ledger`] itself: what is known, and which faults are open |
//! | `inputs` | what an event, a snapshot and a reading of the counters each change |
//! | `filesystems`, `superblock`, `unmounted` | whether each filesystem can be written, and the errors it found in itself |
//! | `devices`, `failed_sectors`, `progress`, `stalls` | the errors of each disk, and whether its I/O moves |
//! | `probes`, `probe_schedule` | when to probe a filesystem, and what the result means |
//! | `counts` | which of the kernel's counters are kept |
//! | `clear` | what an operator's `faults clear` changes |
//! | `lookout` | looking at everything once, after events that were missed |
//! | `memory` | what the ledger of the next agent begins with |
//! | `witness`, `blame` | whose word a reason gives |
//! | `view` | open faults in words |

mod blame;
mod clear;
mod counts;
mod devices;
mod failed_sectors;
mod filesystems;
mod inputs;
mod lookout;
mod memory;
mod probe_schedule;
mod probes;
mod progress;
mod stalls;
mod state;
mod superblock;
#[cfg(test)]
mod tests;
mod types;
mod unmounted;
mod view;
mod witness;

pub use self::{
    memory::{CountMemory, Memory},
    state::Ledger,
    types::{Action, Mono, Now, Probed, Rules},
};
