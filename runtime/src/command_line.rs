//! The common part of all programs' command lines: environment names of the replaced systems, empty values that count as
//! unset, errors in one line, exit codes, and the process that runs a role.
//!
//! The environment is never written to: aliases and empty values are applied to clap's definition of the command line.

use std::{
    env,
    ffi::{OsStr, OsString},
    future::Future,
    io::{self, Write},
    process::ExitCode,
};

use clap::{Arg, Command, Parser, error::ErrorKind};
use tokio::runtime::{Builder, Runtime};
use tracing::error;

use crate::log::{self, DroppedLines, Format, Quiet};

/// Exit code for a wrong flag or value. (0 is an end in order, 1 a failure.)
pub const USAGE: u8 = 2;

/// A name that another system has for an environment variable.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// Theirs.
    pub theirs: &'static str,
    /// Ours, which wins where both are set.
    pub ours: &'static str,
    /// Our word for a value of theirs; `None` where it means the same.
    pub translate: fn(&OsStr) -> Option<&'static str>,
}

impl Alias {
    /// Another name for the same values.
    #[must_use]
    pub const fn new(theirs: &'static str, ours: &'static str) -> Self {
        Self { theirs, ours, translate: |_| None }
    }
}

/// Reads a command line, and the environment behind it.
pub fn parse<C: Parser>(
    args: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    aliases: &[Alias],
) -> Result<C, clap::Error> {
    let mut command = adapt(C::command(), aliases);
    let matches = command.try_get_matches_from_mut(args)?;
    C::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Has every flag read what the environment says of it.
fn adapt(command: Command, aliases: &[Alias]) -> Command {
    // An empty variable is written for an unset one in /etc/default and in pod specs.
    let get = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    let adapt_arg = |arg: Arg| {
        let Some(name) = arg.get_env().and_then(OsStr::to_str) else { return arg };
        if get(name).is_some() {
            return arg;
        }
        let mut ours = aliases.iter().filter(|alias| alias.ours == name);
        let set = ours.find_map(|alias| Some((alias, get(alias.theirs)?)));
        match set {
            // clap's help names the variable, so it is taken away only where an empty value would count.
            None if env::var_os(name).is_none() => arg,
            None => arg.env(None::<&str>),
            Some((alias, value)) => match (alias.translate)(&value) {
                None => arg.env(alias.theirs),
                Some(word) => arg.env(None::<&str>).default_value(word),
            },
        }
    };
    command.mut_args(adapt_arg).mut_subcommands(|command| adapt(command, aliases))
}

/// What is wrong with a command line, and perhaps what was meant, in one line.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let line: Vec<_> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    line.join(" ").trim_start_matches("error: ").to_owned()
}

/// A program, by the name that begins its messages.
#[derive(Clone, Copy, Debug)]
pub struct Program(pub &'static str);

impl Program {
    /// Prints help and version as clap writes them, and an error in one line.
    #[must_use]
    pub fn usage(self, error: &clap::Error) -> ExitCode {
        let help = [
            ErrorKind::DisplayHelp,
            ErrorKind::DisplayVersion,
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ];
        if !help.contains(&error.kind()) {
            return self.fail(&one_line(error), ExitCode::from(USAGE));
        }
        let _closed_pipe = error.print();
        if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
    }

    /// Prints a message to standard error.
    #[must_use]
    pub fn fail(self, message: &str, code: ExitCode) -> ExitCode {
        // Standard error may be closed.
        let _not_printed = writeln!(io::stderr(), "{}: {message}", self.0);
        code
    }

    /// Runs a command on one thread: every task reads memory or waits, and what may block has threads of its own.
    pub fn block_on(self, command: impl Future<Output = ExitCode>) -> ExitCode {
        let runtime = match self.runtime() {
            Ok(runtime) => runtime,
            Err(code) => return code,
        };
        let code = runtime.block_on(command);
        // A thread may be stuck on a disk, or a login plugin may still run; the command is over.
        runtime.shutdown_background();
        code
    }

    /// Runs a role with its log until it ends; its error is the last line of the log.
    pub fn run<F>(
        self,
        filter: &str,
        format: Format,
        quiet: &[Quiet],
        role: impl FnOnce(DroppedLines) -> F,
    ) -> ExitCode
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let (log, dropped) = match log::start(filter, format, quiet) {
            Ok(started) => started,
            Err(error) => return self.fail(&error.to_string(), ExitCode::from(USAGE)),
        };
        let role = role(dropped);
        let code = self.block_on(async {
            match role.await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    error!(error = format!("{error:#}"), "{} ends", self.0);
                    ExitCode::FAILURE
                }
            }
        });
        drop(log);
        code
    }

    fn runtime(self) -> Result<Runtime, ExitCode> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| self.fail(&format!("cannot start: {error}"), ExitCode::FAILURE))
    }
}

