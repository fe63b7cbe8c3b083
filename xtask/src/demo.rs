//! `cargo xtask demo`: the program `demo` of the package `e2e`.

use anyhow::Result;

use crate::release::build_agent;
use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check};

pub(crate) fn run() -> Result<()> {
    let kernel_programs = setup::try_for(Needs::Faults);
    let binary = build_agent(kernel_programs)?;
    let mut demo = cargo()?;
    demo.args(["run", "--quiet", "--package", "e2e", "--bin", "demo"]).env("TOCSIN_BIN", binary);
    announce(&demo);
    check(&mut demo)
}
