//! HTTP/2 on one connection, over hyper: the same responses as over HTTP/1, and gRPC health.

pub mod connection;
pub mod context;
pub mod counted_body;
pub mod grpc;
pub mod grpc_messages;
pub mod grpc_watch;
pub mod stream;
pub mod stream_tracker;

pub use self::connection::serve_connection;
