//! Every place where one file uses what another one has: in a `use`, in a path, and in what a macro is given.

use crate::tree::{Crate, File};

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
    let files = unit.files.iter().enumerate();
    let references =
        files.flat_map(|(from, file)| file.references.iter().map(move |found| (from, found)));
    let imports = references.filter_map(|(from, found)| {
        // One name alone in code counts only where it is re-exported: any other is a local name, or has been counted at
        // its `use`.
        let is_local = matches!(&found.path[..], [name] if !unit.is_reexport(&found.scope, name));
        if is_local && !found.is_use {
            return None;
        }
        let target = unit.resolve(&found.scope, &found.path)?;
        let (line, is_reexport) = (found.line, found.is_reexport);
        let import = Import { from, to: target.file, line, path: target.path, is_reexport };
        (target.file != from).then_some(import)
    });
    imports.collect()
}

impl Import {
    /// `agent/src/kernel/task.rs:12`.
    pub(crate) fn place(&self, files: &[File]) -> String {
        format!("{}:{}", files[self.from].path, self.line)
    }
}
