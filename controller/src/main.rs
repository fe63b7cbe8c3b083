//! The binary: parses the command line and runs a role.
//!
//! Exit codes: 0 ended in order, 1 failed, 2 wrong flag or value.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use tocsin_controller::{
    cli::{ALIASES, Cli, Command},
    heartbeat, remediation,
};
use tocsin_runtime::{
    command_line::{self, Program, USAGE},
    log,
};

/// kube-runtime warns at every attempt; the programs tell a loss themselves, once.
const QUIET: [log::Quiet; 1] = [("kube_runtime", log::Level::OFF)];

/// The name that begins messages.
const PROGRAM: Program = Program("tocsin-controller");

fn main() -> ExitCode {
    match command_line::parse::<Cli>(env::args_os(), &ALIASES).map(|cli| cli.command) {
        Ok(Command::Heartbeat(args)) => {
            let common = args.common.clone();
            match heartbeat::settings::Settings::new(*args) {
                Ok(settings) => PROGRAM.run(&common.log, common.log_format, &QUIET, |dropped| {
                    heartbeat::run(settings, dropped)
                }),
                Err(error) => PROGRAM.fail(&error.to_string(), ExitCode::from(USAGE)),
            }
        }
        Ok(Command::Remediation(args)) => match remediation::args::Config::new(&args) {
            Ok(config) => {
                let common = &args.common;
                PROGRAM.run(&common.log, common.log_format, &[], |_| remediation::run(config))
            }
            Err(error) => PROGRAM.fail(&format!("{error:#}"), ExitCode::from(USAGE)),
        },
        Ok(Command::Explain(args)) => PROGRAM.block_on(async {
            match remediation::explain_node(*args).await {
                Ok(text) => print(&text),
                Err(error) => PROGRAM.fail(&format!("{error:#}"), ExitCode::FAILURE),
            }
        }),
        Ok(Command::Crds) => match remediation::crd::yaml() {
            Ok(text) => print(&text),
            Err(error) => PROGRAM.fail(&format!("{error:#}"), ExitCode::FAILURE),
        },
        Err(error) => PROGRAM.usage(&error),
    }
}

/// Writes text to standard output.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // A pager that was closed.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => PROGRAM.fail(&error.to_string(), ExitCode::FAILURE),
    }
}
