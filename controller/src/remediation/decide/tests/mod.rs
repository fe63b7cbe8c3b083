//! Every rule of the reference as a story, and what has to hold whatever happens.

pub(crate) mod kit;

mod crash;
mod escalation;
mod flapping;
mod gates;
mod healthy;
mod properties;
mod rules;
