//! The requests that the API server got, by its own audit log.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::control_plane::ControlPlane;

/// One request.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// The user: `admin`, `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, ...
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// The resource (`nodes`), with the subresource behind it (`nodes/status`); empty for a path that is none.
    pub resource: String,
    /// Namespace and name of the object, each empty where the request has none.
    pub namespace: String,
    /// See [`Self::namespace`].
    pub name: String,
    /// The response's status; none while a request is not answered.
    pub code: Option<u16>,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// Whether the request has ended; that of a watch which goes on has not.
    pub is_over: bool,
    /// When the request came in, RFC 3339 with microseconds.
    pub received: String,
}

impl ControlPlane {
    /// Every request so far, except the API server's own. An entry is there before its request is answered.
    pub fn requests(&self) -> Vec<AuditEntry> {
        read(&self.audit_log())
    }

    /// The requests of one user so far.
    pub fn requests_of(&self, user: &str) -> Vec<AuditEntry> {
        let mut entries = self.requests();
        entries.retain(|entry| entry.user == user);
        entries
    }
}

impl AuditEntry {
    /// Whether the request was to change something.
    pub fn is_write(&self) -> bool {
        !["get", "list", "watch"].contains(&self.verb.as_str())
    }

    /// Whether the request was this verb on this resource: `("patch", "nodes/status")`.
    pub fn is(&self, verb: &str, resource: &str) -> bool {
        self.verb == verb && self.resource == resource
    }

    fn read(event: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let code = event["responseStatus"]["code"].as_u64();
        let resource = match object["subresource"].as_str() {
            Some(subresource) => format!("{}/{subresource}", text(&object["resource"])),
            None => text(&object["resource"]),
        };
        Self {
            user: text(&event["user"]["username"]),
            verb: text(&event["verb"]),
            uri: text(&event["requestURI"]),
            resource,
            namespace: text(&object["namespace"]),
            name: text(&object["name"]),
            code: code.and_then(|code| u16::try_from(code).ok()),
            user_agent: text(&event["userAgent"]),
            is_over: event["stage"] != "ResponseStarted",
            received: text(&event["requestReceivedTimestamp"]),
        }
    }
}

/// Reads a log: one entry for each request, in the order in which they were first answered.
fn read(log: &Path) -> Vec<AuditEntry> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut entries: Vec<AuditEntry> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    // The server may be in the middle of the last line, or may have been killed there.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let entry = AuditEntry::read(&event);
        let id = event["auditID"].as_str().unwrap_or_default().to_owned();
        // A watch has two lines: one when it begins and one when it ends.
        if let Some(known) = places.get(&id).and_then(|place| entries.get_mut(*place)) {
            *known = entry;
        } else {
            places.insert(id, entries.len());
            entries.push(entry);
        }
    }
    entries
}
