//! Commands that run once, in a terminal.

pub mod check;
mod client;
pub mod faults;
pub mod peers;

/// Prints to standard output. A reader that has closed it (`| head`) has read enough.
fn print(text: &str) {
    let _closed = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
}

/// Text for a terminal: control characters (a mount point may have them) do nothing there.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Rows under headers, each column as wide as it must be.
fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(headers.get(column).map(|header| header.len())).max().unwrap_or(0)
    };
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> =
            cells.enumerate().map(|(column, cell)| format!("{cell:<0$}", width(column))).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut text = line(&mut headers.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}
