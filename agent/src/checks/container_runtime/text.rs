//! Other people's words, made fit for one line.

use crate::checks::container_runtime::settings;

/// On one line, without what a terminal would obey, and no longer than [`settings::CRI_WORDS`].
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(settings::CRI_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_on_a_line() {
        assert_eq!(one_line(" a\r\n\tb\u{1b}[31m\0c  "), "a b [31m c");
        assert_eq!(one_line(&"é".repeat(1000)), "é".repeat(settings::CRI_WORDS));
        assert_eq!(one_line(" \n"), "");
    }
}
