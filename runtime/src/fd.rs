//! File descriptors in the async runtime.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Puts a descriptor that its value owns into the runtime's epoll set.
pub fn watch<T: AsFd + AsRawFd>(inner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsFd` binds the descriptor's life to the value's, which the `AsyncFd` owns from here on, and
    // no type that is passed here replaces its descriptor.
    unsafe { AsyncFd::register_with_interest(inner, interest) }.map_err(io::Error::from)
}
