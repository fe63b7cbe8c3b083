//! A badge: a small SVG that says of one workload whether it is up, for a README or a wiki. PURE.

use std::fmt::Write as _;

/// What the right half says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Light {
    /// Up, and nothing is wrong.
    Up,
    /// Up, and something is wrong.
    Degraded,
    /// Down.
    Down,
    /// No such workload, or the API server is lost.
    Unknown,
}

impl Light {
    fn text(self) -> (&'static str, &'static str) {
        match self {
            Self::Up => ("up", "#2e7d32"),
            Self::Degraded => ("degraded", "#b26a00"),
            Self::Down => ("down", "#c62828"),
            Self::Unknown => ("unknown", "#616161"),
        }
    }
}

/// 64 characters of a name: a badge is a word or two.
const NAME: usize = 64;
/// 7 pixels a character, which is what a sans-serif font of 11 pixels takes on average.
const WIDTH: usize = 7;

/// The badge of a workload of that name.
#[must_use]
pub fn badge(name: &str, light: Light) -> String {
    let (word, colour) = light.text();
    let name: String = name.chars().take(NAME).collect();
    let (left, right) = (name.chars().count() * WIDTH + 12, word.len() * WIDTH + 12);
    let name = escape(&name);
    let total = left + right;
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{total}" height="20" role="img" aria-label="{name}: {word}"><title>{name}: {word}</title><clipPath id="r"><rect width="{total}" height="20" rx="3"/></clipPath><g clip-path="url(#r)"><rect width="{left}" height="20" fill="#424242"/><rect x="{left}" width="{right}" height="20" fill="{colour}"/></g><g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11"><text x="{}" y="14">{name}</text><text x="{}" y="14">{word}</text></g></svg>"##,
        left / 2,
        left + right / 2,
    )
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '"' | '\'' => {
                let _infallible = write!(escaped, "&#{};", u32::from(c));
            }
            // No character of XML 1.0.
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_and_nothing_gets_out_of_the_text() {
        let svg = badge("web", Light::Up);
        assert!(
            svg.contains(r#"aria-label="web: up""#)
                && svg.starts_with("<svg ")
                && svg.ends_with("</svg>")
        );
        let svg = badge("<script>&\"'\u{1}", Light::Down);
        assert!(
            !svg.contains("<script>") && svg.contains("&#60;script&#62;&#38;&#34;&#39;\u{fffd}"),
            "{svg}"
        );
        assert!(badge(&"x".repeat(10_000), Light::Unknown).len() < 1500);
    }
}
