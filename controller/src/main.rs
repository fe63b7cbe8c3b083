//! The binary: parses the command line and runs a role.
//!
//! Exit codes: 0 ended in order, 1 failed, 2 wrong flag or value.

use std::{env, process::ExitCode};

use tocsin_controller::{
    cli::{ALIASES, Cli, Command},
    heartbeat,
};
use tocsin_runtime::command_line::{self, Program, USAGE};

/// The name that begins messages.
const PROGRAM: Program = Program("tocsin-controller");

fn main() -> ExitCode {
    match command_line::parse::<Cli>(env::args_os(), &ALIASES).map(|cli| cli.command) {
        Ok(Command::Heartbeat(args)) => {
            let common = args.common.clone();
            match heartbeat::settings::Settings::new(*args) {
                Ok(settings) => PROGRAM.run(&common.log, common.log_format, &[], |dropped| {
                    heartbeat::run(settings, dropped)
                }),
                Err(error) => PROGRAM.fail(&error.to_string(), ExitCode::from(USAGE)),
            }
        }
        Err(error) => PROGRAM.usage(&error),
    }
}
