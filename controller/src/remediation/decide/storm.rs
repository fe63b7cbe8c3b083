//! Storm recovery: once too few nodes were healthy, remediation begins again only after a cooldown.

use super::{action::Note, draft::Draft};

/// Condition: too few nodes were healthy, and nothing is begun until that is over.
pub(super) const ACTIVE: &str = "StormActive";
/// Condition: enough nodes are healthy again, and the cooldown runs.
pub(super) const COOLDOWN: &str = "StormCooldownActive";
/// Reason of both, always.
const REASON: &str = "HealthyNodeThresholdChange";

/// How the storm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storm {
    /// There is none.
    Calm,
    /// It is on, or its cooldown runs.
    Active,
}

/// Moves the storm's conditions along.
///
/// `below`: too few nodes are healthy. `ill`: some node is unhealthy; only then a storm begins, but it ends without.
pub(super) fn evaluate(draft: &mut Draft<'_>, below: bool, ill: bool) -> Storm {
    let Some(cooldown) = &draft.check.spec.storm_cooldown_duration else {
        end_without_notice(draft);
        return Storm::Calm;
    };
    let cooldown = cooldown.get();
    let active = draft.is_on(ACTIVE).is_some();
    if below && (ill || active) {
        if active || draft.is_on(COOLDOWN).is_some() {
            draft.condition(
                COOLDOWN,
                false,
                REASON,
                "Cooldown cleared - storm threshold triggered",
            );
        }
        if !active {
            draft.condition(
                COOLDOWN,
                false,
                REASON,
                "Cooldown cleared - storm threshold triggered",
            );
            draft.condition(
                ACTIVE,
                true,
                REASON,
                "Storm mode is activated - preventing any new remediation until the storm is over and cooldown duration expired",
            );
            draft.notes.push(Note::warning(
                "StormRecoveryStarted",
                "Storm recovery mode activated - delaying remediation until threshold is reached",
            ));
        }
        return Storm::Active;
    }
    if !active {
        return Storm::Calm;
    }
    let since = if let Some(condition) = draft.is_on(COOLDOWN) {
        condition.last_transition_time.0
    } else {
        draft.condition(
            COOLDOWN,
            true,
            REASON,
            "Storm cooldown delay started - waiting before resuming normal remediation",
        );
        draft.notes.push(Note::warning(
            "StormRecoveryCooldownStarted",
            "Storm recovery mode will exit after cooldown delay",
        ));
        draft.now
    };
    let ends = since.checked_add(cooldown).unwrap_or(jiff::Timestamp::MAX);
    if draft.now < ends {
        draft.due_at(ends);
        return Storm::Active;
    }
    draft.condition(
        ACTIVE,
        false,
        REASON,
        "Storm mode is deactivated, remediation can occur normally",
    );
    draft.condition(COOLDOWN, false, REASON, "Storm cooldown completed");
    draft.notes.push(Note::normal(
        "StormRecoveryEnded",
        "Storm recovery mode deactivated - normal remediation resumed",
    ));
    Storm::Calm
}

/// The feature was switched off: no storm is left behind.
fn end_without_notice(draft: &mut Draft<'_>) {
    for (kind, message) in [
        (ACTIVE, "Storm mode is deactivated, remediation can occur normally"),
        (COOLDOWN, "Storm cooldown completed"),
    ] {
        if draft.is_on(kind).is_some() {
            draft.condition(kind, false, REASON, message);
        }
    }
}
