//! Calls that may hang for ever without keeping this process's sockets and locks alive.

use std::{io, panic::resume_unwind, thread};

use libc::c_long;

/// Calls `call` on a thread that has a table of file descriptors of its own, with no more than 0, 1 and 2 in it, and waits
/// for its result.
///
/// SIGKILL does not end a thread that a dead disk holds in the kernel, and a table of descriptors stays open while any
/// thread has it. With the process's own table, such a thread keeps the listening sockets bound and the files locked, and
/// the next agent cannot start. The call opens what it needs itself, and must not use what waits on a descriptor of this
/// process (tokio wakes its tasks through one).
///
/// It is an error if no thread can be started. Before Linux 5.9, which has no `close_range(2)`, the thread shares the
/// process's table.
pub fn on_own_descriptors<T: Send>(call: impl FnOnce() -> T + Send) -> io::Result<T> {
    // The kernel cuts thread names at 15 bytes; a stack of 128 KiB is plenty for a few system calls.
    let builder = thread::Builder::new().name("tocsin-disk".into()).stack_size(128 * 1024);
    thread::scope(|scope| {
        let body = || {
            leave_descriptors();
            call()
        };
        let joined = builder.spawn_scoped(scope, body)?.join();
        Ok(joined.unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// Gives this thread a table with the descriptors 0, 1 and 2 alone.
fn leave_descriptors() {
    let (first, last): (c_long, c_long) = (3, c_long::from(u32::MAX));
    // SAFETY: close_range(2) takes three numbers. This thread is new and has opened nothing, and CLOSE_RANGE_UNSHARE leaves
    // the table of the other threads as it is.
    let _before_5_9 = unsafe {
        libc::syscall(libc::SYS_close_range, first, last, c_long::from(libc::CLOSE_RANGE_UNSHARE))
    };
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::fd::AsRawFd,
    };

    use super::*;

    #[test]
    fn the_call_has_none_of_the_other_threads_files_and_leaves_them_open() {
        let file = File::open("/proc/self/status").unwrap();
        let number = file.as_raw_fd();
        let is_open = move || fs::exists(format!("/proc/thread-self/fd/{number}")).unwrap();
        assert!(is_open());
        assert!(!on_own_descriptors(is_open).unwrap());
        assert!(is_open());
        file.metadata().unwrap();
    }

    #[test]
    #[should_panic(expected = "on purpose")]
    fn a_panic_of_the_call_is_the_callers() {
        let _never = on_own_descriptors(|| panic!("on purpose"));
    }
}
