//! A real control plane for the tests: etcd, kube-apiserver and kubectl, and Node objects.
//!
//! Nothing else runs in this cluster: no kubelet, no scheduler and no controller. What a test writes stays as it is;
//! what a controller would do (a Deployment's status, the removal of a namespace), the test does itself or goes
//! without. Tests that leave the server alone share one control plane per process, each with objects of its own names;
//! a test that breaks the server has one for itself.
//!
//! Every method blocks. What is asynchronous runs on [`runtime`], and [`ControlPlane::block_on`] waits for more.
//!
//! ```ignore
//! let Some(cluster) = ControlPlane::shared() else { return };
//! let account = cluster.service_account("my-test", "controller");
//! cluster.grant(&account, &[rule("", "nodes", &["list", "watch"])]);
//! let kubeconfig = cluster.kubeconfig(&account.user);   // for the program under test
//! let client = cluster.client_of(&account.user);        // or for this test, as that user
//! cluster.apply(&json!({ "apiVersion": "v1", "kind": "ConfigMap", ... }));
//! let writes = cluster.requests_of(&account.user).into_iter().filter(AuditEntry::is_write);
//! ```

mod access;
mod audit;
mod control_plane;
mod fake_api;
mod fleet;
mod kubectl;
mod node;
mod proxy;
mod runtime;
mod scratch;
mod server;
mod start;

pub use access::{Account, rule};
pub use audit::AuditEntry;
pub use control_plane::ControlPlane;
pub use fake_api::FakeApiServer;
pub use fleet::{FLEET, Fleet};
pub use node::{TestNode, TestNodes};
pub use proxy::TcpProxy;
pub use server::free_port;
