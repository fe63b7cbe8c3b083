//! `cargo xtask kernels`: the agent on Debian's kernels, each in virtual machines.
//!
//! The machine is emulated without KVM: a kernel boots in seconds, also inside a container. The guest is an initramfs
//! with the static agent, the modules and the scripts of `kernels/guest/`, which make the faults and print the results on
//! the serial line. It is not part of `cargo xtask test`, because a kernel takes minutes.

mod debian;
mod groups;
mod guest;
mod initramfs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use self::groups::{GROUPS, Group};
use self::guest::{Results, verdict};
use crate::release::build_agent;
use crate::setup::{self, Needs};
use crate::workspace::target_dir;

/// One kernel of each long-lived series, and the newest: the last one without `block_rq_error`, two whose mount table
/// does not show that an ext4 has become read-only by an error, and one in which all tracepoints of f2fs are.
const VERSIONS: [&str; 4] = ["5.10", "6.1", "6.12", "7.3"];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How the versions begin; by default 5.10, 6.1, 6.12 and 7.3
    versions: Vec<String>,
    /// Only this group of scenarios; may be given several times
    #[arg(long = "group")]
    groups: Vec<String>,
    /// A static agent that is there already, instead of a build
    #[arg(long)]
    agent: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let known = |name: &String| GROUPS.iter().any(|group| group.name == name);
    if let Some(name) = options.groups.iter().find(|name| !known(name)) {
        let names = GROUPS.map(|group| group.name);
        bail!("no group {name}; there are {}", names.join(", "));
    }
    setup::ensure(Needs::Kernels)?;
    let agent = match &options.agent {
        Some(agent) => std::path::absolute(agent).context("--agent")?,
        None => build_agent(true)?,
    };
    let all = VERSIONS.map(str::to_owned);
    let versions = if options.versions.is_empty() { &all[..] } else { &options.versions };
    let is_wanted = |group: &&Group| {
        options.groups.is_empty() || options.groups.iter().any(|g| g == group.name)
    };
    let groups: Vec<&Group> = GROUPS.iter().filter(is_wanted).collect();
    let dir = target_dir()?.join("kernels");
    let mut table = Vec::new();
    for version in versions {
        // The others run also where one cannot be downloaded.
        let results = guests(&dir, version, &agent, &groups).unwrap_or_else(|error| {
            eprintln!("kernels: {version}: {error:#}");
            Results::default()
        });
        table.push((version.as_str(), results));
    }
    print(&groups, &table);
    let mut scenarios = groups.iter().flat_map(|group| group.scenarios);
    if !scenarios.all(|name| table.iter().all(|(_, results)| verdict(results, name) == "pass")) {
        bail!("not every scenario passed; each guest's log is {}/VERSION/GROUP.log", dir.display());
    }
    Ok(())
}

/// Prints a line for each scenario with a column for each kernel.
fn print(groups: &[&Group], table: &[(&str, Results)]) {
    for group in groups {
        println!("\n{:<24}{}", group.name, columns(table.iter().map(|(version, _)| *version)));
        for scenario in group.scenarios {
            let verdicts = table.iter().map(|(_, results)| verdict(results, scenario));
            println!("  {scenario:<22}{}", columns(verdicts));
        }
    }
}

fn columns<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let cells: Vec<_> = cells.map(|cell| format!("{cell:<6}")).collect();
    cells.concat().trim_end().to_owned()
}

/// Runs the groups on one kernel.
fn guests(dir: &Path, version: &str, agent: &Path, groups: &[&Group]) -> Result<Results> {
    let kernel = debian::kernel(dir, version)?;
    let initramfs = initramfs::build(&kernel, agent)?;
    let mut all = BTreeMap::new();
    for group in groups {
        match guest::run(&kernel, &initramfs, group) {
            Ok(results) => all.extend(results),
            Err(error) => eprintln!("kernels: {version} {}: {error:#}", group.name),
        }
    }
    Ok(all)
}
