//! Files and functions that can be read in one go.

use proc_macro2::Span;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::tree::{self, is_for_tests};
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
    let found = tree::crates().into_iter().flat_map(|unit| unit.files).filter_map(|file| {
        let is_long = file.lines > MAX_FILE && !file.is_test;
        is_long.then(|| (file.path.clone(), format!("{}: {} lines", file.path, file.lines)))
    });
    expect_none("files over the limit", &without_known(found.collect(), LONG_FILES));
}

#[test]
fn no_function_is_too_long() {
    let mut found = Vec::new();
    for file in tree::crates().into_iter().flat_map(|unit| unit.files).filter(|file| !file.is_test)
    {
        let mut visitor = Functions { path: &file.path, found: &mut found };
        visitor.visit_file(&file.syntax);
    }
    expect_none("functions over the limit", &without_known(found, LONG_FUNCTIONS));
}

struct Functions<'a> {
    path: &'a str,
    found: &'a mut Vec<(String, String)>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, end: Span) {
        let (first, last) = (signature.span().start().line, end.end().line);
        let lines = last - first + 1;
        if lines > MAX_FUNCTION {
            let (path, name) = (self.path, &signature.ident);
            self.found.push((
                format!("{path}: {name}"),
                format!("{path}:{first}: {name} has {lines} lines"),
            ));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            self.measure(&item.sig, item.block.span());
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }
}
