//! Rules about the tree as a whole, which no compiler and no lint holds: which way imports point ([`layers`]), that no
//! files import each other ([`circles`]), and how long files and functions may be ([`sizes`]). [`proof`] shows
//! that they find what they are made for.
//!
//! Each rule that is not yet kept everywhere has a list of the known exceptions beside it. A list only shrinks: an
//! exception that is not needed any more fails the test too.
#![expect(clippy::expect_used, clippy::panic, reason = "tests panic")]

mod circles;
mod imports;
mod layers;
mod proof;
mod sizes;
mod source;
mod tree;

use std::path::Path;

/// The top of the tree.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a directory of the tree")
}

/// Fails with all of these, one a line.
#[track_caller]
fn expect_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// Takes the known exceptions out of what was found; those that were not found are findings themselves.
fn without_known(mut found: Vec<(String, String)>, known: &[&str]) -> Vec<String> {
    let stale: Vec<_> = known
        .iter()
        .filter(|known| !found.iter().any(|(key, _)| key == *known))
        .map(|known| format!("{known}: listed as an exception, and none any more: take it out"))
        .collect();
    found.retain(|(key, _)| !known.contains(&key.as_str()));
    found.into_iter().map(|(_, message)| message).chain(stale).collect()
}
