//! What the tests look for in one file, taken from its syntax.

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::UseTree;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

/// Absolute within a crate: `["kernel", "task"]`; the crate's root is empty.
pub(crate) type ModulePath = Vec<String>;

/// A path in the source that may lead to another file.
pub(crate) struct Reference {
    /// The module that it is in.
    pub(crate) scope: ModulePath,
    /// As it is written.
    pub(crate) path: Vec<String>,
    /// Where, counted from 1.
    pub(crate) line: usize,
    /// Whether it is in a `use`, and in one that others see.
    pub(crate) is_use: bool,
    pub(crate) is_reexport: bool,
}

/// A function.
pub(crate) struct Function {
    pub(crate) name: String,
    /// The line of its signature, counted from 1.
    pub(crate) line: usize,
    /// From the signature to the last brace.
    pub(crate) lines: usize,
}

/// The references of a file, and its functions without those of tests.
pub(crate) fn scan(syntax: &syn::File, module: &ModulePath) -> (Vec<Reference>, Vec<Function>) {
    let mut references = References { scope: module.clone(), found: Vec::new() };
    references.visit_file(syntax);
    let mut functions = Functions(Vec::new());
    functions.visit_file(syntax);
    (references.found, functions.0)
}

struct References {
    scope: ModulePath,
    found: Vec<Reference>,
}

impl References {
    fn note(&mut self, path: &[String], line: usize, is_use: bool, is_reexport: bool) {
        let (scope, path) = (self.scope.clone(), path.to_vec());
        self.found.push(Reference { scope, path, line, is_use, is_reexport });
    }

    fn note_in_code(&mut self, path: &[String], line: usize) {
        if !path.is_empty() {
            self.note(path, line, false, false);
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

impl<'ast> Visit<'ast> for References {
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
            self.note(&path, line, true, is_reexport);
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

struct Functions(Vec<Function>);

impl Functions {
    fn measure(&mut self, signature: &syn::Signature, end: Span) {
        let (line, last) = (signature.span().start().line, end.end().line);
        self.0.push(Function { name: signature.ident.to_string(), line, lines: last - line + 1 });
    }
}

impl<'ast> Visit<'ast> for Functions {
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

/// Calls `each` with every path of a `use` and the name that it gets here; no name for a glob.
pub(crate) fn leaves(
    tree: &UseTree,
    path: &mut Vec<String>,
    each: &mut impl FnMut(&[String], Option<String>),
) {
    match tree {
        UseTree::Path(part) => {
            path.push(part.ident.to_string());
            leaves(&part.tree, path, each);
            path.pop();
        }
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(tree, path, each)),
        UseTree::Name(name) if name.ident == "self" => {
            let own = path.last().cloned();
            each(path, own);
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            path.push(name.clone());
            each(path, Some(name));
            path.pop();
        }
        UseTree::Rename(rename) => {
            path.push(rename.ident.to_string());
            each(path, Some(rename.rename.to_string()));
            path.pop();
        }
        UseTree::Glob(_) => each(path, None),
    }
}

/// Whether attributes keep an item out of everything but tests.
pub(crate) fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        path.is_ident("test")
            || (path.is_ident("cfg")
                && attribute.parse_args::<syn::Ident>().is_ok_and(|what| what == "test"))
    })
}
