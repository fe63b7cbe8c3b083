//! The pages of `docs/` say what the agent's code says.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod sections;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use tocsin::cli::{self, Cli};
use tocsin_docgen::{Mode, check, environment, environment_names, names_with_prefix};

/// What makes the generated tables current.
const FIX: &str = "UPDATE_DOCS=1 cargo test -p tocsin --test docs";

/// Names that the pages mention and that are not the agent's environment: of other programs, and of gRPC's statuses.
const OTHERS: [&str; 10] = [
    "AYA_BUILD_SKIP",
    "HTTPS_PROXY",
    "KUBERNETES_SERVICE_HOST",
    "NOT_FOUND",
    "NOT_SERVING",
    "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED",
    "SERVICE_UNKNOWN",
    "SSL_CERT_FILE",
    "UPDATE_DOCS",
];
/// What begins like this is a name of the kernel or of systemd.
const KERNEL_PREFIXES: [&str; 4] = ["CAP_", "CONFIG_", "FAN_", "O_"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The pages that speak of the agent: `README.md`, and those of `docs/` that are not about the controller.
fn texts() -> Vec<(String, String)> {
    const OF_THE_CONTROLLER: [&str; 2] = ["heartbeat.md", "remediation.md"];
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        path.extension().is_some_and(|e| e == "md") && !OF_THE_CONTROLLER.contains(&&*name)
    };
    let pages = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let files = pages.filter(is_ours).chain([root().join("README.md")]);
    let text = |path: PathBuf| (path.display().to_string(), fs::read_to_string(&path).unwrap());
    files.map(text).collect()
}

#[test]
fn generated_tables_are_current() {
    check(&root(), &sections::pages(), Mode::from_env())
        .unwrap_or_else(|error| panic!("{error}\nto update the page: {FIX}"));
}

#[test]
fn environment_names_exist() {
    let known = environment(&Cli::command());
    let is_alias = |name: &str| cli::ALIASES.iter().any(|alias| alias.theirs == name);
    let exists = |name: &str| {
        known.iter().any(|known| known == name)
            || is_alias(name)
            || OTHERS.contains(&name)
            || KERNEL_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    };
    for (page, text) in texts() {
        let unknown: Vec<_> =
            environment_names(&text).into_iter().filter(|name| !exists(name)).collect();
        assert!(unknown.is_empty(), "{page}: the agent does not read {unknown:?}");
    }
    let configuration = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    for alias in ["MY_NODE_NAME", "LOG_LEVEL"] {
        assert!(is_alias(alias) && configuration.contains(alias), "{alias}");
    }
}

#[test]
fn metrics_exist() {
    let known: BTreeSet<_> = sections::metrics_of_the_agent().map(|metric| metric.name).collect();
    for (page, text) in texts() {
        let names = names_with_prefix(&text, "tocsin_").into_iter();
        let unknown: Vec<_> = names.filter(|name| !known.contains(*name)).collect();
        assert!(unknown.is_empty(), "{page}: there are no metrics {unknown:?}");
    }
}

/// Whoever is on call searches for the words on the screen: a message that the code words differently cannot be found.
#[test]
fn messages_of_the_troubleshooting_page_are_in_the_code() {
    let code = source(&["agent/src", "api/src", "runtime/src"]);
    let page = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let messages: Vec<_> = page.lines().flat_map(messages).collect();
    assert!(messages.len() > 100, "only {} messages", messages.len());
    // `…` stands for what differs from case to case.
    let parts =
        messages.iter().flat_map(|message| message.split('…').map(move |part| (part, message)));
    let unknown: Vec<_> = parts
        .map(|(part, message)| (part.trim_matches([' ', ':']), message))
        .filter(|(part, _)| part.len() > 3 && !FOREIGN.iter().any(|words| part.contains(words)))
        .filter(|(part, _)| !code.contains(part))
        .collect();
    assert!(unknown.is_empty(), "no message of the agent has (part, message): {unknown:#?}");
}

/// Words of the kernel, HTTP and Kubernetes that the agent passes on.
const FOREIGN: [&str; 6] = [
    "Address already in use",
    "Connection refused",
    "KubeletNotReady",
    "NodeStatusUnknown",
    "Permission denied",
    "Service Unavailable",
];

/// The inline code in the first cell of a table's row.
fn messages(line: &str) -> impl Iterator<Item = &str> {
    let cell = line.strip_prefix("| ").and_then(|rest| rest.split(" | ").next());
    cell.unwrap_or_default().split('`').skip(1).step_by(2)
}

/// All source files below these directories without comments, and with each string literal in one line.
fn source(directories: &[&str]) -> String {
    let mut open: Vec<_> = directories.iter().map(|directory| root().join(directory)).collect();
    let mut text = String::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
    let is_code = |line: &&str| !line.trim_start().starts_with("//");
    let text = text.lines().filter(is_code).collect::<Vec<_>>().join("\n");
    // A backslash at the end of a line continues the literal behind the next line's indentation.
    let mut pieces = text.split("\\\n");
    let first = pieces.next().unwrap_or_default().to_owned();
    pieces.fold(first, |joined, piece| joined + piece.trim_start())
}
