//! Dependencies point one way.
//!
//! A module may use itself and the modules before it in its package's table, and no others. Between packages, a manifest
//! may name the dependencies in [`PACKAGES`].

use std::collections::BTreeSet;
use std::fs;

use crate::tree::{self, CRATES, Crate};
use crate::{expect_none, imports, root, without_known};

/// The top modules of one package, lowest first. Modules of one line do not use each other.
pub(crate) struct Layers {
    pub(crate) package: &'static str,
    pub(crate) lowest_first: &'static [&'static [&'static str]],
}

const LAYERS: [Layers; 4] = [
    Layers {
        package: "agent",
        lowest_first: &[
            &["errno"],
            &["model"],
            &["host"],
            &["kernel"],
            &["checks"],
            &["cluster"],
            &["peers"],
            &["health"],
            &["serve"],
            &["cli"],
            &["config"],
            &["app"],
            &["commands"],
        ],
    },
    Layers { package: "api", lowest_first: &[&["faults", "health", "heartbeat", "peers"]] },
    Layers {
        package: "controller",
        lowest_first: &[
            &["api_server", "args", "listen"],
            &["admin", "reflect"],
            &["heartbeat", "remediation"],
            &["cli"],
        ],
    },
    Layers {
        package: "runtime",
        lowest_first: &[
            &["fd", "jitter", "text"],
            &["log", "tasks"],
            &["command_line"],
            &["kube", "tls"],
            &["http"],
            &["metrics"],
        ],
    },
];

/// Imports that point upwards today: `FILE -> MODULE`.
const UPWARDS: &[&str] = &[];

/// The packages of this workspace that a package may depend on, also for its tests.
const PACKAGES: [(&str, &[&str]); 9] = [
    ("agent", &["tocsin-api", "tocsin-docgen", "tocsin-ebpf", "tocsin-runtime"]),
    ("agent-ebpf", &[]),
    ("api", &[]),
    ("controller", &["tocsin-api", "tocsin-docgen", "tocsin-runtime"]),
    ("docgen", &[]),
    ("fuzz", &["tocsin"]),
    ("runtime", &["tocsin-api"]),
    ("tests", &["tocsin-api"]),
    ("xtask", &[]),
];

impl Layers {
    /// The layer of a module; none if it is not in the table.
    fn height(&self, module: &str) -> Option<usize> {
        self.lowest_first.iter().position(|layer| layer.contains(&module))
    }

    /// What is wrong, each with its key for [`UPWARDS`].
    pub(crate) fn violations(&self, unit: &Crate) -> Vec<(String, String)> {
        let mut found = BTreeSet::new();
        for file in &unit.files {
            if let Some(module) = file.module.first().filter(|name| self.height(name).is_none()) {
                let message = format!("{}: {module} has no place in LAYERS", file.path);
                found.insert((file.path.clone(), message));
            }
        }
        for import in imports::of(unit) {
            let from = unit.files[import.from].module.first();
            let owner = unit.files[import.to].module.first();
            // The path counts as it is written, and so does the file that has the item.
            for to in [import.path.first(), owner].into_iter().flatten() {
                let Some((from, to, heights)) =
                    from.and_then(|from| Some((from, to, (self.height(from)?, self.height(to)?))))
                else {
                    continue;
                };
                if from != to && heights.1 >= heights.0 {
                    let path = import.path.join("::");
                    let relation = if heights.0 == heights.1 { "beside" } else { "below" };
                    let place = import.place(&unit.files);
                    let key = format!("{} -> {to}", unit.files[import.from].path);
                    let message =
                        format!("{place}: uses crate::{path}, and {from} is {relation} {to}");
                    found.insert((key, message));
                }
            }
        }
        found.into_iter().collect()
    }
}

#[test]
fn no_module_uses_one_above_it() {
    let found: Vec<_> = CRATES
        .iter()
        // Integration tests are crates of their own, with modules of their own.
        .filter(|unit| unit.files.first().is_some_and(|root| root.path.contains("/src/")))
        .flat_map(|unit| {
            let table = LAYERS.iter().find(|layers| layers.package == unit.package);
            table.map(|table| table.violations(unit)).unwrap_or_default()
        })
        .collect();
    expect_none("imports that point upwards", &without_known(found, UPWARDS));
}

#[test]
fn no_package_depends_on_one_above_it() {
    let mut found = Vec::new();
    for package in tree::packages() {
        let allowed =
            PACKAGES.iter().find(|(name, _)| *name == package).map(|(_, allowed)| allowed);
        let Some(allowed) = allowed else {
            found.push(format!("{package} has no place in PACKAGES"));
            continue;
        };
        let manifest = format!("{package}/Cargo.toml");
        let text = fs::read_to_string(root().join(&manifest)).expect("read a manifest");
        for (number, line) in text.lines().enumerate() {
            let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
            let is_ours = name == "tocsin" || name.starts_with("tocsin-");
            if is_ours && !allowed.contains(&name) {
                found.push(format!("{manifest}:{}: {package} depends on {name}", number + 1));
            }
        }
    }
    expect_none("dependencies between packages that PACKAGES does not have", &found);
}

/// A file that no `mod` leads to is not compiled, and nothing shows when it is wrong.
#[test]
fn every_file_is_compiled() {
    let compiled: BTreeSet<_> =
        CRATES.iter().flat_map(|unit| unit.files.iter().map(|file| &file.path)).collect();
    let orphans: Vec<_> = tree::packages()
        .iter()
        .flat_map(|package| tree::on_disk(package))
        .filter(|path| !compiled.contains(path))
        .collect();
    expect_none("files that no mod leads to", &orphans);
}
