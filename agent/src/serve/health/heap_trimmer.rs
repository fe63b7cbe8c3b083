//! Returns memory to the kernel after a crowd of connections.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
};

use tokio::time::sleep;

use crate::serve::health::settings;

/// Returns free memory to the kernel once most connections of a thread have ended: the C library keeps what many small
/// allocations leave behind.
#[derive(Debug)]
pub struct HeapTrimmer {
    /// Open connections of the thread.
    open: Arc<AtomicUsize>,
    is_scheduled: AtomicBool,
}

impl HeapTrimmer {
    /// A trimmer that goes by that number of open connections.
    #[must_use]
    pub fn new(open: Arc<AtomicUsize>) -> Self {
        Self { open, is_scheduled: AtomicBool::new(false) }
    }

    /// Schedules a trim if there is a crowd now.
    pub fn connection_opened(self: &Arc<Self>) {
        if self.open.load(Relaxed) > settings::CROWD {
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
            while trimmer.open.load(Relaxed) > settings::CROWD / 4 {
                sleep(settings::TRIM_INTERVAL).await;
            }
            trimmer.is_scheduled.store(false, Relaxed);
            #[cfg(target_env = "gnu")]
            // SAFETY: malloc_trim takes the allocator's own locks, and moves nothing that is in use.
            let _has_returned_any = unsafe { libc::malloc_trim(0) };
        });
    }
}
