//! The mesh as a matrix for a terminal: pure.
//!
//! A row is what one agent says of the others, a column is what the others say of it. Where there is room, a cell is the
//! round-trip time; in a narrow terminal it is a sign, and where not even that fits, only broken paths are listed.

use std::time::Duration;

use crate::commands::printable;

/// What one agent says of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Path {
    /// It is itself.
    Own,
    /// It does not probe it, or says nothing.
    Unknown,
    /// It reaches it.
    Reached {
        /// The median round-trip time.
        round_trip: Duration,
        /// The share of probes that are lost, 0 to 1.
        loss: f64,
    },
    /// None of its probes is answered.
    Unreached,
}

/// One agent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Member {
    /// The name of its node.
    pub(super) node: String,
    /// `alive`, `suspect`, `dead`, `left` or `unseen`.
    pub(super) state: String,
    /// What else there is to say of it: that it coordinates, or which checks fail.
    pub(super) note: String,
    /// What it says of every member, in the members' order.
    pub(super) paths: Vec<Path>,
}

/// 5 % of lost probes are a path that is worth a colour: one of twenty.
const LOSSY: f64 = 0.05;

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// A text, and its colour.
struct Cell {
    text: String,
    colour: Option<&'static str>,
}

impl Path {
    fn cell(self, is_wide: bool) -> Cell {
        let (wide, narrow, colour) = match self {
            Self::Own => (".".to_owned(), '.', Some(DIM)),
            Self::Unknown => ("?".to_owned(), '?', Some(DIM)),
            Self::Unreached => ("LOST".to_owned(), 'x', Some(RED)),
            Self::Reached { round_trip, loss } if loss >= LOSSY => {
                (format!("{} -{:.0}%", short(round_trip), loss * 100.0), '~', Some(YELLOW))
            }
            Self::Reached { round_trip, .. } => (short(round_trip), '+', None),
        };
        Cell { text: if is_wide { wide } else { narrow.to_string() }, colour }
    }
}

/// A round-trip time in at most six characters: `0.3ms`, `12ms`, `1.2s`.
fn short(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    if milliseconds < 9.95 {
        format!("{milliseconds:.1}ms")
    } else if milliseconds < 999.5 {
        format!("{milliseconds:.0}ms")
    } else {
        format!("{:.1}s", time.as_secs_f64())
    }
}

/// The matrix. `width` is the terminal's, in characters; none where there is none, and then there is room for all.
#[must_use]
pub(super) fn render(members: &[Member], width: Option<usize>, is_coloured: bool) -> String {
    let room = width.unwrap_or(usize::MAX);
    let fits = |text: &String| plain(text).lines().all(|line| line.chars().count() <= room);
    let matrix = |is_wide, notes| table(members, is_wide, notes, is_coloured);
    let forms = [(true, true), (true, false), (false, true), (false, false)];
    let form = forms.into_iter().map(|(is_wide, notes)| (matrix(is_wide, notes), is_wide, notes));
    let Some((text, is_wide, notes)) = form.into_iter().find(|(text, ..)| fits(text)) else {
        return format!(
            "{} members: too many for a matrix of this width (-o json has all of it)\n{}",
            members.len(),
            broken_paths(members)
        );
    };
    let legend = if is_wide {
        "\nrow: who says so; column: of whom; LOST: no probe is answered; -10%: so many probes are lost; ?: not probed\n"
    } else {
        "\n+ reached  ~ loses probes  x not reached  ? not probed\nrow: who says so; column: of whom\n"
    };
    // Without room beside it, what is wrong comes below.
    let rest = if notes { String::new() } else { states(members) };
    format!("{text}{legend}{rest}")
}

/// The text without colours.
fn plain(text: &str) -> String {
    [RED, YELLOW, DIM, PLAIN].into_iter().fold(text.to_owned(), |text, code| text.replace(code, ""))
}

fn table(members: &[Member], is_wide: bool, has_notes: bool, is_coloured: bool) -> String {
    let names: Vec<String> = members.iter().map(|member| printable(&member.node)).collect();
    let digits = members.len().to_string().len();
    let label = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let rows: Vec<Vec<Cell>> = members
        .iter()
        .map(|member| member.paths.iter().map(|path| path.cell(is_wide)).collect())
        .collect();
    let widths: Vec<usize> = (0..members.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.len());
            cells.max().unwrap_or(0).max((column + 1).to_string().len())
        })
        .collect();
    let gap = if is_wide { "  " } else { " " };
    let mut text = " ".repeat(digits + 1 + label);
    for (column, width) in widths.iter().enumerate() {
        text.push_str(&format!("{gap}{:<width$}", column + 1));
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    for (number, ((member, row), name)) in members.iter().zip(&rows).zip(&names).enumerate() {
        let mut line = format!("{:>digits$} {name:<label$}", number + 1);
        for (cell, width) in row.iter().zip(&widths) {
            let padding = " ".repeat(width.saturating_sub(cell.text.len()));
            let (on, off) = match cell.colour.filter(|_| is_coloured) {
                Some(colour) => (colour, PLAIN),
                None => ("", ""),
            };
            line.push_str(&format!("{gap}{on}{}{off}{padding}", cell.text));
        }
        if has_notes {
            line.push_str(&format!("  {}", described(member)));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What there is to say of a member beside its paths; nothing if it is alive and well.
fn described(member: &Member) -> String {
    let state = Some(member.state.as_str()).filter(|state| *state != "alive");
    let note = Some(member.note.as_str()).filter(|note| !note.is_empty());
    let parts: Vec<_> = state.into_iter().chain(note).map(printable).collect();
    parts.join(", ")
}

fn states(members: &[Member]) -> String {
    let mut lines = String::new();
    for member in members {
        let text = described(member);
        if !text.is_empty() {
            lines.push_str(&format!("{}: {text}\n", printable(&member.node)));
        }
    }
    lines
}

/// The paths that lose probes, one a line, and the members that are not alive.
fn broken_paths(members: &[Member]) -> String {
    let mut text = states(members);
    for member in members {
        for (path, other) in member.paths.iter().zip(members) {
            let how = match path {
                Path::Unreached => "does not reach".to_owned(),
                Path::Reached { loss, .. } if *loss >= LOSSY => {
                    format!("loses {:.0}% of its probes to", loss * 100.0)
                }
                _ => continue,
            };
            text.push_str(&format!(
                "{} {how} {}\n",
                printable(&member.node),
                printable(&other.node)
            ));
        }
    }
    if text.is_empty() { "all are alive, and no path loses probes\n".to_owned() } else { text }
}

#[cfg(test)]
mod tests;
