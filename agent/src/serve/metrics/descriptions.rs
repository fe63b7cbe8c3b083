//! The agent's metrics: name without `tocsin_` and `_total`, labels and help.

tocsin_runtime::descriptions! {
    pub static DESCRIPTIONS;
    EVENTS = counter "kernel_events" ["kind", "device", "errno"]
        "Kernel events, exactly as the kernel counted them";
    OPEN = gauge "faults_open" ["kind", "device", "scope"] "1 for every open fault";
    OPENED = counter "faults_opened" ["kind"] "Faults opened since the first agent of this boot that left a checkpoint";
    CLOSED = counter "faults_closed" ["kind"] "Faults closed since the first agent of this boot that left a checkpoint";
    HOOK = gauge "hook_attached" ["hook"] "1 where the hook's program runs, 0 where it is missing, not wanted or failed";
    SUPPRESSED = counter "records_suppressed" [] "Kernel events counted and not sent, by the limit per (kind, device) and second";
    DROPPED = counter "records_dropped" [] "Kernel events counted and not sent, because the ring buffer was full";
    UNCOUNTED = counter "events_uncounted" [] "Kernel events not counted, because the table of counters was full";
    MISSED = counter "events_missed" [] "Kernel events for which no program ran, because one was running on that CPU";
    FORGOTTEN = counter "events_forgotten" [] "Kernel events given up while they waited for the mount table";
    PINNED = gauge "hooks_pinned" [] "Hooks that stay attached, and count, when this agent ends";
    CHECKPOINT = counter "checkpoint_failures" [] "Attempts to write the checkpoint that failed";
    PASSED = gauge "check_passed" ["check"] "1 while the check passes";
    DEGRADED = gauge "check_degraded" ["check"] "1 while the check passes by policy or with a blind spot";
    PROBE_OUTCOME = gauge "probe_outcome" ["check", "outcome"] "1 for what the last sample of a running probe was: pass, degraded, fail or unknown";
    PROBE_DURATION = gauge "probe_duration_seconds" ["check"] "How long the last sample of a running probe took";
    PROBE_AGE = gauge "probe_age_seconds" ["check"] "How long ago the last sample of a running probe was taken";
    STORM_GUARD_ACTIVE = gauge "storm_guard_active" ["check"] "1 for every check that fails on so many nodes that failing it takes none of them out";
    STORM_GUARD_SHARE = gauge "storm_guard_failing_ratio" ["check"] "The share of nodes on which such a check fails, 0 to 1";
    STORM_GUARD_BEGUN = counter "storm_guard_begun" [] "How often a check began to fail on so many nodes";
    PEERS = gauge "peers" ["state"] "Other agents by state: unseen, alive, suspect, dead or left";
    PEER_ROLE = gauge "peer_role" ["role"] "1 for the part of this agent among its peers: off, undecided, coordinator, follower or isolated";
    PEER_PACKETS = counter "peer_packets" ["direction"] "Packets of the peers: sent, or received, refused ones too";
    PEER_BYTES = counter "peer_bytes" ["direction"] "Bytes in these packets, without the headers of UDP and IP";
    PEER_REJECTED = counter "peer_packets_rejected" ["reason"] "Packets of the peers' port that were refused";
    PEER_ROUND_TRIP = gauge "peer_round_trip_seconds" ["peers"] "Round-trip time of the direct probes: of the median peer, and of the worst one, of those that are probed now";
    PEER_LOSS = gauge "peer_probe_loss_ratio" ["peers"] "Share of direct probes without an answer, 0 to 1: of the median peer, and of the worst one, of those that are probed now";
    PEER_CLOCK = gauge "peer_clock_offset_seconds" [] "The median clock of the peers minus this node's clock";
    PEER_PROBES_DROPPED = counter "peer_probes_dropped" [] "Direct probes for which a queue had no room";
    PEER_KEY_FAILURES = counter "peer_key_reload_failures" [] "Attempts to read PEERS_KEY_FILE again that failed";
    WEBHOOKS = counter "peer_webhooks" ["kind", "result"] "Attempts to send a webhook about one peer or about the cluster: accepted or failed";
    WEBHOOKS_DROPPED = counter "peer_webhooks_dropped" ["reason"] "Webhooks about peers that were given up: too many, or a day old";
    WEBHOOKS_QUEUED = gauge "peer_webhooks_queued" [] "Webhooks about peers that were not accepted yet; every agent of the majority has the same ones";
    REQUESTS = counter "health_requests" ["code"] "Answers of the health listener by class: 200, 503 or refused";
    CONNECTIONS = gauge "health_connections" [] "Open connections to the health listener";
    EVICTED = counter "health_connections_evicted" [] "Connections ended because there were too many of them";
    TIMED_OUT = counter "health_connections_timed_out" [] "Connections ended because a request was not complete in time";
    AGENT_CHECKS = counter "agent_checks" [] "Answers to HAProxy's agent-check";
    STATE_FILE = counter "state_file_failures" [] "Attempts to write the state file that failed";
    TLS_FAILURES = counter "tls_reload_failures" [] "Attempts to read a changed certificate that failed";
    API_UP = gauge "api_up" [] "1 while the Node is watched through the Kubernetes API, 0 while the API server is lost or no cluster is configured";
    API_LOST = counter "api_lost" [] "Times that the Kubernetes API was lost for longer than a reconnection";
    API_REQUESTS = counter "api_requests" ["code"] "Requests to the Kubernetes API by status of the answer, or none";
    WRITES = counter "api_writes" ["what", "result"] "Writes of the Node's conditions and of events";
    CHANGES_MISSED = counter "fault_changes_missed" ["reader"] "Changes of faults that a reader did not read in time, by reader: events";
    PROBES = gauge "probes_running" [] "Write probes that are running or stuck";
    LOOK = gauge "look_duration_seconds" [] "How long the last reading of the mount table and sysfs took";
    LOOK_AGE = gauge "look_age_seconds" [] "How long ago the kernel side last looked at the host; about a second at most while all is well";
    LOG_DROPPED = counter "log_lines_dropped" [] "Log lines dropped because whoever reads standard error does not";
    BUILD = gauge "build_info" ["version"] "1";
}
