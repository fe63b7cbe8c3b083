//! `cargo xtask fuzz`: libFuzzer on stable Rust, with the compiler's instrumentation of edges and comparisons and without
//! a sanitizer.

use std::fs;

use anyhow::{Context as _, Result};

use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check, command, host_triple, root, target_dir};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long it runs, in seconds, once it is built
    #[arg(long, default_value_t = 60)]
    seconds: u32,
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
        .args(["--bin", "fuzz-health", "--target", &triple])
        .env("CARGO_TARGET_DIR", &target)
        .env(flags, COVERAGE)
        .env("AYA_BUILD_SKIP", "1");
    announce(&build);
    check(&mut build)?;

    // libFuzzer adds new inputs to the first directory, which is not the one in the tree.
    let (found, artifacts) = (target.join("corpus/health"), target.join("artifacts"));
    for directory in [&found, &artifacts] {
        fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let mut fuzz = command(target.join(triple).join("fuzz/fuzz-health"))?;
    fuzz.arg(found)
        .arg(root().join("fuzz/corpus/health"))
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .args(["-max_len=9000", "-timeout=5", "-rss_limit_mb=1024", "-print_final_stats=1"]);
    announce(&fuzz);
    check(&mut fuzz).context("an input that breaks it is named above")
}
