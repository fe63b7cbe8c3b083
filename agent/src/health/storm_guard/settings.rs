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
