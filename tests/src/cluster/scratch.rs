//! The files of one control plane: data, credentials, configuration, logs.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

const PREFIX: &str = "tocsin-e2e-cluster-";

/// Logs every request once it is answered, and a watch also when it begins; not the server's requests to itself.
const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived"],
  "rules": [
    {"level": "None", "users": ["system:apiserver"]},
    {"level": "Metadata"}
  ]
}"#;

/// Users that the server knows by a token: name, token, groups.
const USERS: [(&str, &str, &str); 2] =
    [("admin", "token-of-admin", "system:masters"), ("nobody", "token-of-nobody", "")];

/// A directory that is removed on drop. What a killed process has left behind is removed when the next one is made.
pub(super) struct Scratch(TempDir);

impl Scratch {
    pub(super) fn new() -> Self {
        let parent = std::env::temp_dir();
        remove_orphans(&parent);
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent);
        Self(directory.expect("make a temporary directory"))
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file in one step: tests that run at the same time write and read the same files.
    pub(super) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let written = tempfile::NamedTempFile::new_in(self.0.path()).and_then(|file| {
            fs::write(file.path(), contents)?;
            file.persist(&path).map_err(Into::into)
        });
        written.unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        path
    }

    /// Writes a kubeconfig file for one user of one server.
    pub(super) fn kubeconfig(
        &self,
        name: &str,
        server: &str,
        ca: Option<&Path>,
        token: Option<&str>,
    ) -> PathBuf {
        let mut cluster = json!({ "server": server });
        if let Some(ca) = ca {
            cluster["certificate-authority"] = json!(ca);
        }
        let user = token.map_or_else(|| json!({}), |token| json!({ "token": token }));
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": cluster }],
            "users": [{ "name": name, "user": user }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": name } }],
            "current-context": "test",
        });
        // JSON is YAML. The same arguments give the same file.
        let plain = |text: &str| text.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let file = format!("{}-at-{}.kubeconfig", plain(name), plain(server));
        self.write(&file, config.to_string())
    }
}

fn remove_orphans(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let Some((pid, _)) = owner.and_then(|owner| owner.split_once('-')) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            // Another process may be removing it at the same time.
            let _gone = fs::remove_dir_all(entry.path());
        }
    }
}

/// Files that the API server reads once, when it starts.
pub(super) struct Credentials {
    pub(super) tokens: PathBuf,
    pub(super) audit_policy: PathBuf,
    /// The server makes its certificate, and the authority's that signs it, here at its first start.
    pub(super) certificates: PathBuf,
}

impl Credentials {
    pub(super) fn write(scratch: &Scratch) -> Self {
        let lines =
            USERS.map(|(name, token, groups)| format!("{token},{name},{name},\"{groups}\"\n"));
        Self {
            tokens: scratch.write("tokens.csv", lines.concat()),
            audit_policy: scratch.write("audit-policy.json", AUDIT_POLICY),
            certificates: scratch.path("certificates"),
        }
    }

    /// The server's own key. It signs service account tokens too: not every machine has a program that makes keys.
    pub(super) fn key(&self) -> PathBuf {
        self.certificates.join("apiserver.key")
    }

    /// The server's certificate, followed by the authority's.
    pub(super) fn ca(&self) -> PathBuf {
        self.certificates.join("apiserver.crt")
    }
}

/// The token of one of the users above.
pub(super) fn token_of(user: &str) -> Option<&'static str> {
    USERS.iter().find(|(name, ..)| *name == user).map(|(_, token, _)| *token)
}
