//! The control plane that the tests run against: etcd, kube-apiserver and kubectl.
//!
//! No package manager has all of these everywhere, but each of them is a Go module, which the Go proxy has.
//! `tests/cluster/` names the versions and their checksums. `KUBEBUILDER_ASSETS` stands for a directory with these three
//! wherever controllers are tested, so a directory that the user has is used.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{announce, check, command, find_program, output, root, target_dir};

/// The variable with the programs' directory, by its common name in tests of controllers.
pub(crate) const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The oldest Go that understands the `go` line of these modules, or fetches a Go that does.
const OLDEST_GO: (u32, u32) = (1, 21);

/// A Go module below `tests/cluster/`, and what is built from it.
struct Module {
    directory: &'static str,
    /// The required module whose version is the programs' version.
    source: &'static str,
    /// Each program's name and package.
    programs: &'static [(&'static str, &'static str)],
    /// The variable with the programs' version, where the linker has to set it.
    version_variable: Option<&'static str>,
    /// How long the first build takes on two cores.
    takes: &'static str,
}

const MODULES: [Module; 2] = [
    Module {
        directory: "etcd",
        source: "go.etcd.io/etcd/server/v3",
        programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
        version_variable: None,
        takes: "two minutes",
    },
    Module {
        directory: "kubernetes",
        source: "k8s.io/kubernetes",
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ],
        // Otherwise it is `v0.0.0-master+$Format:%H$`, which no client can parse.
        version_variable: Some("k8s.io/component-base/version.gitVersion"),
        takes: "ten minutes",
    },
];

/// The directory with all programs, if they are built from the current modules.
pub(crate) fn programs() -> Option<PathBuf> {
    if let Some(assets) = given() {
        return Some(assets);
    }
    let bin = bin().ok()?;
    MODULES.iter().all(|module| module.is_current(&bin).unwrap_or(false)).then_some(bin)
}

/// Builds the programs that are missing or not current.
pub(crate) fn provide() -> Result<()> {
    if given().is_some() {
        return Ok(());
    }
    let bin = bin()?;
    for module in &MODULES {
        if !module.is_current(&bin)? {
            module.build(&bin)?;
        }
    }
    Ok(())
}

/// The user's own programs, which are used as they are.
fn given() -> Option<PathBuf> {
    // Absolute, because the tests run in another directory.
    let assets = std::path::absolute(env::var_os(ASSETS)?).ok()?;
    MODULES.iter().all(|module| module.is_in(&assets)).then_some(assets)
}

fn bin() -> Result<PathBuf> {
    Ok(target_dir()?.join("cluster/bin"))
}

impl Module {
    fn is_in(&self, bin: &Path) -> bool {
        self.programs.iter().all(|(program, _)| bin.join(program).is_file())
    }

    fn is_current(&self, bin: &Path) -> Result<bool> {
        let built = fs::read_to_string(self.stamp(bin)).unwrap_or_default();
        Ok(self.is_in(bin) && built == self.recipe()?.text)
    }

    /// The file beside the programs with the recipe that they were built from.
    fn stamp(&self, bin: &Path) -> PathBuf {
        bin.join(format!("{}.built-from", self.directory))
    }

    fn path(&self) -> PathBuf {
        root().join("tests/cluster").join(self.directory)
    }

    fn recipe(&self) -> Result<Recipe> {
        let read = |name: &str| {
            let path = self.path().join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        Recipe::new(self, &read("go.mod")?, &read("go.sum")?)
    }

    fn build(&self, bin: &Path) -> Result<()> {
        let go = go()?;
        let recipe = self.recipe()?;
        fs::create_dir_all(bin).with_context(|| format!("make {}", bin.display()))?;
        let mut build = command(go)?;
        build
            .current_dir(self.path())
            // The module does not belong to a Go workspace that the tree may be in.
            .env("GOWORK", "off")
            .args(["build", "-trimpath", "-ldflags", &recipe.linker_flags, "-o"]);
        // Go names the programs in a directory by their packages; a single one may have another name.
        match self.programs {
            [(program, _)] => build.arg(bin.join(program)),
            _ => build.arg(bin),
        };
        build.args(self.programs.iter().map(|(_, package)| package));
        eprintln!("setup: building {}: {} the first time", self.names(), self.takes);
        announce(&build);
        check(&mut build)?;
        let stamp = self.stamp(bin);
        fs::write(&stamp, recipe.text).with_context(|| format!("write {}", stamp.display()))
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.programs.iter().map(|(program, _)| *program).collect();
        names.join(" and ")
    }
}

/// Everything that determines the result of a build.
struct Recipe {
    linker_flags: String,
    /// Its text, to be kept and compared.
    text: String,
}

impl Recipe {
    fn new(module: &Module, go_mod: &str, go_sum: &str) -> Result<Self> {
        let mut linker_flags = "-s -w".to_owned();
        if let Some(variable) = module.version_variable {
            let version = required_version(go_mod, module.source)
                .with_context(|| format!("go.mod requires no version of {}", module.source))?;
            linker_flags.push_str(&format!(" -X {variable}={version}"));
        }
        let text = format!("{linker_flags}\n{go_mod}\n{go_sum}");
        Ok(Self { linker_flags, text })
    }
}

/// The version of a module that a go.mod requires, on a line of its own or in a block.
fn required_version<'a>(go_mod: &'a str, module: &str) -> Option<&'a str> {
    go_mod.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip_while(|word| *word == "require");
        (words.next()? == module).then(|| words.next())?.filter(|word| word.starts_with('v'))
    })
}

