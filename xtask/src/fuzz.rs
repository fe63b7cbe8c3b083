//! `cargo xtask fuzz`: libFuzzer on stable Rust, with the compiler's instrumentation of edges and comparisons and without
//! a sanitizer.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check, command, host_triple, root, target_dir};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What is fuzzed; everything without, one after the other
    #[arg(value_enum)]
    what: Option<Target>,
    /// How long each runs, in seconds, once it is built
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Target {
    /// What comes over a connection to the health port
    Health,
    /// Packets of peers, with and without the key
    Peers,
}

impl Target {
    const ALL: [Self; 2] = [Self::Health, Self::Peers];

    /// The name of its corpus; its program is `fuzz-NAME`.
    fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Peers => "peers",
        }
    }
}

/// The instrumentation by which libFuzzer finds which code an input reached, and what it was compared with.
const COVERAGE: &str = "-C passes=sancov-module -C codegen-units=1 \
    -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
    -C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares";

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::ensure(Needs::Fuzz)?;
    let triple = host_triple()?;
    // A directory of its own: everything is compiled with other flags.
    let target = target_dir()?.join("fuzz");
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", triple.to_uppercase().replace('-', "_"));
    let mut build = cargo()?;
    build
        .args(["build", "--profile", "fuzz", "--package", "fuzz", "--features", "libfuzzer"])
        .args(["--bins", "--target", &triple])
        .env("CARGO_TARGET_DIR", &target)
        .env(flags, COVERAGE)
        .env("AYA_BUILD_SKIP", "1");
    announce(&build);
    check(&mut build)?;

    let programs = target.join(triple).join("fuzz");
    let targets = options.what.map_or_else(|| Target::ALL.to_vec(), |what| vec![what]);
    targets.into_iter().try_for_each(|what| fuzz(what, &programs, &target, options.seconds))
}

fn fuzz(what: Target, programs: &Path, target: &Path, seconds: u32) -> Result<()> {
    let name = what.name();
    // libFuzzer adds new inputs to the first directory, which is not the one in the tree.
    let (found, artifacts) = (target.join("corpus").join(name), target.join("artifacts"));
    for directory in [&found, &artifacts] {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let mut fuzz = command(programs.join(format!("fuzz-{name}")))?;
    fuzz.arg(found)
        .arg(root().join("fuzz/corpus").join(name))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{name}-", artifacts.display()))
        .args(["-max_len=9000", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1"]);
    announce(&fuzz);
    check(&mut fuzz).context("an input that breaks it is named above")
}
