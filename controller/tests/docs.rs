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
    heartbeat, remediation,
};
use tocsin_docgen::{
    Globals, Metric, Mode, Page, Section, check, environment, environment_names, flags, metrics,
    names_with_prefix,
};

/// What makes the generated tables current.
const FIX: &str = "UPDATE_DOCS=1 cargo test -p tocsin-controller --test docs";
/// The page of the heartbeat.
const HEARTBEAT: &str = "docs/heartbeat.md";
/// The page of the remediation.
const REMEDIATION: &str = "docs/remediation.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(page: &str) -> String {
    fs::read_to_string(root().join(page)).unwrap()
}

/// Metrics by their whole names.
fn named(
    descriptions: &'static [tocsin_runtime::metrics::Description],
) -> impl Iterator<Item = Metric<'static>> {
    descriptions.iter().map(|metric| Metric {
        name: metric.full_name(),
        kind: metric.kind.name(),
        labels: metric.labels,
        help: metric.help,
    })
}

/// The metrics of a page's role.
fn metrics_of(page: &str) -> impl Iterator<Item = Metric<'static>> {
    named(match page {
        HEARTBEAT => heartbeat::metrics::DESCRIPTIONS,
        _ => remediation::metrics::DESCRIPTIONS,
    })
}

fn pages() -> Vec<Page> {
    let section = |name, text| Section { name, text };
    let flags = |command| flags(Cli::command(), &[command], Globals::Shown);
    vec![
        Page {
            path: HEARTBEAT,
            sections: vec![
                section("flags of tocsin-controller heartbeat", flags("heartbeat")),
                section("metrics of the heartbeat", metrics(metrics_of(HEARTBEAT))),
            ],
        },
        Page {
            path: REMEDIATION,
            sections: vec![
                section("flags of tocsin-controller remediation", flags("remediation")),
                section("metrics of the remediation", metrics(metrics_of(REMEDIATION))),
            ],
        },
    ]
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
    // The agent reads the second one, and its conditions are what this role acts on.
    let others = ["UPDATE_DOCS", "PUBLISH_CONDITIONS"];
    let exists = |name: &str| {
        known.iter().any(|known| known == name) || is_alias(name) || others.contains(&name)
    };
    for page in [HEARTBEAT, REMEDIATION] {
        let text = text(page);
        let unknown: Vec<_> =
            environment_names(&text).into_iter().filter(|name| !exists(name)).collect();
        assert!(unknown.is_empty(), "{page}: the controller does not read {unknown:?}");
    }
}

#[test]
fn metrics_exist() {
    for page in [HEARTBEAT, REMEDIATION] {
        let known: BTreeSet<_> = metrics_of(page).map(|metric| metric.name).collect();
        let text = text(page);
        let names = names_with_prefix(&text, "tocsin_").into_iter();
        let unknown: Vec<_> = names.filter(|name| !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{page}: there are no metrics {unknown:?}");
    }
}
