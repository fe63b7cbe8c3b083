//! `cargo xtask bench`: the measurements of the program `bench` in the package `e2e`.

use std::ffi::OsString;

use anyhow::Result;

use crate::cluster;
use crate::release::{build_agent, build_controller};
use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which measurements, and their options; all without. `peers`, alone, is up to 100 simulated members;
    /// `PEERS_BENCH_MEMBERS` sets their number, and `PEERS_BENCH_HOURS` the simulated hours at 5 % loss (without, as many
    /// minutes as fit)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    which: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.which == ["peers"] {
        return peers();
    }
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

/// The simulator is code of the agent's unit tests. Optimising the crates that do the work is enough, and all others are
/// those of `cargo test`.
fn peers() -> Result<()> {
    let mut bench = cargo()?;
    bench
        .args(["test", "--quiet", "--package", "tocsin", "--lib"])
        .args(["--config", "profile.dev.package.tocsin.opt-level=1"])
        .args(["--config", "profile.dev.package.foca.opt-level=1"])
        .args(["--", "--ignored", "--nocapture", "--exact", "peers::simulator::bench::figures"])
        .env("AYA_BUILD_SKIP", "1");
    announce(&bench);
    check(&mut bench)
}
