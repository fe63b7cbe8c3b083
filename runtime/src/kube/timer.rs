//! Timers of the connection to the API server, each a timer of the kernel's.
//!
//! The PINGs and the deadlines for their answers are all that an idle client waits for, day and night. tokio's timers go
//! by a wheel: one that is 400 ms away wakes its thread twice, and to set it writes to an eventfd, which wakes the
//! thread once more. A timerfd wakes it once, in its time.

use std::{
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::fd;

/// Makes the timers; where there is no descriptor left, they are tokio's.
#[derive(Clone, Copy, Debug)]
pub(super) struct KernelTimer;

impl Timer for KernelTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        match KernelSleep::new(deadline) {
            Ok(sleep) => Box::pin(sleep),
            Err(_no_descriptor) => TokioTimer::new().sleep_until(deadline),
        }
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, deadline: Instant) {
        if let Some(own) = sleep.as_mut().downcast_mut_pin::<KernelSleep>()
            && own.get_mut().set(deadline).is_ok()
        {
            return;
        }
        *sleep = TokioTimer::new().sleep_until(deadline);
    }
}

#[derive(Debug)]
struct KernelSleep {
    fd: AsyncFd<OwnedFd>,
    deadline: Instant,
}

impl KernelSleep {
    fn new(deadline: Instant) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        // The clock of `Instant`.
        let fd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let mut sleep = Self { fd: fd::watch(fd, Interest::READABLE)?, deadline };
        sleep.set(deadline)?;
        Ok(sleep)
    }

    fn set(&mut self, deadline: Instant) -> io::Result<()> {
        self.deadline = deadline;
        // Zero would be never.
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: once, it_value: left };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }
}

impl Future for KernelSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            // The descriptor need not be read: setting it again clears what it has signalled, and a task that an old
            // signal wakes looks at the clock first.
            match ready!(self.fd.poll_read_ready(cx)) {
                Ok(mut told) => told.clear_ready(),
                // The runtime ends.
                Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl Sleep for KernelSleep {}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn it_ends_in_its_time_and_can_be_set_again() {
        let began = Instant::now();
        let mut sleep = KernelTimer.sleep(20 * MS);
        sleep.as_mut().await;
        assert!(began.elapsed() >= 20 * MS);
        assert!(sleep.is::<KernelSleep>());
        // After its end, and before: the later one counts, and the earlier one.
        for (first, then) in [(5, 40), (10_000, 20)] {
            let began = Instant::now();
            KernelTimer.reset(&mut sleep, began + first * MS);
            let early = tokio::time::timeout(10 * MS, sleep.as_mut()).await;
            assert_eq!(early.is_ok(), first == 5);
            KernelTimer.reset(&mut sleep, began + then * MS);
            sleep.as_mut().await;
            let took = began.elapsed();
            assert!(took >= then * MS && took < Duration::from_secs(5), "{took:?}");
        }
        // What it told before it was set again is not believed.
        KernelTimer.reset(&mut sleep, Instant::now() + MS);
        tokio::time::sleep(10 * MS).await;
        let began = Instant::now();
        KernelTimer.reset(&mut sleep, began + 30 * MS);
        sleep.as_mut().await;
        assert!(began.elapsed() >= 30 * MS);
        // What is over already ends at once.
        KernelTimer.reset(&mut sleep, began);
        sleep.as_mut().await;
    }

    #[tokio::test]
    async fn tokios_timers_can_be_set_again_too() {
        let began = Instant::now();
        let mut sleep = TokioTimer::new().sleep_until(began + Duration::from_mins(1));
        KernelTimer.reset(&mut sleep, began + 5 * MS);
        sleep.as_mut().await;
        assert!(began.elapsed() >= 5 * MS);
    }
}
