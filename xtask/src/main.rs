//! One command for everything a developer or CI does: `cargo xtask COMMAND`.
//!
//! Each command is one file. Commands share [`setup`] (the programs that the machine must have), [`bpf`] (the compiler of
//! the kernel programs) and [`workspace`] (paths, and calling cargo).

mod bench;
mod bpf;
mod build_ebpf;
mod cluster;
mod demo;
mod fuzz;
mod kernels;
mod lint;
mod release;
mod run;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
enum Command {
    /// Install everything that the commands below need
    Setup(setup::Options),
    /// Build the kernel programs alone, and list them
    BuildEbpf,
    /// Build the agent and start it here, in the foreground
    Run(run::Options),
    /// Break and repair a real filesystem, or a Deployment, while watching the answers
    Demo(demo::Options),
    /// Build the agent and run every test
    Test(test::Options),
    /// Try the agent on Debian's kernels, in virtual machines
    Kernels(kernels::Options),
    /// Formatting, clippy for both targets, licences and sources of dependencies
    Lint,
    /// Fuzz the health listener's parser and the peers' packets for a while
    Fuzz(fuzz::Options),
    /// Measure the figures that have a budget
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Setup(options) => setup::run(&options),
        Command::BuildEbpf => build_ebpf::run(),
        Command::Run(options) => run::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Kernels(options) => kernels::run(&options),
        Command::Lint => lint::run(),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Bench(options) => bench::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
