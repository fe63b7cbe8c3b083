//! An entry of `CUSTOM_CONDITIONS`.

use std::str::FromStr;

/// A condition that must not have that status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCondition {
    /// Its type.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// Neither `Type` nor `Type=Status`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a condition's type, or type=status with the status True, False or Unknown")]
pub struct BadConditionError(String);

impl FromStr for BadCondition {
    type Err = BadConditionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, status) = text.split_once('=').unwrap_or((text, "True"));
        let (kind, status) = (kind.trim(), status.trim());
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if kind.is_empty()
            || !kind.chars().all(is_name)
            || !["True", "False", "Unknown"].contains(&status)
        {
            return Err(BadConditionError(text.to_owned()));
        }
        Ok(Self { kind: kind.to_owned(), status: status.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_statuses_are_checked() {
        assert_eq!(
            " A = False ".parse(),
            Ok(BadCondition { kind: "A".into(), status: "False".into() })
        );
        assert_eq!(
            "example.com/b".parse(),
            Ok(BadCondition { kind: "example.com/b".into(), status: "True".into() })
        );
        for text in ["", "=True", "A=", "A=true", "A=maybe", "A B", "A=True=False"] {
            assert!(text.parse::<BadCondition>().is_err(), "{text:?}");
        }
    }
}
