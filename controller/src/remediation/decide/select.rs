//! Which nodes a `NodeHealthCheck` selects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Expression;

use super::{super::world::Node, label};

/// A label selector, ready for use.
#[derive(Clone, Debug)]
pub struct Selector(Vec<Expression>);

/// An error where something is wrong: alone, or all of it as a list, as the API server's libraries write it.
fn valid(wrong: &[String]) -> Result<(), String> {
    match wrong {
        [] => Ok(()),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

impl Selector {
    /// The selector of a spec; without one, every node is selected. The error is in a user's words.
    pub fn new(selector: Option<&LabelSelector>) -> Result<Self, String> {
        let Some(selector) = selector else { return Ok(Self(Vec::new())) };
        for (key, value) in selector.match_labels.iter().flatten() {
            valid(&label::errors(key, None, std::slice::from_ref(value)))?;
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.as_deref().unwrap_or_default();
            let set = match expression.operator.as_str() {
                "In" | "NotIn" => values.is_empty().then(|| {
                    "values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty".to_owned()
                }),
                "Exists" | "DoesNotExist" => (!values.is_empty()).then(|| {
                    let values = serde_json::json!(values);
                    format!("values: Invalid value: {values}: values set must be empty for exists and does not exist")
                }),
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            valid(&label::errors(&expression.key, set, values))?;
        }
        let selector =
            kube::core::Selector::try_from(selector.clone()).map_err(|error| error.to_string())?;
        Ok(Self(selector.into_iter().collect()))
    }

    /// Whether it selects `node`.
    #[must_use]
    pub fn matches(&self, node: &Node) -> bool {
        self.0.iter().all(|expression| match expression {
            Expression::In(key, values) => {
                node.label(key).is_some_and(|value| values.contains(value))
            }
            Expression::NotIn(key, values) => {
                node.label(key).is_none_or(|value| !values.contains(value))
            }
            Expression::Equal(key, value) => node.label(key) == Some(value),
            Expression::NotEqual(key, value) => node.label(key) != Some(value),
            Expression::Exists(key) => node.label(key).is_some(),
            Expression::DoesNotExist(key) => node.label(key).is_none(),
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement;
    use serde_json::Value;

    use super::*;

    /// What `LabelSelectorAsSelector` of apimachinery 0.36.3 says: key and value of `matchLabels` (L), or key, operator and
    /// values of `matchExpressions` (E), and the error.
    const SELECTORS: &str = include_str!("tests/selectors.jsonl");

    #[test]
    fn errors_are_those_of_apimachinery() {
        for line in SELECTORS.lines() {
            let row: Vec<Value> = serde_json::from_str(line).unwrap();
            let text = |index: usize| row[index].as_str().unwrap().to_owned();
            let selector = if text(0) == "L" {
                let labels = [(text(1), text(2))];
                LabelSelector { match_labels: Some(labels.into()), ..LabelSelector::default() }
            } else {
                let expression = LabelSelectorRequirement {
                    key: text(1),
                    operator: text(2),
                    values: serde_json::from_value(row[3].clone()).unwrap(),
                };
                LabelSelector {
                    match_expressions: Some(vec![expression]),
                    ..LabelSelector::default()
                }
            };
            // The version that the operator is built with calls it so.
            let expected =
                text(row.len() - 1).replace("a valid label key must", "a qualified name must");
            assert_eq!(Selector::new(Some(&selector)).unwrap_err(), expected, "{line}");
        }
    }
}
