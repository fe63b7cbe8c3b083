//! Whether a selector's keys and values can be labels at all, in the words of the API server's libraries.

/// Longest name of a key, and longest value, in bytes.
const NAME_MAX: usize = 63;
/// Longest prefix of a key, in bytes.
const PREFIX_MAX: usize = 253;
const NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const PREFIX: &str = "prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";

/// What is wrong with a key, with the set of its values, and with each of them, in this order.
pub(super) fn errors(key: &str, set: Option<String>, values: &[String]) -> Vec<String> {
    let values = values.iter().enumerate();
    let values = values.filter_map(|(index, value)| value_error(key, index, value));
    let mut wrong = Vec::new();
    for error in key_error(key).into_iter().chain(set).chain(values) {
        if !wrong.contains(&error) {
            wrong.push(error);
        }
    }
    wrong
}

/// What is wrong with a key; `None` where nothing is.
fn key_error(key: &str) -> Option<String> {
    let mut wrong: Vec<String> = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                wrong.push("prefix part must be non-empty".to_owned());
            } else {
                if prefix.len() > PREFIX_MAX {
                    wrong.push(format!("prefix part must be no more than {PREFIX_MAX} bytes"));
                }
                if !is_subdomain(prefix) {
                    wrong.push(PREFIX.to_owned());
                }
            }
            *name
        }
        _ => {
            wrong.push(format!("a qualified name {NAME} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"));
            return Some(invalid("key", key, &wrong));
        }
    };
    if name.is_empty() {
        wrong.push("name part must be non-empty".to_owned());
    } else if name.len() > NAME_MAX {
        wrong.push(format!("name part must be no more than {NAME_MAX} bytes"));
    }
    if !is_name(name) {
        wrong.push(format!("name part {NAME}"));
    }
    (!wrong.is_empty()).then(|| invalid("key", key, &wrong))
}

/// What is wrong with the value of this index of a key; `None` where nothing is.
fn value_error(key: &str, index: usize, value: &str) -> Option<String> {
    let mut wrong = Vec::new();
    if value.len() > NAME_MAX {
        wrong.push(format!("must be no more than {NAME_MAX} bytes"));
    }
    if !value.is_empty() && !is_name(value) {
        wrong.push(VALUE.to_owned());
    }
    (!wrong.is_empty()).then(|| invalid(&format!("values[{index}][{key}]"), value, &wrong))
}

fn invalid(path: &str, text: &str, wrong: &[String]) -> String {
    format!("{path}: Invalid value: {}: {}", serde_json::json!(text), wrong.join("; "))
}

fn is_name(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_subdomain(text: &str) -> bool {
    let is_lower = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.split('.').all(|label| {
        let bytes = label.as_bytes();
        bytes.first().is_some_and(is_lower)
            && bytes.last().is_some_and(is_lower)
            && bytes.iter().all(|byte| is_lower(byte) || *byte == b'-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_that_can_be_labels() {
        for key in ["a", "A.b_c-1", "tocsin.test/x", "a.b-c/9"] {
            assert_eq!(key_error(key), None, "{key}");
        }
        for (value, fine) in
            [("", true), ("a", true), ("A_b.9", true), ("a b", false), ("-a", false), ("a.", false)]
        {
            assert_eq!(value_error("k", 0, value).is_none(), fine, "{value:?}");
        }
        assert_eq!(
            key_error("a b").unwrap(),
            format!("key: Invalid value: \"a b\": name part {NAME}")
        );
        assert_eq!(
            key_error("/a").unwrap(),
            "key: Invalid value: \"/a\": prefix part must be non-empty"
        );
        assert_eq!(key_error("X/a").unwrap(), format!("key: Invalid value: \"X/a\": {PREFIX}"));
        assert_eq!(
            key_error("").unwrap(),
            format!("key: Invalid value: \"\": name part must be non-empty; name part {NAME}")
        );
        assert!(key_error("a/b/c").unwrap().ends_with("(e.g. 'example.com/MyName')"));
        let long = "x".repeat(64);
        assert!(key_error(&long).unwrap().ends_with("name part must be no more than 63 bytes"));
        assert_eq!(
            value_error("k", 1, &long).unwrap(),
            format!("values[1][k]: Invalid value: \"{long}\": must be no more than 63 bytes")
        );
        assert_eq!(
            value_error("k", 0, "a b").unwrap(),
            format!("values[0][k]: Invalid value: \"a b\": {VALUE}")
        );
    }
}
