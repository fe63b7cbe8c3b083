//! Markdown tables.

/// `text` as inline code; an empty text stays empty, since a pair of backticks around nothing is shown as it is.
#[must_use]
pub fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

/// A markdown table with a header line; it ends with a newline.
///
/// A bar and a newline inside a cell are replaced, because they would end the cell, also inside inline code.
pub fn table<const N: usize>(
    headers: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line = |cells: [String; N]| {
        let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        format!("| {} |\n", cells.join(" | "))
    };
    let head = line(headers.map(str::to_owned));
    let rule = format!("|{}\n", "---|".repeat(N));
    [head, rule].into_iter().chain(rows.into_iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_break_its_row() {
        let text = table(["a", "b"], [["x|y".to_owned(), "1\n2".to_owned()]]);
        assert_eq!(text, "| a | b |\n|---|---|\n| x\\|y | 1 2 |\n");
        assert_eq!(code(""), "");
        assert_eq!(code("a"), "`a`");
    }
}
