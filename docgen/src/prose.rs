//! Names that the text of a page mentions, so that a test can look whether they exist.

use std::collections::BTreeSet;

/// Runs of ASCII letters, digits and `_`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
}

/// Words that look like the names of environment variables: capitals and digits with at least one `_`.
#[must_use]
pub fn environment_names(text: &str) -> BTreeSet<&str> {
    let looks_like_one = |word: &&str| {
        word.contains('_')
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    words(text).filter(looks_like_one).collect()
}

/// Words that begin with `prefix`, such as `tocsin_` for metrics. A word that ends with `_` is the beginning of a name
/// and is left out.
#[must_use]
pub fn names_with_prefix<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    words(text).filter(|word| word.starts_with(prefix) && !word.ends_with('_')).collect()
}

/// Inline code that begins with one of `places`, such as `agent/`: paths of the repository.
#[must_use]
pub fn paths_in_code<'a>(text: &'a str, places: &[&str]) -> BTreeSet<&'a str> {
    let in_code = text.split('`').skip(1).step_by(2);
    in_code.filter(|path| places.iter().any(|place| path.starts_with(place))).collect()
}

/// The targets of markdown links that lead into the repository, each split into its file, which is empty for a link
/// inside the page, and its anchor, which may be empty.
#[must_use]
pub fn links(text: &str) -> BTreeSet<(&str, &str)> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let inside = targets.filter(|target| !target.contains("://"));
    inside.map(|target| target.split_once('#').unwrap_or((target, ""))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_prose() {
        let text = "Set `NODE_NAME=x` (or MY_NODE_NAME), see tocsin_faults_open and tocsin_api_*; CPU, No_1, A_2.";
        assert_eq!(environment_names(text), BTreeSet::from(["A_2", "MY_NODE_NAME", "NODE_NAME"]));
        assert_eq!(names_with_prefix(text, "tocsin_"), BTreeSet::from(["tocsin_faults_open"]));
    }

    #[test]
    fn paths_and_links_are_found() {
        let text = "`agent/src` and `x/agent/` [a](docs/b.md#c-d), [e](#f), [g](https://h/#i)";
        assert_eq!(paths_in_code(text, &["agent/"]), BTreeSet::from(["agent/src"]));
        assert_eq!(links(text), BTreeSet::from([("docs/b.md", "c-d"), ("", "f")]));
    }
}
