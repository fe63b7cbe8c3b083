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
