//! The health listener: deadlines and bounds, each with its unit and its reason.

use std::time::Duration;

pub use crate::serve::settings::{DRAIN, HEADER_BYTES};

/// 2 seconds for a request to be complete from its first byte on, and for a TLS handshake: a load balancer sends a
/// request in one piece.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// 1 second, the kernel's smallest step, for which the kernel keeps a connection on which nothing was sent. Then it is
/// accepted all the same.
pub const DEFER_ACCEPT: Duration = Duration::from_secs(1);
/// 30 seconds until the next request on a connection: most load balancers ask every few seconds, and one that asks less
/// often opens another connection.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// 2 seconds for a response to be taken: it fits into every socket buffer unless hundreds were asked for at once.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// 1 second of lingering close, in which bytes that are still sent are discarded: without it, the connection's reset
/// would discard the response.
pub const LINGER: Duration = Duration::from_secs(1);
/// 256 KiB discarded in it at most.
pub const LINGER_BYTES: usize = 256 * 1024;
/// 16 connections accepted in a row, before other tasks have a turn: a flood must not outrun the responses.
pub const ACCEPTS: u64 = 16;
/// 512 connections are a crowd: memory is returned to the kernel when three quarters of it are gone.
pub const CROWD: usize = 512;
/// 1 second between two looks whether they are gone.
pub const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// 2 threads of the health listener, where the host has as many processors: one answers more than 50,000 requests per
/// second, and the second one goes on where the first is kept waiting by the scheduler.
pub const HEALTH_THREADS: usize = 2;
/// Nice value of these threads: three times the share of any other thread, so that they hardly wait for a processor,
/// and the rest of a processor is left to others however many connections there are.
pub const HEALTH_NICE: i32 = -5;
/// 64 rendered responses per thread: far more than there are load balancers with different questions.
pub const CACHED_RESPONSES: usize = 64;
/// 512 bytes for a target whose response is kept: the names of all checks are some 150.
pub const CACHED_TARGET: usize = 512;
/// 30 seconds without a byte until TCP probes whether the other side is still there.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// 10 seconds between these probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// 3 probes without a reply end the connection: a minute after the last byte.
pub const KEEPALIVE_PROBES: u32 = 3;
/// 32 streams at once on an HTTP/2 connection: a watch for each check, and as many requests.
pub const HTTP2_STREAMS: u32 = 32;
/// 64 KiB of request bodies in flight on an HTTP/2 connection and on each of its streams: RFC 9113's initial window. A
/// gRPC request has 4 KiB at most, and no other body is read.
pub const HTTP2_WINDOW: u32 = 64 * 1024;
/// 20 seconds between PINGs on an HTTP/2 connection, whose watches may be quiet for days.
pub const HTTP2_PING_INTERVAL: Duration = Duration::from_secs(20);
/// 10 seconds for the reply to a PING.
pub const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);
/// 4 KiB for the headers of an HTTP/2 request, of which many come at once: load balancers send some hundred bytes.
pub const HTTP2_HEADER_BYTES: u32 = 4 * 1024;
/// 64 KiB of responses that an HTTP/2 connection does not take: ten times what the most curious client asks for at once.
pub const HTTP2_UNSENT: usize = 64 * 1024;
/// 200 milliseconds without a request in hand, after which an HTTP/2 connection that was told of the agent's stop ends:
/// the other side has received the GOAWAY by then, wherever it is.
pub const HTTP2_DRAIN: Duration = Duration::from_millis(200);
/// 1024 gRPC watches at once: as many as connections, and some kilobytes each.
pub const WATCHES: usize = 1024;
/// 1024 HTTP/2 requests that wait at once, on all connections: as many as HTTP/1 can have, and some kilobytes each. Load
/// balancers wait only until a probe has its first result.
pub const HTTP2_WAITING: usize = 1024;
/// 4 KiB for a gRPC request, which is the name of a check set.
pub const GRPC_MESSAGE: usize = 4 * 1024;
/// 20 milliseconds between two looks for idle connections at a stop of the agent, and before the first: requests that
/// are on their way arrive in it.
pub const DRAIN_INTERVAL: Duration = Duration::from_millis(20);
