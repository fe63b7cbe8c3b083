//! The two calls of the Container Runtime Interface that the agent makes, and the judge of the runtime's status.
//!
//! Messages and field numbers are those of `pkg/apis/runtime/v1/api.proto` in k8s.io/cri-api v0.36.3. Fields that the
//! agent does not read are left out, which protobuf allows.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use prost::Message;
use tocsin_runtime::text::one_line;
use tokio::net::UnixStream;
use tonic::Code;

use super::{
    grpc::{Connection, GrpcError, Status},
    settings,
};
use crate::model::Outcome;

const STATUS: &str = "/runtime.v1.RuntimeService/Status";
const IMAGE_FS_INFO: &str = "/runtime.v1.ImageService/ImageFsInfo";

/// The conditions that the interface requires (`constants.go`); the kubelet wants both true. Runtimes report others too,
/// such as that of containerd about deprecated settings, which do not keep pods from running.
const REQUIRED: [&str; 2] = ["RuntimeReady", "NetworkReady"];

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(bool, tag = "1")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

/// The status of a runtime.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeCondition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    status: bool,
    #[prost(string, tag = "3")]
    reason: String,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct ImageFsInfoRequest {}

#[derive(Clone, PartialEq, Message)]
struct ImageFsInfoResponse {
    #[prost(message, repeated, tag = "1")]
    image_filesystems: Vec<FilesystemUsage>,
}

#[derive(Clone, PartialEq, Message)]
struct FilesystemUsage {
    #[prost(message, optional, tag = "2")]
    fs_id: Option<FilesystemIdentifier>,
}

#[derive(Clone, PartialEq, Message)]
struct FilesystemIdentifier {
    #[prost(string, tag = "1")]
    mountpoint: String,
}

/// Why a call to the runtime has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The socket exists, but this process cannot connect to it.
    #[error("{}", connect_text(.0))]
    Connect(#[source] std::io::Error),
    /// The server does not have the runtime's interface, or not in this version.
    #[error(
        "no CRI runtime.v1 here ({0}): its CRI plugin is off or failed, or it is older than Kubernetes 1.23"
    )]
    Unimplemented(Status),
    /// The call failed otherwise.
    #[error(transparent)]
    Grpc(GrpcError),
    /// The answer did not come in time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Late(Duration),
    /// No socket was found, and why.
    #[error("{0}")]
    NoSocket(String),
}

fn connect_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "nobody listens on it".to_owned(),
        // On a unix socket this means that its queue of connections is full, not "in progress" as on TCP.
        std::io::ErrorKind::WouldBlock => {
            "it takes no connections: its queue of them is full".to_owned()
        }
        _ => format!("cannot connect: {error}"),
    }
}

impl From<GrpcError> for CriError {
    fn from(error: GrpcError) -> Self {
        match error {
            GrpcError::Status(status) if status.code == Code::Unimplemented => {
                Self::Unimplemented(status)
            }
            error => Self::Grpc(error),
        }
    }
}

/// A connection to a runtime.
pub(super) struct RuntimeClient(Connection);

