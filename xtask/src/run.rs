//! `cargo xtask run`: the agent on this machine, in the foreground.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::release::build_agent;
use crate::setup::{self, Needs};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Passed on to `tocsin agent`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    agent_args: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let kernel_programs = setup::try_for(Needs::Build);
    let binary = build_agent(kernel_programs)?;
    let mut agent = Command::new(&binary);
    agent.arg("agent").args(&options.agent_args);
    if env::var_os("NODE_NAME").is_none() && env::var_os("MY_NODE_NAME").is_none() {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").context("host name")?;
        agent.env("NODE_NAME", name.trim());
    }
    // The agent replaces this process, so that it gets the signals and sets the exit code.
    Err(agent.exec()).with_context(|| format!("start {}", binary.display()))
}
