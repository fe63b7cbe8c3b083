//! The source of every package, by its modules, as the compiler finds it: from each root file along its `mod` items.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use syn::{Item, UseTree, Visibility};

use crate::root;
use crate::source::{Function, ModulePath, Reference, is_for_tests, leaves, scan};

/// One compiled unit: a library, a program, a test.
pub(crate) struct Crate {
    /// The top of its tree.
    top: PathBuf,
    /// The directory of its package, from the top of the tree.
    pub(crate) package: String,
    pub(crate) files: Vec<File>,
    modules: BTreeMap<ModulePath, Module>,
}

pub(crate) struct File {
    /// From the top of the tree.
    pub(crate) path: String,
    pub(crate) module: ModulePath,
    pub(crate) lines: usize,
    /// Everything in it that may be of another file.
    pub(crate) references: Vec<Reference>,
    /// Its functions, without those of tests.
    pub(crate) functions: Vec<Function>,
    /// Whether it is only there for tests.
    pub(crate) is_test: bool,
}

/// A module, which is a file or a block in one.
#[derive(Default)]
struct Module {
    file: usize,
    /// What is defined here, by name.
    items: Vec<String>,
    /// What is imported here under which name, and whether others see it.
    imports: BTreeMap<String, Import>,
    globs: Vec<ModulePath>,
}

#[derive(Clone)]
struct Import {
    path: Vec<String>,
    is_reexport: bool,
}

/// What a path in the source leads to.
pub(crate) struct Target {
    /// The path from the crate's root, as written, with `self`, `super` and imported names replaced.
    pub(crate) path: Vec<String>,
    /// The file that has the item: re-exports are followed.
    pub(crate) file: usize,
}

/// More than there are re-exports of re-exports; an import that leads to itself ends there.
const MAX_DEPTH: usize = 16;

/// All crates of all packages of the workspace, read once for all tests.
pub(crate) static CRATES: LazyLock<Vec<Crate>> = LazyLock::new(|| {
    let packages = packages();
    let roots = packages
        .iter()
        .flat_map(|package| roots(package).into_iter().map(move |file| (package, file)));
    roots.map(|(package, file)| Crate::read(root(), package, &file)).collect()
});

/// The directories of the packages, from the top of the tree.
pub(crate) fn packages() -> Vec<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("read Cargo.toml");
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = ["));
    let members = members.and_then(|line| line.strip_suffix(']')).expect("members, on one line");
    members.split(", ").map(|member| member.trim_matches('"').to_owned()).collect()
}

/// Where cargo begins to compile: its own names, and those that these packages give.
fn roots(package: &str) -> Vec<PathBuf> {
    let package = root().join(package);
    let mut roots = Vec::new();
    for file in ["build.rs", "src/lib.rs", "src/main.rs"] {
        roots.push(package.join(file));
    }
    for directory in ["src/bin", "tests", "examples", "benches", "fuzz_targets"] {
        for entry in fs::read_dir(package.join(directory)).into_iter().flatten() {
            let path = entry.expect("read a directory").path();
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            roots.push(if is_source { path } else { path.join("main.rs") });
        }
    }
    roots.retain(|path| path.is_file());
    roots.sort();
    assert!(!roots.is_empty(), "{} has no source", package.display());
    roots
}

/// Every source file of a package that is on disk, from the top of the tree.
pub(crate) fn on_disk(package: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![root().join(package)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("read a directory") {
            let path = entry.expect("read a directory").path();
            if path.is_dir() && !path.ends_with("target") {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(below(root(), &path));
            }
        }
    }
    found.sort();
    found
}

fn below(top: &Path, path: &Path) -> String {
    path.strip_prefix(top).expect("below the top").to_string_lossy().into_owned()
}

impl Crate {
    /// Everything that the compiler would read, beginning at this file of a package.
    pub(crate) fn read(top: &Path, package: &str, file: &Path) -> Self {
        let mut found = Self {
            top: top.to_owned(),
            package: package.to_owned(),
            files: Vec::new(),
            modules: BTreeMap::new(),
        };
        let is_test = file.strip_prefix(top.join(package)).is_ok_and(|at| at.starts_with("tests"));
        // The root's modules are beside it.
        let directory = file.parent().expect("a directory").to_owned();
        found.read_file(file, &directory, &Vec::new(), is_test);
        found
    }

    fn read_file(&mut self, path: &Path, directory: &Path, module: &ModulePath, is_test: bool) {
        let text = fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let syntax = syn::parse_file(&text)
            .unwrap_or_else(|error| panic!("parse {}: {error}", path.display()));
        let (references, functions) = scan(&syntax, module);
        let number = self.files.len();
        self.files.push(File {
            path: below(&self.top, path),
            module: module.clone(),
            lines: text.lines().count(),
            references,
            functions,
            is_test,
        });
        self.read_module(&syntax.items, number, directory, module, is_test);
    }

