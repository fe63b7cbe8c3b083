//! The reason of a verdict as text that fits into one line of any protocol.

/// 256 bytes for a reason in a header, behind an agent-check's `#` and in a state file: one line of a log.
const REASON_BYTES: usize = 256;

/// `text` as one line of printable ASCII of at most 256 bytes: every other character becomes `?`.
///
/// Reasons contain mount points and names from requests. None of them may end a header or a line early.
#[must_use]
pub fn printable_reason(text: &str) -> String {
    let printable = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().take(REASON_BYTES).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_cannot_end_its_line() {
        assert_eq!(printable_reason("a\r\nSet-Cookie: b"), "a??Set-Cookie: b");
        assert_eq!(printable_reason("/mnt/\u{e9} \0"), "/mnt/? ?");
        assert_eq!(printable_reason(&"x".repeat(10_000)).len(), REASON_BYTES);
    }
}
