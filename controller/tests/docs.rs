//! The pages of `docs/` about the controller say what its code says.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use tocsin_controller::{
    cli::{self, Cli},
    heartbeat::metrics::DESCRIPTIONS,
};
use tocsin_docgen::{
    Globals, Metric, Mode, Page, Section, check, environment, environment_names, flags, metrics,
    names_with_prefix,
};

/// What makes the generated tables current.
const FIX: &str = "UPDATE_DOCS=1 cargo test -p tocsin-controller --test docs";
/// The page of the heartbeat.
const HEARTBEAT: &str = "docs/heartbeat.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text() -> String {
    fs::read_to_string(root().join(HEARTBEAT)).unwrap()
}

/// Every metric of the heartbeat by its whole name.
fn metrics_of_the_heartbeat() -> impl Iterator<Item = Metric<'static>> {
    DESCRIPTIONS.iter().map(|metric| Metric {
        name: metric.full_name(),
        kind: metric.kind.name(),
        labels: metric.labels,
        help: metric.help,
    })
}

fn pages() -> Vec<Page> {
    let flags = flags(Cli::command(), &["heartbeat"], Globals::Shown);
    vec![Page {
        path: HEARTBEAT,
        sections: vec![
            Section { name: "flags of tocsin-controller heartbeat", text: flags },
            Section { name: "metrics of the heartbeat", text: metrics(metrics_of_the_heartbeat()) },
        ],
    }]
}

#[test]
fn generated_tables_are_current() {
    check(&root(), &pages(), Mode::from_env())
        .unwrap_or_else(|error| panic!("{error}\nto update the page: {FIX}"));
}

#[test]
fn environment_names_exist() {
    let known = environment(&Cli::command());
    let is_alias = |name: &str| cli::ALIASES.iter().any(|alias| alias.theirs == name);
    let exists = |name: &str| {
        known.iter().any(|known| known == name) || is_alias(name) || name == "UPDATE_DOCS"
    };
    let text = text();
    let unknown: Vec<_> =
        environment_names(&text).into_iter().filter(|name| !exists(name)).collect();
    assert!(unknown.is_empty(), "{HEARTBEAT}: the controller does not read {unknown:?}");
}

#[test]
fn metrics_exist() {
    let known: BTreeSet<_> = metrics_of_the_heartbeat().map(|metric| metric.name).collect();
    let text = text();
    let names = names_with_prefix(&text, "tocsin_").into_iter();
    let unknown: Vec<_> = names.filter(|name| !known.contains(*name)).collect();
    assert!(unknown.is_empty(), "{HEARTBEAT}: there are no metrics {unknown:?}");
}
