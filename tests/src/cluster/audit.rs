//! What the API server was asked, by its own account.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

/// One request.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// Who asked: `admin`, `system:serviceaccount:NAMESPACE:NAME`.
    pub user: String,
    /// `get`, `list`, `watch`, `patch`, ...
    pub verb: String,
    /// Path and query.
    pub uri: String,
    /// The answer's status; none while a request is not answered.
    pub code: Option<u16>,
    /// What the client calls itself.
    pub user_agent: String,
    /// Whether the request is over; a watch that goes on is not.
    pub over: bool,
    /// When it came in, RFC 3339.
    pub at: String,
}

/// Reads a log, one entry for each request, in the order in which they were first answered.
pub(super) fn read(log: &Path) -> Vec<AuditEntry> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let mut entries: Vec<AuditEntry> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    // The last line may be in the middle of being written, or the server killed there.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let entry = AuditEntry::read(&event);
        let id = event["auditID"].as_str().unwrap_or_default().to_owned();
        // A watch has two events: when it begins, and when it ends.
        if let Some(known) = places.get(&id).and_then(|place| entries.get_mut(*place)) {
            *known = entry;
        } else {
            places.insert(id, entries.len());
            entries.push(entry);
        }
    }
    entries
}

impl AuditEntry {
    fn read(event: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let code = event["responseStatus"]["code"].as_u64();
        Self {
            user: text(&event["user"]["username"]),
            verb: text(&event["verb"]),
            uri: text(&event["requestURI"]),
            code: code.and_then(|code| u16::try_from(code).ok()),
            user_agent: text(&event["userAgent"]),
            over: event["stage"] != "ResponseStarted",
            at: text(&event["requestReceivedTimestamp"]),
        }
    }
}