fn go() -> Result<PathBuf> {
    let (major, minor) = OLDEST_GO;
    // Go's own installer puts it there, which may not be in PATH.
    let own = Path::new("/usr/local/go/bin/go");
    let Some(go) = find_program("go").or_else(|| own.is_file().then(|| own.to_owned())) else {
        bail!("no Go ({major}.{minor} or newer)");
    };
    // Not in the module's directory, where `go version` could fetch another Go first.
    let words = output(command(&go)?.arg("version"))?;
    match go_version(&words) {
        Some(version) if version >= OLDEST_GO => Ok(go),
        Some((has_major, has_minor)) => {
            bail!("Go {has_major}.{has_minor} is too old ({major}.{minor} or newer)")
        }
        None => bail!("{:?} is no version of Go", words.trim()),
    }
}

/// Major and minor, from `go version go1.26.8 linux/amd64`.
fn go_version(words: &str) -> Option<(u32, u32)> {
    let version = words.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    let minor = version.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((1, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions() {
        for (words, version) in [
            ("go version go1.26.8 linux/amd64", Some((1, 26))),
            ("go version go1.19 linux/arm64", Some((1, 19))),
            ("go version go1.27rc1 linux/amd64", Some((1, 27))),
            ("go version devel go1.27-abcdef Mon linux/amd64", Some((1, 27))),
            ("gccgo (Debian) 12", None),
            ("go version go1.x", None),
        ] {
            assert_eq!(go_version(words), version, "{words}");
        }
    }

    #[test]
    fn versions_in_go_mod() {
        let go_mod = "module m\n\nrequire a.b/c v1.2.3\nrequire (\n\ta.b/d v0.1.0 // indirect\n)\n\
                      replace (\n\ta.b/e => a.b/e v0.36.3\n)\n";
        assert_eq!(required_version(go_mod, "a.b/c"), Some("v1.2.3"));
        assert_eq!(required_version(go_mod, "a.b/d"), Some("v0.1.0"));
        assert_eq!(required_version(go_mod, "a.b/e"), None);
        assert_eq!(required_version(go_mod, "a.b"), None);
    }

    /// Every module in the tree has a recipe, which changes with the version.
    #[test]
    fn every_module_has_a_recipe() {
        for module in &MODULES {
            let recipe = module.recipe().unwrap();
            let go_mod = fs::read_to_string(module.path().join("go.mod")).unwrap();
            let version = required_version(&go_mod, module.source).unwrap();
            assert_eq!(recipe.linker_flags.contains(version), module.version_variable.is_some());
            let newer = go_mod.replace(version, "v99.0.0");
            assert_ne!(Recipe::new(module, &newer, "").unwrap().text, recipe.text);
        }
    }

    /// Kubernetes v1.N.P consists of staging modules v0.N.P: an update must not forget one of them.
    #[test]
    fn staging_modules_are_of_the_same_release() {
        let go_mod = fs::read_to_string(root().join("tests/cluster/kubernetes/go.mod")).unwrap();
        let release = required_version(&go_mod, "k8s.io/kubernetes").unwrap();
        let staging = release.replacen("v1.", "v0.", 1);
        let replaced: Vec<&str> = go_mod.lines().filter(|line| line.contains(" => ")).collect();
        assert!(replaced.len() > 20, "{replaced:?}");
        for line in replaced {
            assert!(line.ends_with(&format!(" {staging}")), "{line}");
        }
    }
}
