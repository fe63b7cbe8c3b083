//! The rules find what they are made for, in a small package that breaks them.

use std::fs;
use std::path::Path;

use crate::circles::{circles, edges};
use crate::layers::Layers;
use crate::tree::Crate;

const SOURCE: [(&str, &str); 7] = [
    ("lib.rs", "mod forgotten; mod high; mod low; mod wing;"),
    ("forgotten.rs", ""),
    ("high.rs", "pub struct High;\npub fn call() { crate::low::help() }"),
    ("low.rs", "pub fn help() {\n    assert!(matches!(crate::high::High, _));\n}"),
    // A facade, whose children are no part of a circle with it only because it passes their names on.
    ("wing/mod.rs", "mod a;\nmod b;\npub(crate) use a::A;\npub(crate) use b::B;"),
    ("wing/a.rs", "use super::B;\nuse super::super::high;\npub(crate) struct A(B, high::High);"),
    ("wing/b.rs", "pub(crate) struct B(Option<Box<super::A>>);"),
];

const LAYERS: Layers = Layers { package: "p", lowest_first: &[&["low"], &["wing"], &["high"]] };

/// A package of the files above, in a directory of this test's own.
fn package(name: &str) -> Crate {
    let top = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    for (path, text) in SOURCE {
        let path = top.join("p/src").join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("make a directory");
        fs::write(path, text).expect("write a file");
    }
    Crate::read(&top, "p", &top.join("p/src/lib.rs"))
}

#[test]
fn imports_that_point_upwards_are_found() {
    let found = LAYERS.violations(&package("tidy-layers"));
    let messages: Vec<_> = found.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "p/src/forgotten.rs: forgotten has no place in LAYERS",
            "p/src/low.rs:2: uses crate::high::High, and low is below high",
            "p/src/wing/a.rs:2: uses crate::high, and wing is below high",
            "p/src/wing/a.rs:3: uses crate::high::High, and wing is below high",
        ]
    );
}

#[test]
fn circles_are_found() {
    let unit = package("tidy-circles");
    assert_eq!(
        circles(&unit.files, &edges(&unit)),
        [
            "p/src/high.rs:2 uses p/src/low.rs\n    p/src/low.rs:2 uses p/src/high.rs",
            "p/src/wing/a.rs:1 uses p/src/wing/b.rs\n    p/src/wing/b.rs:1 uses p/src/wing/a.rs",
        ]
    );
}
