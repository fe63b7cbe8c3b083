//! Text from other programs, made fit for a line of a log or of an answer.

use std::fmt::Display;

/// `text` as one line of at most `limit` characters: white space and control characters become single spaces.
#[must_use]
pub fn one_line(text: &(impl Display + ?Sized), limit: usize) -> String {
    let text = text.to_string();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_and_bounded() {
        assert_eq!(one_line(" a\r\n\tb\u{1b}[31m\0c  ", 100), "a b [31m c");
        assert_eq!(one_line(&"é".repeat(1000), 300), "é".repeat(300));
        assert_eq!(one_line(" \n", 5), "");
    }
}
