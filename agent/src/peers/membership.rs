//! Who is a member, and whether it lives: foca's SWIM over [`Links`], in virtual time. It takes packets, timers and the
//! time, and gives packets and events; the simulator runs the same code as the agent.

mod gossiping;

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use foca::{Codec, Foca, Member, State, Timer};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    deaths::Deaths,
    gossip::Topic,
    items::Items,
    keys::Keys,
    links::{Links, Outbox, Received},
    member::{self, Node, Prefix, Probe, Wire},
    packet::Kind,
    stats::Rejection,
    suspicions::Suspicions,
    swim::{Effects, Note, PROBE_PERIOD, config},
    timers::Timers,
};

/// 1 second between rounds in which missing members are asked.
const ASK_PERIOD: Duration = Duration::from_secs(1);
/// 500 ms late, and this process was stopped: it judges nobody by the time that it did not see.
const STOPPED: Duration = Duration::from_millis(500);
/// 5 minutes after which the link of who is no member is forgotten.
const LINK_IDLE: Duration = Duration::from_mins(5);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member changed.
    Member(Note),
    /// A member leaves in order: its death, which follows, is none.
    Leaves(SocketAddr),
    /// An item of gossip.
    Item(Topic, SocketAddr, Arc<[u8]>),
    /// A packet for the prober.
    Probe(SocketAddr, Vec<u8>),
    /// Others agreed on an end that this agent may not have agreed on.
    Ended,
}

/// The members, and all that keeps them known.
pub struct Membership {
    foca: Foca<Node, Wire, SmallRng, Items>,
    links: Links,
    items: Items,
    effects: Effects,
    timers: Timers,
    suspicions: Suspicions,
    random: SmallRng,
    incarnation: u16,
    /// The generations that are known.
    known: HashMap<SocketAddr, u32>,
    /// When a member was last heard of by itself.
    heard: HashMap<SocketAddr, Instant>,
    /// The members that were asked lately, and when.
    asked: BTreeMap<SocketAddr, Instant>,
    missing: Vec<SocketAddr>,
    shared: BTreeMap<Topic, Arc<[u8]>>,
    item_count: u32,
    ask_at: Instant,
    items_at: Option<Instant>,
    items_asked: u32,
    /// The deaths that were agreed on.
    deaths: Deaths,
    /// Who is told of a death first.
    reporter: Option<SocketAddr>,
    has_left: bool,
    events: Vec<Event>,
    out: Outbox,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Membership").field("own", self.own()).finish_non_exhaustive()
    }
}

impl Membership {
    /// Nobody but this agent. `seed` is random, and secret.
    #[must_use]
    pub fn new(now: Instant, own: Node, keys: Keys, seed: &[u8; 32]) -> Self {
        let mut random = SmallRng::from_seed(*seed);
        let items = Items::default();
        let links = Links::new(own.address, own.name.clone(), keys, seed);
        let chooser = SmallRng::from_rng(&mut random);
        Self {
            foca: Foca::with_custom_broadcast(own, config(1), chooser, Wire, items.clone()),
            links,
            items,
            effects: Effects::default(),
            timers: Timers::default(),
            suspicions: Suspicions::default(),
            random,
            incarnation: 0,
            known: HashMap::new(),
            heard: HashMap::new(),
            asked: BTreeMap::new(),
            missing: Vec::new(),
            shared: BTreeMap::new(),
            item_count: 0,
            ask_at: now,
            items_at: None,
            items_asked: 0,
            deaths: Deaths::default(),
            reporter: None,
            has_left: false,
            events: Vec::new(),
            out: Vec::new(),
        }
    }

    /// This agent.
    #[must_use]
    pub fn own(&self) -> &Node {
        self.foca.identity()
    }

    /// All members but this agent, the dead ones too.
    pub fn members(&self) -> impl Iterator<Item = &Member<Node>> {
        let own = self.own().address;
        self.foca.iter_membership_state().filter(move |member| member.id().address != own)
    }

    /// When a member was last heard of by itself.
    #[must_use]
    pub fn heard(&self, address: SocketAddr) -> Option<Instant> {
        self.heard.get(&address).copied()
    }

