//! The messages of gRPC health v1 (`grpc/health/v1/health.proto` of <https://github.com/grpc/grpc-proto>).
//!
//! tonic-health has no `List`, and wants its services named beforehand, while every set of checks is one here. So these
//! are the protocol's messages, and tonic carries them.

use std::collections::HashMap;

/// `HealthCheckRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CheckRequest {
    /// The names of checks with commas between them; empty for the default set.
    #[prost(string, tag = "1")]
    pub service: String,
}

/// `HealthCheckResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CheckResponse {
    /// The verdict.
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub status: i32,
}

/// `HealthListRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListRequest {}

/// `HealthListResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListResponse {
    /// The verdict of each service.
    #[prost(map = "string, message", tag = "1")]
    pub statuses: HashMap<String, CheckResponse>,
}

/// `ServingStatus`
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum ServingStatus {
    /// There is no verdict until the operator acts: `NODE_NAME` is not set.
    Unknown = 0,
    /// Ready.
    Serving = 1,
    /// Not ready.
    NotServing = 2,
    /// No such check; only `Watch` says so, `Check` fails with `NOT_FOUND`.
    ServiceUnknown = 3,
}

impl ServingStatus {
    /// The status of a verdict.
    #[must_use]
    pub fn of(is_ready: bool) -> Self {
        if is_ready { Self::Serving } else { Self::NotServing }
    }
}

impl From<ServingStatus> for CheckResponse {
    fn from(status: ServingStatus) -> Self {
        Self { status: status.into() }
    }
}
