//! What a decision is made of, and what follows from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Alive,
    /// It may not.
    Suspect,
    /// It did not answer since then.
    Dead(Instant),
    /// It said that it leaves.
    Left,
}

/// What this agent sees.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The members but this agent, by identifier.
    pub members: BTreeMap<Arc<str>, Standing>,
    /// Those of them whose death a majority has agreed on, as others say.
    pub agreed_dead: BTreeSet<Arc<str>>,
    /// How many others discovery knows that were never seen.
    pub unseen: usize,
    /// Discovery has not said yet who else there may be.
    pub is_blind: bool,
    /// How many members were probed lately.
    pub probed: usize,
    /// How many of these were heard.
    pub heard: usize,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The members whose death is confirmed.
    pub died: Vec<Arc<str>>,
    /// The members that are back after a confirmed death.
    pub recovered: Vec<Arc<str>>,
    /// The members that are back after a death that this agent withheld: whoever keeps it has to forget it.
    pub withdrawn: Vec<Arc<str>>,
    /// This agent was isolated and is not any more: it has to ask what it has missed.
    pub is_back: bool,
    /// `SANITY_CHECK_URL` has to be asked.
    pub asks_sanity: bool,
    /// Something waits: decide again soon.
    pub is_waiting: bool,
}
