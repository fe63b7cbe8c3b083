//! Label selectors as kubectl writes them: `app=web,tier!=db,env in (a,b),!canary`. PURE.
//!
//! kube has the selector and its matching, but no parser of the text form
//! (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors>).

use std::collections::BTreeSet;

use kube::core::{Expression, Selector};

/// 16 requirements: more than anybody types.
const REQUIREMENTS: usize = 16;

/// A text that is no label selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a label selector such as app=web,tier in (a,b),!canary: {0:?}")]
pub struct BadSelector(String);

/// Reads a selector.
pub fn parse(text: &str) -> Result<Selector, BadSelector> {
    let bad = || BadSelector(text.chars().take(256).collect());
    let requirements = split(text);
    if requirements.is_empty() || requirements.len() > REQUIREMENTS {
        return Err(bad());
    }
    requirements.into_iter().map(|part| requirement(part).ok_or_else(bad)).collect()
}

/// The parts between commas that are not within parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn requirement(part: &str) -> Option<Expression> {
    let part = part.trim();
    let label = |text: &str| {
        let text = text.trim();
        let is_of_labels =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        (text.chars().all(is_of_labels) && text.len() <= 317).then(|| text.to_owned())
    };
    let key = |text: &str| label(text).filter(|key| !key.is_empty());
    if let Some(rest) = part.strip_prefix('!') {
        return Some(Expression::DoesNotExist(key(rest)?));
    }
    if let Some((left, right)) = part.split_once("!=") {
        return Some(Expression::NotEqual(key(left)?, label(right)?));
    }
    if let Some((left, right)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Expression::Equal(key(left)?, label(right)?));
    }
    if let Some(values) = part.strip_suffix(')') {
        let (left, values) = values.split_once('(')?;
        let values: BTreeSet<String> = values.split(',').map(label).collect::<Option<_>>()?;
        let words: Vec<&str> = left.split_whitespace().collect();
        return match words[..] {
            [name, "in"] => Some(Expression::In(key(name)?, values)),
            [name, "notin"] => Some(Expression::NotIn(key(name)?, values)),
            _ => None,
        };
    }
    key(part).map(Expression::Exists)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt;

    use super::*;

    #[test]
    fn selectors_select() {
        let labels: BTreeMap<String, String> =
            [("app", "web"), ("tier", "a")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (text, selects) in [
            ("app=web", true),
            ("app==web", true),
            (" app = web , tier=a", true),
            ("app=api", false),
            ("app!=api", true),
            ("tier in (a,b)", true),
            ("tier in (b, c),app=web", false),
            ("tier notin (b)", true),
            ("app", true),
            ("!app", false),
            ("!canary", true),
            ("canary", false),
        ] {
            assert_eq!(parse(text).unwrap().matches(&labels), selects, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector() {
        let long = vec!["a=b"; 17].join(",");
        for text in
            ["", "=web", "a b", "a in b", "tier in (a", "a near (b)", "a=b=c", "a,,b", &long]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
