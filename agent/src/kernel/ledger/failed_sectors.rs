//! The sectors whose requests failed, which show by themselves whether a device works again.

use super::{
    state::Ledger,
    types::{Action, Key},
    witness::Witness,
};
use crate::{
    kernel::{ebpf::reader::Event, sectors::Sector},
    model::FaultKind,
};

/// 16 sectors that a fault remembers, the last ones. Reading all of them takes a healthy disk some 0.2 s.
const SECTORS: usize = 16;

impl Ledger {
    /// Remembers where a request failed.
    pub(super) fn note_sector(&mut self, key: Key, event: &Event) {
        let is_place = event.place != 0 && event.place != u64::MAX;
        if !is_place || Witness::of(event.kind) != Witness::BlockLayer || key.1 != event.dev {
            return;
        }
        let Some(entry) = self.faults.get_mut(&key) else { return };
        if entry.sectors.contains(&event.place) {
            return;
        }
        if entry.sectors.len() == SECTORS {
            entry.sectors.pop_front();
        }
        entry.sectors.push_back(event.place);
    }

    /// The sectors that a probe has to read because it cannot write: those of the devices that it verifies.
    #[must_use]
    pub fn sectors_to_read(&self, action: Action) -> Vec<Sector> {
        if !action.verify || action.write {
            return Vec::new();
        }
        let devices = self.verifying.iter().filter(|(_, (_, users))| users.contains(&action.dev));
        let sectors = devices.flat_map(|(device, _)| {
            let entry = self.faults.get(&(FaultKind::IoError, *device));
            let name = self.table.device_name(*device);
            entry.into_iter().flat_map(|entry| &entry.sectors).map(move |sector| Sector {
                device: *device,
                name: name.to_owned(),
                number: *sector,
            })
        });
        sectors.collect()
    }
}
