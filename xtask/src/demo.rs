//! The story in a terminal; told by the program `demo` of the tests' package.

use anyhow::Result;

use crate::setup::{self, Needs};
use crate::workspace::{announce, build_agent, cargo, check};

pub(crate) fn run() -> Result<()> {
    let kernel_programs = setup::try_for(Needs::Faults);
    let binary = build_agent(kernel_programs)?;
    let mut demo = cargo()?;
    demo.args(["run", "--quiet", "--package", "e2e", "--bin", "demo"]).env("TOCSIN_BIN", binary);
    announce(&demo);
    check(&mut demo)
}
