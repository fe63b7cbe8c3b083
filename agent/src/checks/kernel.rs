//! What the checks of the kernel side have in common: open faults first, then what keeps the kernel side from seeing.

use super::CheckContext;
use crate::model::{BlindSpot, Fault, FaultView, Outcome};

impl CheckContext {
    /// The outcome of the kernel check of that name. `blind_spot` says why its faults may be missed.
    pub(super) fn kernel_outcome(
        &self,
        check: &str,
        blind_spot: fn(&FaultView) -> Option<String>,
    ) -> Outcome {
        let counts = |fault: &&Fault| fault.check == check && self.policy.counts(fault.scope);
        let mut faults = self.kernel.faults.iter().filter(counts);
        if let Some(first) = faults.next() {
            let more = match faults.count() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            return Outcome::Fail(format!("{}{more}", first.reason));
        }
        let blind_spots = &self.kernel.blind_spots;
        if let Some(why) = blind_spots.get(BlindSpot::Blind) {
            return Outcome::Unknown(why.to_owned());
        }
        let unwatched = blind_spots.get(BlindSpot::Unwatched).map(str::to_owned);
        unwatched.or_else(|| blind_spot(&self.kernel)).map_or(Outcome::Pass, Outcome::Degraded)
    }
}
