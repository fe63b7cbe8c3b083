//! What the deepest witness said, for the faults above it.

use super::{state::Ledger, types::Key, witness::Witness};
use crate::{
    errno,
    model::{Dev, FaultKind},
};

impl Ledger {
    /// What the block layer said about the devices of a filesystem, for the reason of a fault of that filesystem: the errno,
    /// and words such as `after ENOSPC (no space on the device) on loop0`.
    pub(super) fn said_below(&self, dev: Dev) -> Option<(i32, String)> {
        let filesystem = self.table.filesystems.get(&dev)?;
        filesystem.members.iter().find_map(|member| {
            let entry = self.faults.get(&(FaultKind::IoError, member.dev))?;
            let errno = entry.errno.filter(|_| entry.witness == Witness::BlockLayer)?;
            Some((errno, format!("after {} on {}", errno::describe(errno), member.name)))
        })
    }

    /// Sets the errno of an open fault, unless a deeper witness has given one.
    pub(super) fn set_errno(&mut self, key: Key, errno: i32) {
        if let Some(entry) = self.faults.get_mut(&key)
            && (entry.witness == Witness::Filesystem || entry.errno.is_none())
        {
            entry.errno = Some(errno);
        }
    }
}
