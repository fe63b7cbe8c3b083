//! The health listener: deadlines and bounds, each with its unit and its reason.

use std::time::Duration;

pub use crate::serve::settings::{DRAIN, HEADER_BYTES};

/// 2 seconds for a request to be complete from its first byte on, and for a TLS handshake: a load balancer sends it in
/// one piece.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// 1 second, the kernel's smallest step, for which it keeps a connection on which nothing was sent: then it is accepted
/// all the same.
pub const DEFER_ACCEPT: Duration = Duration::from_secs(1);
/// 30 seconds until the next request on a connection: most load balancers ask every few seconds, and who asks less
/// often opens another one.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// 2 seconds for an answer to be taken, which fits into every socket's buffer unless hundreds were asked for at once.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// 1 second in which what is still sent is read away, so that the answer is not lost by the connection's reset.
pub const LINGER: Duration = Duration::from_secs(1);
/// 256 KiB of that.
pub const LINGER_BYTES: usize = 256 * 1024;
/// Connections accepted in a row, before those that were accepted have a turn: a flood must not outrun the answers.
pub const ACCEPTS: u64 = 16;
/// So many connections of a thread are a crowd, whose memory is given back when three quarters of it are gone.
pub const CROWD: usize = 256;
/// 1 second between looks whether they are.
pub const CLEAN_UP: Duration = Duration::from_secs(1);
/// Threads of the health listener, where the host has as many processors: one answers more than 50,000 requests per
/// second, and a second one goes on where the first is kept waiting by the scheduler.
pub const HEALTH_THREADS: usize = 2;
/// Nice value of these threads: three times the share of anybody else's, which is the end of waiting for a turn, and
/// leaves the rest of a processor to others however many connections there are.
pub const HEALTH_NICE: i32 = -5;
/// Rendered answers that are kept per thread: far more than there are load balancers with different questions.
pub const CACHED_ANSWERS: usize = 64;
/// 512 bytes for a target whose answer is kept: all checks by name are some 150.
pub const CACHED_TARGET: usize = 512;
/// 30 seconds without a byte until TCP asks whether the other side is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// 10 seconds between these questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// 3 of them without an answer end the connection: a minute after the last byte.
pub const KEEPALIVE_PROBES: u32 = 3;
/// 32 streams at once on an HTTP/2 connection: one watch for each check, and as many questions.
pub const HTTP2_STREAMS: u32 = 32;
/// 20 seconds between PINGs on an HTTP/2 connection, whose watches say nothing for days.
pub const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// 10 seconds for the answer.
pub const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// 4 KiB for the headers of an HTTP/2 request, of which many come at once: load balancers send some hundred bytes.
pub const HTTP2_HEADER_BYTES: u32 = 4 * 1024;
/// 64 KiB of answers on an HTTP/2 connection that nobody takes: ten times what is asked for at once by the most curious.
pub const HTTP2_UNSENT: usize = 64 * 1024;
/// 200 milliseconds without an answer in the making, after which an HTTP/2 connection that was told of the agent's stop
/// ends: the other side has heard of it by then, wherever it is.
pub const HTTP2_FAREWELL: Duration = Duration::from_millis(200);
/// gRPC watches at once: as many as connections, and some kilobytes each.
pub const WATCHES: usize = 1024;
/// 4 KiB for a gRPC request, which is the name of a check set.
pub const GRPC_MESSAGE: usize = 4 * 1024;
/// 20 milliseconds between the last connection let in and the end of the idle ones, when the agent is told to stop.
pub const DRAIN_LULL: Duration = Duration::from_millis(20);
