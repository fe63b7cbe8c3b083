//! The binary `tocsin`: parses the command line and runs the command.
//!
//! Exit codes: 0 ended in order, 1 failed, 2 wrong flag or value. `tocsin check` has its own.

use std::{env, path::Path, process::ExitCode};

use tocsin::{
    app,
    cli::{ALIASES, Cli, Command},
    commands::{check, faults, peers},
    config::Config,
    kernel,
};
use tocsin_runtime::{
    command_line::{self, Program, USAGE},
    log,
};

/// The name that begins messages.
const PROGRAM: Program = Program("tocsin");
/// aya logs the address of every relocation at "debug".
const QUIET: [log::Quiet; 1] = [("aya", log::Level::WARN)];

fn main() -> ExitCode {
    match command_line::parse::<Cli>(env::args_os(), &ALIASES).map(|cli| cli.command) {
        Ok(Command::Agent(args)) if args.kernel.unpin => unpin(&args.kernel.bpf_pin_dir),
        Ok(Command::Agent(args)) => {
            let filter = args.log.clone();
            match Config::new(*args) {
                Ok(config) => PROGRAM.run(&filter, config.log_format, &QUIET, |log_dropped| {
                    app::run(config, log_dropped)
                }),
                Err(error) => PROGRAM.fail(&error.to_string(), ExitCode::from(USAGE)),
            }
        }
        Ok(Command::Check(args)) => PROGRAM.block_on(check::run(&args)),
        Ok(Command::Faults(args)) => PROGRAM.block_on(async {
            match faults::run(&args).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => PROGRAM.fail(&format!("{error:#}"), ExitCode::FAILURE),
            }
        }),
        Ok(Command::Peers(args)) => PROGRAM.block_on(async {
            match peers::run(&args).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => PROGRAM.fail(&format!("{error:#}"), ExitCode::FAILURE),
            }
        }),
        Err(error) => PROGRAM.usage(&error),
    }
}

/// `tocsin agent --unpin`
fn unpin(dir: &Path) -> ExitCode {
    match kernel::unpin(dir) {
        Ok(_count) => ExitCode::SUCCESS,
        Err(error) => PROGRAM.fail(&error.to_string(), ExitCode::FAILURE),
    }
}