    fn read_module(
        &mut self,
        items: &[Item],
        file: usize,
        directory: &Path,
        module: &ModulePath,
        is_test: bool,
    ) {
        let mut found = Module { file, ..Module::default() };
        for item in items {
            if let Item::Use(item) = item {
                let is_reexport = !matches!(item.vis, Visibility::Inherited);
                found.import(&item.tree, &mut Vec::new(), is_reexport);
            }
            found.items.extend(name_of(item));
        }
        self.modules.insert(module.clone(), found);
        for item in items {
            let Item::Mod(item) = item else { continue };
            let name = item.ident.to_string();
            let child: ModulePath = module.iter().cloned().chain([name.clone()]).collect();
            let is_test = is_test || is_for_tests(&item.attrs);
            let below = directory.join(&name);
            if let Some((_, items)) = &item.content {
                self.read_module(items, file, &below, &child, is_test);
            } else {
                let candidates = [directory.join(format!("{name}.rs")), below.join("mod.rs")];
                let path = candidates.iter().find(|path| path.is_file());
                let path = path.unwrap_or_else(|| panic!("no file for mod {name}"));
                self.read_file(path, &below, &child, is_test);
            }
        }
    }

    /// Where a path leads that stands in `scope`; none if it leads out of this crate, or to nothing that has a name in
    /// a module (a local variable, a generic parameter).
    pub(crate) fn resolve(&self, scope: &ModulePath, path: &[String]) -> Option<Target> {
        let path = self.absolute(scope, path, 0)?;
        let file = self.owner(&path, 0)?;
        Some(Target { path, file })
    }

    /// Whether a name is in `scope` because it is re-exported there: its `use` is not counted, its uses are.
    pub(crate) fn is_reexport(&self, scope: &ModulePath, name: &str) -> bool {
        self.modules
            .get(scope)
            .and_then(|module| module.imports.get(name))
            .is_some_and(|import| import.is_reexport)
    }

    /// Whether `ancestor` is the module that `path` leads into, or one above it.
    pub(crate) fn is_below(&self, ancestor: &ModulePath, file: usize) -> bool {
        self.files[file].module.starts_with(ancestor)
    }

    fn absolute(&self, scope: &ModulePath, path: &[String], depth: usize) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => scope.clone(),
            "super" => scope.split_last()?.1.to_vec(),
            name => {
                let child: ModulePath = scope.iter().cloned().chain([name.to_owned()]).collect();
                let module = self.modules.get(scope)?;
                if self.modules.contains_key(&child) {
                    child
                } else if let Some(import) = module.imports.get(name) {
                    if depth > MAX_DEPTH || import.path.first() == Some(first) {
                        return None;
                    }
                    self.absolute(scope, &import.path.clone(), depth + 1)?
                } else {
                    return None;
                }
            }
        };
        let mut rest = rest;
        while rest.first().is_some_and(|name| name == "super") {
            base.pop()?;
            rest = &rest[1..];
        }
        base.extend_from_slice(rest);
        Some(base)
    }

    /// The file that has what an absolute path leads to.
    fn owner(&self, path: &[String], depth: usize) -> Option<usize> {
        let mut module: ModulePath = Vec::new();
        let mut rest = path;
        while let Some((first, more)) = rest.split_first() {
            module.push(first.clone());
            if !self.modules.contains_key(&module) {
                module.pop();
                break;
            }
            rest = more;
        }
        let found = self.modules.get(&module)?;
        let Some(name) = rest.first().filter(|_| depth <= MAX_DEPTH) else {
            return Some(found.file);
        };
        if found.items.contains(name) {
            return Some(found.file);
        }
        if let Some(import) = found.imports.get(name) {
            // No file of this crate has it if the path leads out of the crate.
            let target = self.absolute(&module, &import.path, depth + 1)?;
            let target: Vec<_> = target.into_iter().chain(rest[1..].iter().cloned()).collect();
            return self.owner(&target, depth + 1);
        }
        let through_glob = found.globs.iter().find_map(|glob| {
            let target = self.absolute(&module, glob, depth + 1)?;
            let has = self.modules.get(&target)?;
            let known = has.items.contains(name) || has.imports.contains_key(name);
            let target: Vec<_> = target.into_iter().chain(rest.iter().cloned()).collect();
            known.then(|| self.owner(&target, depth + 1)).flatten()
        });
        // What a macro defines has no name in the source: it is where the path says.
        through_glob.or(Some(found.file))
    }
}

impl Module {
    fn import(&mut self, tree: &UseTree, path: &mut Vec<String>, is_reexport: bool) {
        leaves(tree, path, &mut |path, name| match name {
            Some(name) => {
                let import = Import { path: path.to_vec(), is_reexport };
                self.imports.insert(name, import);
            }
            None => self.globs.push(path.to_vec()),
        });
    }
}

fn name_of(item: &Item) -> Option<String> {
    let name = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(name.to_string())
}
