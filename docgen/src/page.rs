//! Pages with generated sections: comparing them with what the program says, and rewriting them.

use std::{env, fs, io, path::Path};

/// One generated part of a page, between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The name in the markers.
    pub name: &'static str,
    /// Markdown that ends with a newline.
    pub text: String,
}

/// A page and all generated sections that it has to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The file, relative to the root of the repository.
    pub path: &'static str,
    /// Its sections, in no particular order.
    pub sections: Vec<Section>,
}

/// What [`check`] does with a page that is not current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It reports the first difference.
    Compare,
    /// It rewrites the page.
    Rewrite,
}

impl Mode {
    /// [`Mode::Rewrite`] where `UPDATE_DOCS=1` is set.
    #[must_use]
    pub fn from_env() -> Self {
        let is_set = env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1");
        if is_set { Self::Rewrite } else { Self::Compare }
    }
}

/// A section's markers are missing from a page, or are in the wrong order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no `{0}` followed by `{1}`")]
pub struct MarkersError(String, String);

/// Why a page is not what it has to be.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file cannot be read or written.
    #[error("{0}: {1}")]
    File(&'static str, #[source] io::Error),
    /// A section has no place in it.
    #[error("{0}: {1}")]
    Markers(&'static str, #[source] MarkersError),
    /// It says something else than the program.
    #[error("{page} is not current; its first difference: {first}")]
    Outdated {
        /// The file, relative to the root of the repository.
        page: &'static str,
        /// The first line that differs, as it has to be and as it is.
        first: String,
    },
}

/// `text` with every section as it has to be; everything outside of the markers stays as it is.
pub fn update(text: &str, sections: &[Section]) -> Result<String, MarkersError> {
    let mut page = text.to_owned();
    for Section { name, text } in sections {
        let (begin, end) =
            (format!("<!-- generated: {name} -->"), format!("<!-- end of {name} -->"));
        let split = page
            .split_once(&begin)
            .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        let Some((before, after)) = split else { return Err(MarkersError(begin, end)) };
        page = format!("{before}{begin}\n\n{text}\n{end}{after}");
    }
    Ok(page)
}

/// Compares every page below `root` with its sections, or rewrites it.
pub fn check(root: &Path, pages: &[Page], mode: Mode) -> Result<(), CheckError> {
    for Page { path, sections } in pages {
        let file = root.join(path);
        let before = fs::read_to_string(&file).map_err(|error| CheckError::File(path, error))?;
        let after = update(&before, sections).map_err(|error| CheckError::Markers(path, error))?;
        if after == before {
            continue;
        }
        match mode {
            Mode::Rewrite => {
                fs::write(&file, after).map_err(|error| CheckError::File(path, error))?;
            }
            Mode::Compare => {
                return Err(CheckError::Outdated {
                    page: path,
                    first: difference(&after, &before),
                });
            }
        }
    }
    Ok(())
}

fn difference(after: &str, before: &str) -> String {
    let changed = after.lines().zip(before.lines()).find(|(after, before)| after != before);
    match changed {
        Some((after, before)) => format!("it has to be {after:?}, and it is {before:?}"),
        None => "its length".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(name: &'static str, text: &str) -> Section {
        Section { name, text: text.to_owned() }
    }

    const OLD: &str = "a\n<!-- generated: x -->\nOLD\n<!-- end of x -->\nb\n";
    const NEW: &str = "a\n<!-- generated: x -->\n\nnew\n\n<!-- end of x -->\nb\n";

    #[test]
    fn only_what_is_between_markers_changes() {
        let sections = [section("x", "new\n")];
        assert_eq!(update(OLD, &sections).unwrap(), NEW);
        assert_eq!(update(NEW, &sections).unwrap(), NEW);
        for page in ["", "<!-- end of x --> <!-- generated: x -->", "<!-- generated: x -->"] {
            let error = update(page, &sections).unwrap_err();
            assert!(error.to_string().contains("<!-- generated: x -->"), "{error}");
        }
    }

    #[test]
    fn a_page_is_compared_and_rewritten() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("page.md");
        fs::write(&file, OLD).unwrap();
        let pages = [Page { path: "page.md", sections: vec![section("x", "new\n")] }];
        let error = check(root.path(), &pages, Mode::Compare).unwrap_err().to_string();
        assert!(error.contains("page.md is not current") && error.contains("OLD"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), OLD);
        check(root.path(), &pages, Mode::Rewrite).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), NEW);
        check(root.path(), &pages, Mode::Compare).unwrap();
        let absent = [Page { path: "no.md", sections: Vec::new() }];
        let error = check(root.path(), &absent, Mode::Compare).unwrap_err();
        assert!(error.to_string().starts_with("no.md: "), "{error}");
    }
}