impl RuntimeClient {
    pub(super) async fn open(stream: UnixStream) -> Result<Self, CriError> {
        Ok(Self(Connection::open(stream).await?))
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// The status of the runtime.
    pub(super) async fn status(&self, deadline: Duration) -> Result<RuntimeStatus, CriError> {
        let request = StatusRequest { verbose: false };
        let response: StatusResponse = self.0.call(STATUS, request, deadline).await?;
        Ok(response.status.unwrap_or_default())
    }

    /// Where the filesystems with container images are mounted.
    pub(super) async fn image_filesystems(
        &self,
        deadline: Duration,
    ) -> Result<Vec<PathBuf>, CriError> {
        let request = ImageFsInfoRequest {};
        Ok(mount_points(self.0.call(IMAGE_FS_INFO, request, deadline).await?))
    }
}

fn mount_points(response: ImageFsInfoResponse) -> Vec<PathBuf> {
    let points = response.image_filesystems.into_iter().filter_map(|usage| usage.fs_id);
    let points = points.map(|id| PathBuf::from(id.mountpoint)).filter(|path| path.is_absolute());
    points.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Passes if pods can be started, as the kubelet sees it: both conditions are there and true.
pub(super) fn judge(status: &RuntimeStatus) -> Outcome {
    let troubles: Vec<_> = REQUIRED.into_iter().filter_map(|kind| trouble(status, kind)).collect();
    if troubles.is_empty() { Outcome::Pass } else { Outcome::Fail(troubles.join("; ")) }
}

fn trouble(status: &RuntimeStatus, kind: &str) -> Option<String> {
    let found = status.conditions.iter().find(|condition| condition.kind == kind);
    let Some(RuntimeCondition { status, reason, message, .. }) = found else {
        return Some(format!("it says nothing about {kind}"));
    };
    if *status {
        return None;
    }
    let words = [reason, message].map(|text| one_line(text, settings::CRI_TEXT));
    let words = words.into_iter().filter(|words| !words.is_empty());
    Some(words.fold(format!("{kind} is false"), |text, words| format!("{text}: {words}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: bool, reason: &str, message: &str) -> RuntimeCondition {
        let (kind, reason, message) = (kind.into(), reason.into(), message.into());
        RuntimeCondition { kind, status, reason, message }
    }

    #[test]
    fn both_conditions_must_be_there_and_true() {
        let runtime = |status| condition("RuntimeReady", status, "", "");
        let network = |status| {
            let message = "Network plugin returns error:\n cni plugin not initialized";
            condition("NetworkReady", status, "NetworkPluginNotReady", message)
        };
        let other = condition("ContainerdHasNoDeprecationWarnings", false, "X", "{}");
        let no_network = "NetworkReady is false: NetworkPluginNotReady: \
                          Network plugin returns error: cni plugin not initialized";
        for (conditions, expected) in [
            (vec![runtime(true), network(true)], String::new()),
            (vec![network(true), other.clone(), runtime(true)], String::new()),
            (vec![runtime(true), network(false)], no_network.to_owned()),
            (vec![runtime(false), network(true)], "RuntimeReady is false".to_owned()),
            (
                vec![network(false), runtime(false), other],
                format!("RuntimeReady is false; {no_network}"),
            ),
            (vec![runtime(true)], "it says nothing about NetworkReady".to_owned()),
            (
                vec![],
                "it says nothing about RuntimeReady; it says nothing about NetworkReady".to_owned(),
            ),
        ] {
            let expected =
                if expected.is_empty() { Outcome::Pass } else { Outcome::Fail(expected) };
            assert_eq!(judge(&RuntimeStatus { conditions }), expected);
        }
    }

    #[test]
    fn messages_are_those_of_the_proto_file() {
        // Bytes of a runtime, with fields of later versions.
        let status = [
            &b"\x0a\x24\x0a\x10\x0a\x0cRuntimeReady\x10\x01"[..],
            b"\x0a\x10\x0a\x0cNetworkReady\x1a\0",
            b"\x12\x06\x0a\x01k\x12\x01v",
            b"\x22\x02\x08\x01",
        ]
        .concat();
        let status = StatusResponse::decode(&*status).unwrap().status.unwrap();
        assert_eq!(judge(&status), Outcome::Fail("NetworkReady is false".into()));
        let usage = b"\x08\x01\x12\x06\x0a\x04/img\x1a\x02\x08\x05";
        let usage = [&[0x0a, 14][..], usage].concat();
        let answer = [usage.clone(), usage, b"\x0a\x02\x08\x01".to_vec()].concat();
        let answer = ImageFsInfoResponse::decode(&*answer).unwrap();
        assert_eq!(answer.image_filesystems.len(), 3);
        assert_eq!(mount_points(answer), [PathBuf::from("/img")]);
        assert_eq!(StatusRequest { verbose: false }.encode_to_vec(), b"");
        assert!(StatusResponse::decode(&b"\x0a\xff"[..]).is_err());
    }

    #[test]
    fn errors_say_what_to_look_for() {
        let status = Status { code: Code::Unimplemented, message: "unknown service".into() };
        assert_eq!(
            CriError::from(GrpcError::from(status)).to_string(),
            "no CRI runtime.v1 here (UNIMPLEMENTED: unknown service): its CRI plugin is off or failed, or it is \
             older than Kubernetes 1.23"
        );
        let connect = |kind: std::io::ErrorKind| CriError::Connect(kind.into()).to_string();
        assert_eq!(connect(std::io::ErrorKind::ConnectionRefused), "nobody listens on it");
        assert!(connect(std::io::ErrorKind::WouldBlock).contains("queue"));
        assert_eq!(CriError::Late(Duration::from_secs(1)).to_string(), "no answer within 1 s");
    }
}
