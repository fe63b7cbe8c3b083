//! `cargo xtask bench`: the measurements of the program `bench` in the package `e2e`.

use std::ffi::OsString;

use anyhow::Result;

use crate::cluster;
use crate::release::{build_agent, build_controller};
use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which measurements, and their options; all without
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    which: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    // Figures of an agent without its kernel programs would mean nothing.
    setup::ensure(Needs::Tests)?;
    let (agent, controller) = (build_agent(true)?, build_controller()?);
    let mut bench = cargo()?;
    bench
        .args(["run", "--quiet", "--release", "--package", "e2e", "--bin", "bench", "--"])
        .args(&options.which)
        // The size of this program does not matter, so optimisation over all crates would only cost time.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("TOCSIN_BIN", agent)
        .env("TOCSIN_CONTROLLER_BIN", controller);
    if let Some(programs) = cluster::programs() {
        bench.env(cluster::ASSETS, programs);
    }
    announce(&bench);
    check(&mut bench)
}
