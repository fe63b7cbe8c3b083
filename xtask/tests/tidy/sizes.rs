//! Files and functions that can be read in one go.

use crate::tree::CRATES;
use crate::{expect_none, without_known};

/// Lines of a file, with the tests in it. A file of tests alone may be longer, since it may be a table.
const MAX_FILE: usize = 400;

/// Lines of a function, from its signature to its last brace. Functions of tests may be longer.
const MAX_FUNCTION: usize = 80;

/// Files that are too long today.
const LONG_FILES: &[&str] = &[];

/// Functions that are too long today: `FILE: FUNCTION`.
const LONG_FUNCTIONS: &[&str] = &[];

#[test]
fn no_file_is_too_long() {
    let files = CRATES.iter().flat_map(|unit| &unit.files).filter(|file| !file.is_test);
    let found = files
        .filter(|file| file.lines > MAX_FILE)
        .map(|file| (file.path.clone(), format!("{}: {} lines", file.path, file.lines)));
    expect_none("files over the limit", &without_known(found.collect(), LONG_FILES));
}

#[test]
fn no_function_is_too_long() {
    let files = CRATES.iter().flat_map(|unit| &unit.files).filter(|file| !file.is_test);
    let functions = files.flat_map(|file| file.functions.iter().map(move |found| (file, found)));
    let found = functions.filter(|(_, found)| found.lines > MAX_FUNCTION).map(|(file, found)| {
        let (path, name, lines) = (&file.path, &found.name, found.lines);
        (format!("{path}: {name}"), format!("{path}:{}: {name} has {lines} lines", found.line))
    });
    expect_none("functions over the limit", &without_known(found.collect(), LONG_FUNCTIONS));
}