    /// The members that were asked lately, and when last.
    pub fn asked(&self) -> impl Iterator<Item = (SocketAddr, Instant)> {
        self.asked.iter().map(|(address, at)| (*address, *at))
    }

    /// The packets to send.
    #[must_use]
    pub fn take_packets(&mut self) -> Outbox {
        std::mem::take(&mut self.out)
    }

    /// What happened.
    #[must_use]
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Signs with, and accepts, other keys from now on.
    pub fn set_keys(&mut self, keys: Keys) {
        self.links.set_keys(keys);
    }

    /// Who is told of a death first.
    pub fn set_reporter(&mut self, reporter: Option<SocketAddr>) {
        self.reporter = reporter;
    }

    /// The agents that discovery knows and that are not alive.
    pub fn set_missing(&mut self, missing: Vec<SocketAddr>) {
        self.missing = missing;
    }

    /// Receives a packet.
    pub fn receive(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &[u8],
    ) -> Result<(), Rejection> {
        if self.has_left {
            return Ok(());
        }
        let known = self.known.get(&from).copied().unwrap_or(0);
        match self.links.receive(now, from, bytes, known, &mut self.out)? {
            Received::Nothing => Ok(()),
            Received::Challenged(known) => {
                // A life before this one, of which its clock knows nothing.
                if known > self.own().generation {
                    let generation = known.saturating_add(1);
                    let node = Node { generation, ..self.own().clone() };
                    self.drive(now, |foca, effects| foca.change_identity(node, effects));
                    self.share_again(now);
                    self.ask_at = now;
                }
                Ok(())
            }
            Received::Content(kind, payload) => {
                self.heard.insert(from, now);
                self.content(now, from, kind, payload)
            }
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant) {
        let late =
            self.timers.next().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if late > STOPPED {
            self.timers.put_off(late);
            self.suspicions.put_off(late);
        }
        while let Some(timer) = self.timers.pop(now) {
            // It hears nobody any more, so it judges nobody.
            if self.has_left && !matches!(timer, Timer::PeriodicGossip(_)) {
                continue;
            }
            let death = matches!(timer, Timer::ChangeSuspectToDown { .. });
            self.drive(now, |foca, effects| foca.handle_timer(timer, effects));
            if death {
                self.tell_reporter(now);
            }
        }
        if self.has_left {
            return;
        }
        let foca = &self.foca;
        let is_suspect = |node: &Node, incarnation| {
            foca.iter_members().any(|member| {
                member.id() == node
                    && member.state() == State::Suspect
                    && member.incarnation() == incarnation
            })
        };
        for (node, incarnation) in self.suspicions.due(now, is_suspect) {
            let suspect = Member::new(node, incarnation, State::Suspect);
            self.update(now, suspect.id().address, &suspect);
        }
        if now >= self.ask_at {
            self.ask_at = now + ASK_PERIOD;
            self.ask_missing(now);
            let known = &self.known;
            self.links.forget(now, LINK_IDLE, |address| known.contains_key(address));
            self.asked.retain(|_, at| now.duration_since(*at) < Duration::from_secs(5));
        }
        if self.items_at.is_some_and(|at| now >= at) {
            self.ask_items(now);
        }
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn next(&self) -> Instant {
        if self.has_left {
            return self.timers.next().unwrap_or(self.ask_at + LINK_IDLE);
        }
        let times = [self.timers.next(), self.suspicions.next(), self.items_at];
        times.into_iter().flatten().fold(self.ask_at, Instant::min)
    }

    /// Sends a packet of the prober.
    pub fn probe(&mut self, now: Instant, to: SocketAddr, bytes: &[u8]) {
        self.links.send(now, to, Kind::Probe, bytes, &mut self.out);
    }

    fn content(
        &mut self,
        now: Instant,
        from: SocketAddr,
        kind: Kind,
        payload: &[u8],
    ) -> Result<(), Rejection> {
        match kind {
            Kind::Swim => return self.swim(now, from, payload),
            Kind::Update => {
                let member = Wire.decode_member(payload).map_err(|_| Rejection::Malformed)?;
                let is_suspicion = member.id() == self.own() && member.state() == State::Suspect;
                let update = std::iter::once(member);
                self.drive(now, |foca, effects| foca.apply_many(update, true, effects));
                if is_suspicion {
                    let alive = Member::new(self.own().clone(), self.incarnation, State::Alive);
                    self.update(now, from, &alive);
                }
            }
            Kind::Probe => self.events.push(Event::Probe(from, payload.to_vec())),
            Kind::AskItems => self.tell_items(now, from),
            Kind::Deaths => return self.take_ends(now, payload),
            Kind::Items => {
                self.items.unpack(payload).map_err(|_| Rejection::Malformed)?;
                self.take_items(now);
            }
            Kind::Hello | Kind::Challenge | Kind::Introduce => {}
        }
        Ok(())
    }

    fn swim(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) -> Result<(), Rejection> {
        let name = self.links.node(from).cloned().unwrap_or_else(|| Arc::from(""));
        let sender = Node { address: from, generation: 0, name };
        let data = Prefix::new(&sender, self.own().address).restore(payload);
        let mut result = Ok(());
        self.drive(now, |foca, effects| {
            result = foca.handle_data(&data, effects);
            Ok(())
        });
        if let Some((Probe::Ack, _)) = member::probe(payload) {
            let generation = self.known.get(&from).copied().unwrap_or(0);
            let probed = Node { generation, ..sender };
            if let Some(timer) = self.timers.take_second_stage(&probed) {
                self.drive(now, |foca, effects| foca.handle_timer(timer, effects));
            }
        }
        self.take_items(now);
        match result {
            Ok(()) => Ok(()),
            Err(_) => Err(Rejection::Malformed),
        }
    }

    /// Has foca do something, and then does what foca asks for.
    fn drive(
        &mut self,
        now: Instant,
        act: impl FnOnce(
            &mut Foca<Node, Wire, SmallRng, Items>,
            &mut Effects,
        ) -> Result<(), foca::Error>,
    ) {
        if let Err(error) = act(&mut self.foca, &mut self.effects) {
            tracing::debug!(%error, "membership");
        }
        let Effects { messages, timers, notes } = std::mem::take(&mut self.effects);
        // In another life foca says at once what it believed before; see `begin_anew`.
        let is_anew = notes.contains(&Note::Rejoined);
        for (to, message) in messages.into_iter().filter(|_| !is_anew) {
            let prefix = Prefix::new(self.foca.identity(), to.address);
            let message = prefix.strip(&message);
            if let Some(incarnation) = member::incarnation(message) {
                self.incarnation = incarnation;
            }
            if let Some((Probe::Ping, _)) = member::probe(message) {
                self.asked.entry(to.address).or_insert(now);
                self.asked.insert(to.address, now);
            }
            self.links.send(now, to.address, Kind::Swim, message, &mut self.out);
        }
        for (after, timer) in timers {
            if let Timer::ChangeSuspectToDown { member_id, incarnation, .. } = &timer {
                self.suspicions.add(now, member_id.clone(), *incarnation, now + after);
            }
            // Agents that started together do not probe together.
            let after = match timer {
                Timer::ProbeRandomMember(_) => {
                    let spread = u64::try_from(PROBE_PERIOD.as_micros() / 10).unwrap_or(0);
                    after.saturating_sub(PROBE_PERIOD / 20)
                        + Duration::from_micros(self.random.random_range(0..=spread))
                }
                _ => after,
            };
            self.timers.add(now + after, timer);
        }
        for note in notes {
            self.note(now, note);
        }
        if self.foca.updates_backlog() > 0 || self.foca.custom_broadcast_backlog() > 0 {
            self.timers.wake_gossip(now);
        }
    }

    fn note(&mut self, now: Instant, note: Note) {
        match &note {
            Note::Up(member) | Note::Renamed(_, member) => {
                self.known.insert(member.address, member.generation);
            }
            Note::Active | Note::Rejoined => self.catch_up(now),
            Note::Down(_) => {}
        }
        if note == Note::Rejoined {
            self.begin_anew(now);
            self.share_again(now);
        }
        if matches!(note, Note::Up(_) | Note::Down(_)) {
            let replaced = self.foca.set_config(config(self.foca.num_members()));
            debug_assert!(replaced.is_ok(), "no period changes");
        }
        self.events.push(Event::Member(note));
    }
}
