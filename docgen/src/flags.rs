//! The table of a command's flags, from clap's own description of it.

use clap::{Arg, Command};

use crate::table::{code, table};

/// Whether a table shows the flags that every command of the program has (`--log`, say).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Globals {
    /// It does: for the program's main command.
    Shown,
    /// It does not: for commands that do nothing with them.
    Hidden,
}

/// The table of the flags of the command that `path` leads to below `root`: `["faults", "clear"]` of `tocsin` is
/// `tocsin faults clear`. Empty where there is no such command.
#[must_use]
pub fn flags(mut root: Command, path: &[&str], globals: Globals) -> String {
    root.build();
    let command = path.iter().try_fold(&root, |command, name| command.find_subcommand(name));
    command.map(|command| rows(command, globals)).unwrap_or_default()
}

/// The environment variables that `root` and all commands below it read.
#[must_use]
pub fn environment(root: &Command) -> Vec<String> {
    let own = root.get_arguments().filter_map(Arg::get_env);
    let own = own.map(|name| name.to_string_lossy().into_owned());
    own.chain(root.get_subcommands().flat_map(environment)).collect()
}

fn rows(command: &Command, globals: Globals) -> String {
    let is_shown = |arg: &&Arg| {
        !matches!(arg.get_id().as_str(), "help" | "version")
            && (globals == Globals::Shown || !arg.is_global_set())
    };
    let rows = command.get_arguments().filter(is_shown).map(row);
    table(["flag", "environment", "default", "meaning"], rows)
}

fn row(arg: &Arg) -> [String; 4] {
    let short = arg.get_short().map_or_else(String::new, |short| format!("-{short}, "));
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    // A default that clap does not know of is at the end of the help text, in the form that clap itself uses.
    let in_help = help.strip_suffix(']').and_then(|help| help.split_once(" [default: "));
    let (help, default_in_help) = in_help.unwrap_or((&help, ""));
    // The action does not tell: a switch that may be given a value has the action of a switch.
    let takes_value = arg.get_num_args().is_some_and(|count| count.takes_values());
    let default: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = if takes_value && !default.is_empty() {
        code(&default.join(","))
    } else if default_in_help.contains([' ', '`']) {
        default_in_help.to_owned()
    } else {
        code(default_in_help)
    };
    let values: Vec<_> =
        arg.get_possible_values().iter().map(|value| code(value.get_name())).collect();
    let values = if takes_value && !values.is_empty() && !arg.is_hide_possible_values_set() {
        format!(" ({})", values.join(", "))
    } else {
        String::new()
    };
    [
        code(&format!("{short}{arg}")),
        arg.get_env().map(|name| code(&name.to_string_lossy())).unwrap_or_default(),
        default,
        format!("{help}{values}"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Command {
        let run = Command::new("run").args([
            Arg::new("port").long("port").env("PORT").value_name("N").default_value("1").help("A"),
            Arg::new("yes")
                .long("yes")
                .action(clap::ArgAction::SetTrue)
                .num_args(0..=1)
                .require_equals(true)
                .value_name("B")
                .default_value("false")
                .hide_possible_values(true),
            Arg::new("names").num_args(0..).help("B [default: all of them]"),
            Arg::new("set").long("set").help("C [default: a,b]"),
            Arg::new("out").short('o').long("out").value_parser(["x", "y"]).help("D"),
            Arg::new("quick").long("quick").action(clap::ArgAction::SetTrue).help("E"),
        ]);
        let log = Arg::new("log").long("log").env("LOG").global(true).help("F");
        Command::new("x").arg(log).subcommand(run)
    }

    #[test]
    fn flags_are_shown_as_they_are_typed() {
        let text = flags(program(), &["run"], Globals::Hidden);
        let rows: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| `--port <N>` | `PORT` | `1` | A |",
                "| `--yes[=<B>]` |  | `false` |  |",
                "| `[names]...` |  | all of them | B |",
                "| `--set <set>` |  | `a,b` | C |",
                "| `-o, --out <out>` |  |  | D (`x`, `y`) |",
                "| `--quick` |  |  | E |",
            ]
        );
        let text = flags(program(), &["run"], Globals::Shown);
        assert!(text.contains("| `--log <log>` | `LOG` |  | F |"));
        assert_eq!(flags(program(), &["no such command"], Globals::Shown), "");
    }

    #[test]
    fn the_environment_of_every_command_is_known() {
        assert_eq!(environment(&program()), ["LOG", "PORT"]);
    }
}
