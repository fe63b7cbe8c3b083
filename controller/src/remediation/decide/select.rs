//! Which nodes a `NodeHealthCheck` selects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Expression;

use super::{super::world::Node, label};

/// A label selector, ready for use.
#[derive(Clone, Debug)]
pub struct Selector(Vec<Expression>);

impl Selector {
    /// The selector of a spec; without one, every node is selected. The error is in a user's words.
    pub fn new(selector: Option<&LabelSelector>) -> Result<Self, String> {
        let Some(selector) = selector else { return Ok(Self(Vec::new())) };
        for (key, value) in selector.match_labels.iter().flatten() {
            if let Some(why) = label::key_error(key).or_else(|| label::value_error(key, 0, value)) {
                return Err(why);
            }
        }
        for expression in selector.match_expressions.iter().flatten() {
            let values = expression.values.as_ref().map_or(0, Vec::len);
            match expression.operator.as_str() {
                "In" | "NotIn" if values == 0 => {
                    return Err("values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty".to_owned());
                }
                "Exists" | "DoesNotExist" if values > 0 => {
                    let values = serde_json::json!(expression.values);
                    return Err(format!(
                        "values: Invalid value: {values}: values set must be empty for exists and does not exist"
                    ));
                }
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {
                    let key = &expression.key;
                    let mut values = expression.values.iter().flatten().enumerate();
                    let wrong = label::key_error(key).or_else(|| {
                        values.find_map(|(index, value)| label::value_error(key, index, value))
                    });
                    if let Some(why) = wrong {
                        return Err(why);
                    }
                }
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            }
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
