//! The binary: parses, starts the log and the runtime, and turns results into exit codes.
//!
//! Exit codes: 0 ended in order, 1 failed, 2 wrong flag or value.

use std::{
    env,
    future::Future,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, error::ErrorKind};
use tocsin_controller::{
    cli::{Cli, Command, CommonArgs, aliases, environment, one_line},
    heartbeat,
};
use tocsin_runtime::log::{self, DroppedLines};

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
    match Cli::try_parse().map(|cli| cli.command) {
        Ok(Command::Heartbeat(args)) => {
            let common = args.common.clone();
            match heartbeat::settings::Settings::new(*args) {
                Ok(settings) => run(&common, |dropped| heartbeat::run(settings, dropped)),
                Err(error) => fail(&error.to_string(), ExitCode::from(USAGE)),
            }
        }
        Err(error) => usage(&error),
    }
}

/// Runs a role until it ends, on one thread: every task answers from memory or waits.
fn run<F>(common: &CommonArgs, role: impl FnOnce(DroppedLines) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let (log, dropped) = match log::start(&common.log, common.log_format, &[]) {
        Ok(started) => started,
        Err(error) => return fail(&error.to_string(), ExitCode::from(USAGE)),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), ExitCode::FAILURE),
    };
    let result = runtime.block_on(role(dropped));
    if let Err(error) = &result {
        tracing::error!(error = format!("{error:#}"), "tocsin-controller ends");
    }
    // A login plugin may still run.
    runtime.shutdown_background();
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
    let _closed_stderr = writeln!(io::stderr(), "tocsin-controller: {message}");
    code
}
