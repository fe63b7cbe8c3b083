//! kubectl, as `admin`.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::control_plane::ControlPlane;
use super::server;

impl ControlPlane {
    /// Runs kubectl to its end, whatever its exit status.
    pub fn kubectl<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Output {
        self.kubectl_command(arguments).stdin(Stdio::null()).output().expect("run kubectl")
    }

    /// Runs kubectl, which has to succeed, and gives what it printed.
    pub fn kubectl_ok<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        let output = self.kubectl(arguments);
        let words: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        assert!(output.status.success(), "kubectl {words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `kubectl apply --server-side` of one object, or of a `List`.
    pub fn apply(&self, object: &Value) {
        self.send(&["apply", "--server-side", "--filename=-"], object);
    }

    /// `kubectl create` of one object, or of a `List`: fails where there is one already.
    pub fn create(&self, object: &Value) {
        self.send(&["create", "--filename=-"], object);
    }

    /// `kubectl delete` of one object, or of a `List`; returns when they are gone.
    pub fn delete(&self, object: &Value) {
        self.send(&["delete", "--ignore-not-found", "--filename=-"], object);
    }

    fn send(&self, arguments: &[&str], object: &Value) {
        let mut command = self.kubectl_command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start kubectl");
        // Dropped at once, which ends kubectl's input.
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(object.to_string().as_bytes()).expect("write to kubectl");
        drop(stdin);
        let output = child.wait_with_output().expect("wait for kubectl");
        assert!(output.status.success(), "kubectl {arguments:?} of {object}: {output:?}");
    }

    fn kubectl_command<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = server::command(&self.program("kubectl"));
        command
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig("admin"))
            .env("HOME", self.scratch().path("home"))
            .env("KUBECACHEDIR", self.scratch().path("home/cache"));
        command
    }
}
