//! `cargo xtask test`: every test of the workspace, with the release binaries.

use std::env;
use std::ffi::OsString;

use anyhow::Result;

use crate::cluster;
use crate::release::{build_agent, build_controller};
use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to `cargo test`, in place of `--workspace`; for example `-p e2e -- io_stall`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    cargo_test_args: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let require_all = is_set("CI") || is_set("REQUIRE_ALL");
    let kernel_programs = if require_all {
        setup::ensure(Needs::Tests)?;
        true
    } else {
        setup::try_for(Needs::Tests)
    };
    let (agent, controller) = (build_agent(kernel_programs)?, build_controller()?);
    let mut test = cargo()?;
    test.arg("test").args(&options.cargo_test_args);
    test.env("TOCSIN_BIN", agent).env("TOCSIN_CONTROLLER_BIN", controller);
    if options.cargo_test_args.is_empty() {
        // One run shows everything that fails.
        test.args(["--workspace", "--no-fail-fast"]);
    }
    if let Some(programs) = cluster::programs() {
        test.env(cluster::ASSETS, programs);
    }
    if require_all {
        // A test that cannot run fails; without this it prints `SKIP` and the reason.
        test.env("TOCSIN_REQUIRE_ALL", "1");
    }
    if !kernel_programs {
        test.env("AYA_BUILD_SKIP", "1");
    }
    announce(&test);
    check(&mut test)
}

fn is_set(name: &str) -> bool {
    env::var(name).is_ok_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
}
