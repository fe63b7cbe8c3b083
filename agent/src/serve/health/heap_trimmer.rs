//! Returns memory to the kernel after a crowd of connections.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tokio::time::sleep;

use super::counts::ConnectionCounts;
use crate::serve::health::settings;

/// Returns free memory to the kernel once most connections have ended: the C library keeps what many small allocations
/// leave behind.
#[derive(Debug)]
pub struct HeapTrimmer {
    connections: Arc<ConnectionCounts>,
    is_scheduled: AtomicBool,
}

impl HeapTrimmer {
    /// A trimmer that goes by the number of open connections.
    #[must_use]
    pub fn new(connections: Arc<ConnectionCounts>) -> Self {
        Self { connections, is_scheduled: AtomicBool::new(false) }
    }

    /// Schedules a trim if there is a crowd now.
    pub fn connection_opened(self: &Arc<Self>) {
        if self.connections.open.load(Relaxed) > settings::CROWD {
            self.schedule();
        }
    }

    /// Schedules a trim, for the time when there is no crowd.
    pub fn schedule(self: &Arc<Self>) {
        if self.is_scheduled.swap(true, Relaxed) {
            return;
        }
        let trimmer = self.clone();
        tokio::spawn(async move {
            sleep(settings::TRIM_INTERVAL).await;
            while trimmer.connections.open.load(Relaxed) > settings::CROWD / 4 {
                sleep(settings::TRIM_INTERVAL).await;
            }
            trimmer.is_scheduled.store(false, Relaxed);
            #[cfg(target_env = "gnu")]
            // SAFETY: malloc_trim takes the allocator's own locks, and moves nothing that is in use.
            let _has_returned_any = unsafe { libc::malloc_trim(0) };
        });
    }
}
