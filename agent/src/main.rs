//! The binary: parses, starts the log and the runtime, and turns results into exit codes.
//!
//! Exit codes: 0 ended in order, 1 failed, 2 wrong flag or value. `tocsin check` has its own.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, error::ErrorKind};
use tocsin::{
    app,
    cli::{Cli, Command, aliases, environment, one_line},
    commands::{check, faults},
    config::Config,
};
use tocsin_runtime::log;
use tokio::runtime::{Builder, Runtime};

/// aya tells the address of every relocation at "debug".
const QUIET: [log::Quiet; 1] = [("aya", log::Level::WARN)];
/// Wrong flag or value.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    for (name, value) in aliases(|name| env::var_os(name)) {
        // SAFETY: nothing else runs yet.
        unsafe { env::set_var(name, value) };
    }
    for name in environment() {
        if env::var_os(&name).is_some_and(|value| value.is_empty()) {
            // SAFETY: as above.
            unsafe { env::remove_var(&name) };
        }
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // One thread: every task reads memory or waits, and what may block has threads of its own.
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), ExitCode::FAILURE),
    };
    match cli.command {
        Command::Agent(args) => {
            let filter = args.log.clone();
            let config = match Config::new(*args) {
                Ok(config) => config,
                Err(error) => return fail(&error.to_string(), ExitCode::from(USAGE)),
            };
            agent(&runtime, config, &filter)
        }
        Command::Check(args) => {
            let code = runtime.block_on(check::run(&args));
            // A probe may be stuck on a disk; the answer has been given.
            runtime.shutdown_background();
            code
        }
        Command::Faults(args) => match runtime.block_on(faults::run(&args)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("{error:#}"), ExitCode::FAILURE),
        },
    }
}

fn agent(runtime: &Runtime, config: Config, filter: &str) -> ExitCode {
    let (log, dropped) = match log::start(filter, config.log_format, &QUIET) {
        Ok(started) => started,
        Err(error) => return fail(&error.to_string(), ExitCode::from(USAGE)),
    };
    let result = runtime.block_on(app::run(config, dropped));
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "tocsin ends");
    }
    drop(log);
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Help and version as clap writes them; an error in one line.
fn usage(error: &clap::Error) -> ExitCode {
    let help = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    if help.contains(&error.kind()) {
        let _closed_pipe = error.print();
        return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
    }
    fail(&one_line(error), ExitCode::from(USAGE))
}

fn fail(message: &str, code: ExitCode) -> ExitCode {
    // Nobody reads it: then there is nobody to tell.
    let _nobody_reads = writeln!(io::stderr(), "tocsin: {message}");
    code
}
