//! How often one node is remediated: a limit within a window, and a pause that doubles, so that a node that flaps never
//! becomes a reboot loop.

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{
        names,
        settings::Settings,
        world::{Node, World},
    },
    reason::Reason,
};

/// When remediations of `node` began within the window, oldest first, over every `NodeHealthCheck`.
#[must_use]
pub(super) fn history(
    world: &World,
    settings: &Settings,
    node: &Node,
    now: Timestamp,
) -> Vec<Timestamp> {
    let forget = node
        .annotation(names::FORGET_ATTEMPTS)
        .and_then(|text| text.parse::<Timestamp>().ok())
        .unwrap_or(Timestamp::MIN);
    let mut began: Vec<_> = world
        .checks
        .values()
        .filter_map(|check| check.status.as_ref()?.attempts.as_ref())
        .flatten()
        .filter(|attempts| *attempts.name == *node.name)
        .flat_map(|attempts| attempts.started.iter().map(|time| time.0))
        .filter(|began| counts(*began, settings, now) && *began >= forget)
        .collect();
    began.sort_unstable();
    began
}

/// Whether an attempt that began then still counts.
#[must_use]
pub(super) fn counts(began: Timestamp, settings: &Settings, now: Timestamp) -> bool {
    now.duration_since(began) < settings.attempts_window
}

/// Whether one more may begin after these; if not, why, and when it may.
///
/// That moment is exact: an attempt that leaves the window meanwhile makes room, and shortens the pause.
pub(super) fn allowed(
    history: &[Timestamp],
    settings: &Settings,
    now: Timestamp,
) -> Result<(), (Reason, String, Timestamp)> {
    let Some(last) = history.last() else { return Ok(()) };
    let (count, limit) = (history.len(), settings.attempts as usize);
    // When so many of the oldest are forgotten, and the pause after the others is over.
    let after = |forgotten: usize| {
        let oldest = history.get(..forgotten)?.last();
        let forgotten_at = oldest.map(|oldest| later(*oldest, settings.attempts_window));
        let rested = later(*last, pause(count - forgotten, settings));
        Some(forgotten_at.map_or(rested, |at| at.max(rested)))
    };
    // As many of them have to be forgotten as leave room for one.
    let too_many = if limit > 0 { (count + 1).saturating_sub(limit) } else { 0 };
    let at = (too_many..=count).filter_map(after).min().unwrap_or(now);
    if at <= now {
        return Ok(());
    }
    if too_many > 0 {
        let message = format!(
            "{count} remediations of the node began within {:#}, {limit} are allowed",
            settings.attempts_window
        );
        return Err((Reason::AttemptsExhausted, message, at));
    }
    let message = format!(
        "remediation {count} of the node began at {last}, the next may begin {:#} later",
        at.duration_since(*last)
    );
    Err((Reason::CoolingOff, message, at))
}

/// The pause after so many remediations: none after none, then doubled with each.
fn pause(count: usize, settings: &Settings) -> SignedDuration {
    let Some(doublings) = count.checked_sub(1) else { return SignedDuration::ZERO };
    settings.cool_off.saturating_mul(1 << u32::try_from(doublings).unwrap_or(u32::MAX).min(20))
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + minute * 60).unwrap()
    }

    type Case = (&'static [i64], i64, Option<(Reason, i64)>);

    #[test]
    fn the_pause_doubles_and_the_limit_holds() {
        let settings = Settings::default();
        // (when attempts began, now, when the next may begin; all in minutes)
        let cases: [Case; 11] = [
            (&[], 0, None),
            (&[0], 4, Some((Reason::CoolingOff, 5))),
            (&[0], 5, None),
            (&[0, 10], 15, Some((Reason::CoolingOff, 20))),
            (&[0, 10], 20, None),
            (&[0, 10, 20], 30, Some((Reason::CoolingOff, 40))),
            (&[0, 10, 20, 40], 79, Some((Reason::CoolingOff, 80))),
            // The first one is forgotten at 1440, and the pause is that after three then.
            (&[0, 1400, 1410, 1425], 1439, Some((Reason::CoolingOff, 1445))),
            (&[0, 1400, 1410, 1425], 1445, None),
            (&[0, 10, 20, 40, 80], 1000, Some((Reason::AttemptsExhausted, 1440))),
            (&[0, 10, 20, 40, 80, 90], 1000, Some((Reason::AttemptsExhausted, 1450))),
        ];
        for (history, now, expected) in cases {
            let began: Vec<_> = history.iter().map(|minute| at(*minute)).collect();
            let got =
                allowed(&began, &settings, at(now)).err().map(|(reason, _, next)| (reason, next));
            assert_eq!(
                got,
                expected.map(|(reason, next)| (reason, at(next))),
                "{history:?} at {now}"
            );
        }
    }

    #[test]
    fn no_limit_and_no_pause_when_they_are_zero() {
        let settings =
            Settings { attempts: 0, cool_off: SignedDuration::ZERO, ..Settings::default() };
        let began: Vec<_> = (0..100).map(at).collect();
        assert!(allowed(&began, &settings, at(99)).is_ok());
    }
}
