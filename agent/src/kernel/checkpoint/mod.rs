//! The checkpoint: what a restarted agent has to know, in a file on a tmpfs.
//!
//! A reboot takes the file away, and it is bound to the boot all the same, because its times are the kernel's own. A
//! file that is damaged, of another boot, of another user or of another version is ignored, and said.

mod file;
mod keeper;

pub(crate) use self::{
    file::{Ignored, Kept, counts_of},
    keeper::Keeper,
};
