//! How membership by SWIM is tuned, and what foca asks of its surroundings.
//!
//! A member is probed by another one every [`PROBE_PERIOD`] on average, whatever the number of members; who does not
//! answer, directly or through three others, becomes suspect, and dead after [`SUSPICION`] unless it says otherwise.
//! So a pause of 1.5 s is no death (200 ms + 1,550 ms at least), and 99 of 100 deaths are known after 0.92 s (the first
//! probe: an exponential distribution, as probers are independent) + 0.2 s + 1.55 s.

use std::{num::NonZero, time::Duration};

use foca::{Config, Notification, PeriodicParams, Runtime, Timer};

use super::{member::Node, packet::PAYLOAD_BYTES};

/// 200 ms between two probes of a member; see the module.
pub const PROBE_PERIOD: Duration = Duration::from_millis(200);
/// 80 ms for a direct answer; the rest of the period is for an answer through others.
pub const PROBE_ANSWER: Duration = Duration::from_millis(80);
/// 1,550 ms for a suspect to answer; see the module.
pub const SUSPICION: Duration = Duration::from_millis(1550);
/// 100 ms between rounds of gossip while there is news: five rounds reach a thousand members.
pub const GOSSIP_PERIOD: Duration = Duration::from_millis(100);
/// 3 members are asked to probe in one's stead, and get the news in each round.
const FAN_OUT: NonZero<usize> = NonZero::new(3).unwrap();
/// 30 seconds between questions for other members, in case one was missed.
const ANNOUNCE_PERIOD: Duration = Duration::from_secs(30);

/// The configuration for so many members.
#[must_use]
pub fn config(members: usize) -> Config {
    let one = NonZero::<usize>::MIN;
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_ANSWER,
        num_indirect_probes: FAN_OUT,
        max_transmissions: transmissions(members),
        suspect_to_down_after: SUSPICION,
        // A dead member stays until discovery forgets it.
        remove_down_after: None,
        max_packet_size: NonZero::new(PAYLOAD_BYTES).unwrap_or(one),
        notify_down_members: true,
        periodic_announce: Some(PeriodicParams { frequency: ANNOUNCE_PERIOD, num_members: one }),
        // Discovery's members are asked, see `membership`.
        periodic_announce_to_down_members: None,
        periodic_gossip: Some(PeriodicParams { frequency: GOSSIP_PERIOD, num_members: FAN_OUT }),
    }
}

/// How often a member passes news on: four times the decimal logarithm, and six times at least.
fn transmissions(members: usize) -> NonZero<u8> {
    let digits = u8::try_from((members + 1).ilog10()).unwrap_or(4) + 1;
    NonZero::new(digits.saturating_mul(4).max(6)).unwrap_or(NonZero::<u8>::MIN)
}

/// What foca wants done.
#[derive(Debug, Default)]
pub struct Effects {
    /// Messages to send.
    pub messages: Vec<(Node, Vec<u8>)>,
    /// Timers to hand back.
    pub timers: Vec<(Duration, Timer<Node>)>,
    /// What changed.
    pub notes: Vec<Note>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A member is alive.
    Up(Node),
    /// A member is dead.
    Down(Node),
    /// A member has come back in another life before anybody thought it dead.
    Renamed(Node, Node),
    /// There is somebody to talk to.
    Active,
    /// The others thought this agent dead; it has another life.
    Rejoined,
}

impl Runtime<Node> for Effects {
    fn notify(&mut self, notification: Notification<'_, Node>) {
        self.notes.push(match notification {
            Notification::MemberUp(node) => Note::Up(node.clone()),
            Notification::MemberDown(node) => Note::Down(node.clone()),
            Notification::Rename(old, new) => Note::Renamed(old.clone(), new.clone()),
            Notification::Active => Note::Active,
            Notification::Rejoin(_) => Note::Rejoined,
            Notification::Idle | Notification::Defunct => return,
        });
    }

    fn send_to(&mut self, to: Node, data: &[u8]) {
        self.messages.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Node>, after: Duration) {
        self.timers.push((after, timer));
    }
}
