//! README.md says what the code says.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::{collections::BTreeSet, env, fs, path::Path};

use tocsin::{cli, docs, serve::metrics::DESCRIPTIONS};

/// What puts it right.
const FIX: &str = "UPDATE_DOCS=1 cargo test -p tocsin --test docs";

/// Names in README.md that are not the agent's: others read them, or they are no environment names.
const OTHERS: [&str; 3] = ["HTTPS_PROXY", "KUBEBUILDER_ASSETS", "UPDATE_DOCS"];
const KERNEL_PREFIXES: [&str; 3] = ["CAP_", "FAN_", "O_"];

fn readme_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

fn readme() -> String {
    fs::read_to_string(readme_path()).unwrap()
}

/// Runs of letters, digits and `_`.
fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).collect()
}

#[test]
fn generated_tables_are_current() {
    let before = readme();
    let after = docs::update(&before).unwrap_or_else(|error| panic!("README.md: {error}"));
    if env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        fs::write(readme_path(), after).unwrap();
        return;
    }
    let changed = after.lines().zip(before.lines()).find(|(after, before)| after != before);
    assert!(
        after == before,
        "README.md is not current. To update it: {FIX}\nfirst difference (new, old): {changed:#?}"
    );
}

#[test]
fn environment_names_exist() {
    let readme = readme();
    let known = docs::environment();
    let is_alias =
        |name: &str| !cli::aliases(|asked| (asked == name).then(|| "x".into())).is_empty();
    let looks_like_one = |word: &&str| {
        word.contains('_')
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            && !KERNEL_PREFIXES.iter().any(|prefix| word.starts_with(prefix))
    };
    for name in words(&readme).into_iter().filter(looks_like_one) {
        assert!(
            known.iter().any(|known| known == name) || is_alias(name) || OTHERS.contains(&name),
            "README.md speaks of {name}, which the command line does not know"
        );
    }
    for alias in ["MY_NODE_NAME", "LOG_LEVEL"] {
        assert!(is_alias(alias) && readme.contains(alias), "{alias}");
    }
}

#[test]
fn metrics_exist() {
    let readme = readme();
    let known = |name: &str| {
        DESCRIPTIONS.iter().any(|metric| {
            let total = if metric.counter { "_total" } else { "" };
            format!("tocsin_{}{total}", metric.name) == name
        })
    };
    // A trailing `_` is the beginning of a name.
    for name in words(&readme).into_iter().filter(|w| w.starts_with("tocsin_") && !w.ends_with('_'))
    {
        assert!(known(name), "README.md speaks of {name}, which is no metric");
    }
}

/// Pages rot by the files that they name.
#[test]
fn paths_exist() {
    const PLACES: [&str; 6] = ["agent/", "agent-ebpf/", "xtask/", "tests/", "deploy/", ".ci/"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for page in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root.join(page)).unwrap();
        let in_code = text.split('`').skip(1).step_by(2);
        let in_code = in_code.filter(|path| PLACES.iter().any(|place| path.starts_with(place)));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let links = links.filter(|link| !link.starts_with('#') && !link.contains("://"));
        for path in in_code.chain(links) {
            assert!(root.join(path).exists(), "{page} names {path}, which is not there");
        }
    }
}
