//! The fixed numbers of the storm guard, each with its reason. Its threshold is `STORM_GUARD`.

use std::time::Duration;

/// 3 agents on different nodes that say the check fails, this one included: a node that lies and this node are two, so
/// neither a compromised node nor a coincidence of two faults holds the guard up.
pub const LEAST_FAILING: usize = 3;

/// 30 seconds for which a share has to stay at or below the threshold until the guard lets go: pods of a rollout and
/// probes of a dying service swing by that much, and a node that is really sick leaves soon after all the same.
pub const RELEASE_AFTER: Duration = Duration::from_secs(30);

/// 200 milliseconds between two judgements at least: the view of a thousand peers changes with every probe, and a load
/// balancer asks less often than that.
pub const JUDGE_INTERVAL: Duration = Duration::from_millis(200);

/// 8 peers that are asked directly between two judgements, 40 a second at most: those of a usual cluster at once, and of
/// a thousand failing ones as many as make a [`SAMPLE`] in under a second.
pub const ASKED_AT_ONCE: usize = 8;

/// 24 answers that stand for all claimants of a check: three quarters of them do not confirm by chance where less than a
/// third of the nodes fail (once in 100,000 samples).
pub const SAMPLE: usize = 24;

/// 1 second until a peer is asked again that has not confirmed what gossip says of it.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// 4 seconds until a peer is asked again that has confirmed: two answers may be lost before its last one is too old.
pub const REFRESH_AFTER: Duration = Duration::from_secs(4);
