//! Other people's words, made fit for one line.

use crate::config;

/// On one line, without what a terminal would obey, and no longer than [`config::CRI_WORDS`].
pub(super) fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(config::CRI_WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_on_a_line() {
        assert_eq!(one_line(" a\r\n\tb\u{1b}[31m\0c  "), "a b [31m c");
        assert_eq!(one_line(&"é".repeat(1000)), "é".repeat(config::CRI_WORDS));
        assert_eq!(one_line(" \n"), "");
    }
}
