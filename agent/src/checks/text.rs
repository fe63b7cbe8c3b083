//! Texts of other programs, made fit for a reason.

/// The text on one line, without control characters, cut off after `limit` characters.
pub(super) fn single_line(text: &str, limit: usize) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").chars().take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_on_one_line() {
        assert_eq!(single_line(" a\r\n\tb\u{1b}[31m\0c  ", 100), "a b [31m c");
        assert_eq!(single_line(&"é".repeat(1000), 300), "é".repeat(300));
        assert_eq!(single_line(" \n", 1), "");
    }
}
