//! Every page leads somewhere: the files, paths and headings that it names exist.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use tocsin_docgen::{links, paths_in_code};

/// Where the paths begin that pages name in inline code.
const PLACES: [&str; 11] = [
    "agent/",
    "agent-ebpf/",
    "api/",
    "controller/",
    "deploy/",
    "docgen/",
    "docs/",
    "fuzz/",
    "runtime/",
    "tests/",
    "xtask/",
];

/// One page: more than this is a page nobody reads before trying the program.
const README_LINES: usize = 200;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for directory in ["", "docs", "deploy/lb"] {
        let files = fs::read_dir(root().join(directory)).unwrap();
        let files = files.map(|entry| entry.unwrap().path());
        pages.extend(files.filter(|path| path.extension().is_some_and(|e| e == "md")));
    }
    pages
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_code = false;
    let headings = text.lines().filter(|line| {
        is_code ^= line.starts_with("```");
        !is_code && line.starts_with('#')
    });
    headings.map(|heading| anchor(heading.trim_start_matches('#').trim())).collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn files_paths_and_headings_exist() {
    let mut lost = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        // `NAME` stands for the reader's own.
        let paths = paths_in_code(&text, &PLACES).into_iter().filter(|path| !path.contains("NAME"));
        lost.extend(
            paths.filter(|path| !root().join(path).exists()).map(|path| lead(&page, path, "")),
        );
        for (file, heading) in links(&text) {
            let target = if file.is_empty() { page.clone() } else { page.with_file_name(file) };
            let is_there = target.exists()
                && (heading.is_empty()
                    || anchors(&fs::read_to_string(&target).unwrap()).contains(heading));
            if !is_there {
                lost.push(lead(&page, file, heading));
            }
        }
    }
    assert!(lost.is_empty(), "pages lead to what is not there: {lost:#?}");
}

fn lead(page: &Path, to: &str, heading: &str) -> String {
    let page = page.file_name().unwrap().to_string_lossy().into_owned();
    format!("{page}: {to}#{heading}")
}

/// ARCHITECTURE.md and CONTRIBUTING.md name types and constants, which get other names.
#[test]
fn names_of_the_code_exist() {
    let code = sources();
    let words: BTreeSet<_> =
        code.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect();
    for page in ["ARCHITECTURE.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        let in_code = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let last_parts = in_code.map(|name| name.rsplit("::").next().unwrap_or(name));
        let names: BTreeSet<_> = last_parts.filter(|name| is_name_of_the_code(name)).collect();
        let lost: Vec<_> = names.into_iter().filter(|name| !words.contains(name)).collect();
        assert!(lost.is_empty(), "{page} names what the code does not have: {lost:?}");
    }
}

/// What stands for the reader's own.
const PLACEHOLDERS: [&str; 2] = ["ARGS", "NAME"];

/// One word with a capital letter: a type or a constant.
fn is_name_of_the_code(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.contains(|c: char| c.is_ascii_uppercase())
        && !PLACEHOLDERS.contains(&name)
}

/// Every Rust file of the tree.
fn sources() -> String {
    let mut open: Vec<_> = PLACES.iter().map(|place| root().join(place)).collect();
    let mut text = String::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    text
}

#[test]
fn the_readme_is_one_page() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines < README_LINES, "README.md has {lines} lines");
}

#[test]
fn anchors_are_those_of_github() {
    assert_eq!(anchor("Whom a fault concerns: its `scope`"), "whom-a-fault-concerns-its-scope");
    assert_eq!(anchor("`/faults` and `/metrics`"), "faults-and-metrics");
}
