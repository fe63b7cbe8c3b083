//! Every place where one file uses what another one has: in a `use`, in a path, and in what a macro is given.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::tree::{Crate, File, ModulePath, leaves};

/// One use of another file.
#[derive(Clone)]
pub(crate) struct Import {
    /// Numbers in [`Crate::files`].
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Where in `from`, counted from 1.
    pub(crate) line: usize,
    /// From the crate's root, as written there.
    pub(crate) path: Vec<String>,
    /// Whether it only passes the name on.
    pub(crate) is_reexport: bool,
}

/// All imports of a crate.
pub(crate) fn of(unit: &Crate) -> Vec<Import> {
    let mut found = Vec::new();
    for (number, file) in unit.files.iter().enumerate() {
        let mut visitor =
            Visitor { unit, from: number, scope: file.module.clone(), found: &mut found };
        visitor.visit_file(&file.syntax);
    }
    found
}

impl Import {
    /// `agent/src/kernel/task.rs:12`.
    pub(crate) fn place(&self, files: &[File]) -> String {
        format!("{}:{}", files[self.from].path, self.line)
    }
}

struct Visitor<'a> {
    unit: &'a Crate,
    from: usize,
    scope: ModulePath,
    found: &'a mut Vec<Import>,
}

impl Visitor<'_> {
    fn note(&mut self, path: &[String], line: usize, is_reexport: bool) {
        let Some(target) = self.unit.resolve(&self.scope, path) else { return };
        if target.file != self.from {
            let (from, to, path) = (self.from, target.file, target.path);
            self.found.push(Import { from, to, line, path, is_reexport });
        }
    }

    /// A path in code. One name alone is looked at only where it is a re-export, since any other is a local name or has
    /// been counted at its `use`.
    fn note_in_code(&mut self, path: &[String], line: usize) {
        let counts = match path {
            [] => false,
            [name] => self.unit.is_reexport(&self.scope, name),
            _ => true,
        };
        if counts {
            self.note(path, line, false);
        }
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut at = 0;
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                }
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.note_in_code(&path, at);
                        path.clear();
                        at = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    self.note_in_code(&path, at);
                    path.clear();
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.note_in_code(&path, at);
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.scope.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.scope.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_reexport = !matches!(item.vis, syn::Visibility::Inherited);
        let line = item.span().start().line;
        let mut paths = Vec::new();
        leaves(&item.tree, &mut Vec::new(), &mut |path, _| paths.push(path.to_vec()));
        for path in paths {
            self.note(&path, line, is_reexport);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names: Vec<_> = path.segments.iter().map(|part| part.ident.to_string()).collect();
            self.note_in_code(&names, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}
