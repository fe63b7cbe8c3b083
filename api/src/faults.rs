//! `GET /faults` of the agent's admin listener.

use serde::{Deserialize, Serialize};

/// The body of `/faults`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct FaultsResponse {
    /// The node's name in its cluster, where it is known.
    pub node: Option<String>,
    /// The agent's version.
    #[serde(default)]
    pub version: String,
    /// Open faults, in the order of their ids.
    pub faults: Vec<Fault>,
    /// What the kernel counted since the agent's programs were attached, harmless errors too.
    pub counters: Vec<Counter>,
    /// The kernel hooks and their states.
    pub hooks: Vec<Hook>,
    /// Why anything may be missing from the above, one line each.
    pub degraded: Vec<String>,
}

/// One thing that is wrong now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Fault {
    /// `<kind>-<major>:<minor>`: the same fault has the same id after a restart of the agent.
    pub id: String,
    /// What is wrong: `filesystem_ro`, `filesystem_error`, `io_error` or `io_stall`.
    pub kind: String,
    /// The check that the fault fails.
    pub check: String,
    /// The device that it is on, as `major:minor`.
    pub device: String,
    /// The device's kernel name (`sda`, `dm-0`); empty when the device is gone.
    pub device_name: String,
    /// Filesystem type; empty when the device carries several.
    pub filesystem: String,
    /// Where the affected filesystems are mounted; some of them where there are very many.
    pub mount_points: Vec<String>,
    /// What the fault concerns: `host` fails the node's checks; `volume` (a pod's) and `member` (one leg of a redundant
    /// array) are shown.
    pub scope: String,
    /// When it was first seen, as RFC 3339 with milliseconds.
    pub opened: String,
    /// When there was last evidence of it, as RFC 3339 with milliseconds.
    pub last: String,
    /// Kernel events behind it, exact to within a second; at least 1.
    pub count: u64,
    /// Name of the last errno, where one is known.
    pub errno: Option<String>,
    /// `CLOCK_MONOTONIC` nanoseconds of the first kernel event, where an event opened the fault.
    pub kernel_ns: Option<u64>,
    /// Device, mount point and what happened, in one line.
    pub reason: String,
    /// What the fault rests on, one line each.
    pub evidence: Vec<String>,
}

/// What the kernel counted of one kind of event, device and errno.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Counter {
    /// The kind of event: `block_write`, say.
    pub kind: String,
    /// `major:minor`
    pub device: String,
    /// The device's kernel name; empty where it is not known.
    pub device_name: String,
    /// Name of the errno; empty where the tracepoint has none.
    pub errno: String,
    /// Events, exactly.
    pub count: u64,
    /// Those of them that were not sent one by one, by the limit per kind, device and second.
    pub suppressed: u64,
    /// Those of them that were not sent one by one, because the ring buffer was full.
    pub dropped: u64,
}

/// One kernel hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Hook {
    /// `category:event`
    pub name: String,
    /// `attached`, `missing` (this kernel has no such tracepoint, or its module is not loaded yet), `disabled` (another
    /// hook does its work, or it was not asked for) or `failed`.
    pub state: String,
    /// Why, unless it is attached.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_that_of_the_wire() {
        let text = concat!(
            r#"{"node":"n","version":"0.1.0","faults":[{"id":"io_error-7:3","kind":"io_error","check":"io_errors","#,
            r#""device":"7:3","device_name":"loop3","filesystem":"ext4","mount_points":["/data"],"scope":"host","#,
            r#""opened":"2026-01-01T00:00:00.000Z","last":"2026-01-01T00:00:01.000Z","count":3,"errno":"EIO","#,
            r#""kernel_ns":12,"reason":"r","evidence":["e"]}],"counters":[{"kind":"block_write","device":"7:3","#,
            r#""device_name":"loop3","errno":"EIO","count":3,"suppressed":1,"dropped":2}],"#,
            r#""hooks":[{"name":"block:block_rq_error","state":"attached","detail":""}],"degraded":["d"]}"#,
        );
        let found: FaultsResponse = serde_json::from_str(text).unwrap();
        assert_eq!(found.faults[0].errno.as_deref(), Some("EIO"));
        assert_eq!(found.counters[0].dropped, 2);
        assert_eq!(serde_json::to_string(&found).unwrap(), text);
        // What is not known is null, not absent.
        let nothing = serde_json::to_string(&Fault::default()).unwrap();
        assert!(nothing.contains(r#""errno":null,"kernel_ns":null"#), "{nothing}");
        assert!(
            serde_json::to_string(&FaultsResponse::default())
                .unwrap()
                .starts_with(r#"{"node":null,"#)
        );
    }
}