#[cfg(test)]
mod tests {
    use std::process;

    use clap::{CommandFactory, Subcommand};

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "test")]
    struct Cli {
        #[command(subcommand)]
        command: Role,
    }

    #[derive(Debug, Subcommand)]
    enum Role {
        Serve {
            #[arg(long, env = "TOCSIN_TEST_LOG", default_value = "info")]
            log: String,
            #[arg(long, env = "TOCSIN_TEST_PORT", default_value_t = 7)]
            port: u16,
        },
    }

    const ALIASES: [Alias; 1] = [Alias {
        theirs: "TOCSIN_TEST_LEVEL",
        ours: "TOCSIN_TEST_LOG",
        translate: |value| (value == "WARNING").then_some("warn"),
    }];

    /// What a process with that environment and these arguments reads: clap looks at the environment itself.
    fn parsed(env: &[(&'static str, &str)], args: &[&str]) -> String {
        let output = process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "command_line::tests::child", "--nocapture"])
            .env("TOCSIN_TEST_ARGS", args.join(" "))
            .envs(env.iter().copied())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().find_map(|line| line.split_once("PARSED ")).unwrap().1.to_owned()
    }

    #[test]
    fn child() {
        let Ok(args) = env::var("TOCSIN_TEST_ARGS") else { return };
        let args = ["test", "serve"].into_iter().chain(args.split_whitespace());
        match parse::<Cli>(args, &ALIASES) {
            Ok(Cli { command: Role::Serve { log, port } }) => println!("PARSED {log} {port}"),
            Err(error) => println!("PARSED {}", one_line(&error)),
        }
    }

    #[test]
    fn the_environment_counts_as_its_names_say() {
        let (log, level, port) = ("TOCSIN_TEST_LOG", "TOCSIN_TEST_LEVEL", "TOCSIN_TEST_PORT");
        for (env, args, expected) in [
            (&[][..], &[][..], "info 7"),
            (&[(log, "debug"), (port, "9")], &[], "debug 9"),
            // Empty is unset.
            (&[(log, ""), (port, "")], &[], "info 7"),
            (&[(log, ""), (level, "error")], &[], "error 7"),
            (&[(level, "WARNING")], &[], "warn 7"),
            (&[(level, "")], &[], "info 7"),
            (&[(log, "debug"), (level, "error")], &[], "debug 7"),
            (&[(level, "WARNING")], &["--log", "trace"], "trace 7"),
        ] {
            assert_eq!(parsed(env, args), expected, "{env:?} {args:?}");
        }
        let wrong = parsed(&[(port, "x")], &[]);
        assert!(wrong.starts_with("invalid value 'x' for '--port <PORT>'"), "{wrong}");
        assert!(parsed(&[], &["--prot", "1"]).contains("'--port'"));
        let mut command = adapt(Cli::command(), &ALIASES);
        let help = command.find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        assert!(help.contains("[env: TOCSIN_TEST_PORT=]"), "{help}");
    }
}
