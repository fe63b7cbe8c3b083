//! The generated tables of the documentation, for the tests of every program that has a page in `docs/`.
//!
//! A page says between which markers a table belongs:
//!
//! ```markdown
//! <!-- generated: metrics -->
//! <!-- end of metrics -->
//! ```
//!
//! The program's test renders the table ([`flags`], [`metrics`], [`table`]) and lets [`check`] compare it with the page,
//! so that a page cannot say anything else than the code. `UPDATE_DOCS=1` makes the same test rewrite the page
//! ([`Mode::from_env`]). `agent/tests/docs/` is the example to copy.
//!
//! This crate depends on no other crate of the workspace, and is a dev-dependency only: no program carries it.

mod flags;
mod metrics;
mod page;
mod prose;
mod table;

pub use self::{
    flags::{Globals, environment, flags},
    metrics::{Metric, metrics},
    page::{CheckError, MarkersError, Mode, Page, Section, check, update},
    prose::{environment_names, links, names_with_prefix, paths_in_code},
    table::{code, table},
};
