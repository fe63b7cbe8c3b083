//! The tables of README.md, rendered from what the agent is made of, so that they cannot say anything else.
//!
//! Pure: text in, text out. `tests/docs.rs` compares, and rewrites when it is asked to.

use clap::{Arg, Command, CommandFactory};

use crate::{
    checks::{self, OnUnknown},
    cli::Cli,
    kernel::{
        hooks::{HOOKS, Wanted},
        reader::kind_name,
    },
    model::FaultKind,
    serve::metrics::DESCRIPTIONS,
};

/// One generated part of a page, between `<!-- generated: NAME -->` and `<!-- end of NAME -->`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// As in the markers.
    pub name: &'static str,
    /// Markdown that ends with a newline.
    pub text: String,
}

/// A page without a section's pair of markers, or with the pair in the wrong order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no `{0}` followed by `{1}`")]
pub struct NoMarkers(String, String);

/// Every generated part, in no particular order.
#[must_use]
pub fn sections() -> Vec<Section> {
    vec![
        Section { name: "checks", text: checks() },
        Section { name: "flags of tocsin agent", text: flags_of(&["agent"]) },
        Section { name: "flags of tocsin check", text: flags_of(&["check"]) },
        Section { name: "flags of tocsin faults", text: flags_of(&["faults"]) },
        Section { name: "flags of tocsin faults clear", text: flags_of(&["faults", "clear"]) },
        Section { name: "metrics", text: metrics() },
        Section { name: "label values", text: label_values() },
        Section { name: "hooks", text: hooks() },
    ]
}

/// The page with every generated part as it should be; everything else stays as it is.
pub fn update(page: &str) -> Result<String, NoMarkers> {
    let mut page = page.to_owned();
    for Section { name, text } in sections() {
        let (begin, end) =
            (format!("<!-- generated: {name} -->"), format!("<!-- end of {name} -->"));
        let split = page
            .split_once(&begin)
            .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
        let Some((before, after)) = split else { return Err(NoMarkers(begin, end)) };
        page = format!("{before}{begin}\n\n{text}\n{end}{after}");
    }
    Ok(page)
}

/// Every environment name that the command line answers to.
#[must_use]
pub fn environment() -> Vec<String> {
    fn collect(command: &Command, names: &mut Vec<String>) {
        let own = command.get_arguments().filter_map(Arg::get_env);
        names.extend(own.map(|name| name.to_string_lossy().into_owned()));
        command.get_subcommands().for_each(|sub| collect(sub, names));
    }
    let mut names = Vec::new();
    collect(&Cli::command(), &mut names);
    names
}

fn checks() -> String {
    let rows = checks::all().iter().map(|check| {
        let unknown = match check.on_unknown {
            OnUnknown::Pass => "passes, `degraded`",
            OnUnknown::Fail => "fails",
        };
        let node_name = if check.needs_node_name { "yes" } else { "no" };
        [code(check.name), check.passes_when.to_owned(), unknown.to_owned(), node_name.to_owned()]
    });
    table(["check", "passes when", "when it cannot tell", "needs `NODE_NAME`"], rows)
}

fn flags_of(path: &[&str]) -> String {
    let mut root = Cli::command();
    root.build();
    let command = path.iter().try_fold(&root, |command, name| command.find_subcommand(name));
    // The log is the agent's; the other commands take its flag and have nothing to log.
    command.map(|command| flags(command, path == ["agent"])).unwrap_or_default()
}

fn flags(command: &Command, globals: bool) -> String {
    let shown = |arg: &&Arg| {
        !matches!(arg.get_id().as_str(), "help" | "version") && (globals || !arg.is_global_set())
    };
    let rows = command.get_arguments().filter(shown).map(flag);
    table(["flag", "environment", "default", "meaning"], rows)
}

fn flag(arg: &Arg) -> [String; 4] {
    let short = arg.get_short().map_or_else(String::new, |short| format!("-{short}, "));
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    // What clap cannot know as a default is told in the help, in clap's own form.
    let told = help.strip_suffix(']').and_then(|help| help.split_once(" [default: "));
    let (help, told) = told.unwrap_or((&help, ""));
    // Not by its action: a switch that may be given a value has that of a switch.
    let takes_value = arg.get_num_args().is_some_and(|count| count.takes_values());
    let default: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = if takes_value && !default.is_empty() {
        code(&default.join(","))
    } else if told.contains([' ', '`']) {
        told.to_owned()
    } else {
        code(told)
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

fn metrics() -> String {
    let rows = DESCRIPTIONS.iter().map(|metric| {
        let (total, kind) = if metric.counter { ("_total", "counter") } else { ("", "gauge") };
        let labels: Vec<_> = metric.labels.iter().copied().map(code).collect();
        [
            code(&format!("tocsin_{}{total}", metric.name)),
            kind.to_owned(),
            labels.join(", "),
            metric.help.to_owned(),
        ]
    });
    table(["metric", "type", "labels", "meaning"], rows)
}

fn label_values() -> String {
    let faults = FaultKind::ALL.map(|kind| [code(kind.name()), code(kind.check())]);
    let events: Vec<_> = tocsin_ebpf::Kind::ALL.map(kind_name).into_iter().map(code).collect();
    format!(
        "{}\nKinds of kernel events: {}.\n",
        table(["kind of fault", "fails the check"], faults),
        events.join(", ")
    )
}

fn hooks() -> String {
    let rows = HOOKS.iter().map(|hook| {
        let wanted = match hook.wanted {
            Wanted::Always => "always".to_owned(),
            Wanted::Instead(other) => format!("where {} is not", code(other)),
            Wanted::MountHooks => format!("with {}", code("MOUNT_HOOKS=syscalls")),
        };
        [code(&hook.name()), wanted, hook.shows.to_owned()]
    });
    table(["tracepoint", "attached", "shows"], rows)
}

fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

fn table<const N: usize>(
    headers: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let line = |cells: [String; N]| {
        // A bar would end the cell, in code as well.
        let cells = cells.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        format!("| {} |\n", cells.join(" | "))
    };
    let head = line(headers.map(str::to_owned));
    let rule = format!("|{}\n", "---|".repeat(N));
    [head, rule].into_iter().chain(rows.into_iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_markers_changes() {
        let part = |Section { name, .. }: &Section| {
            format!("before\n<!-- generated: {name} -->\nOUTDATED\n<!-- end of {name} -->\nafter\n")
        };
        let page = sections().iter().map(part).collect::<Vec<_>>().concat();
        let new = update(&page).unwrap();
        assert!(!new.contains("OUTDATED"));
        assert_eq!(new.matches("before\n").count(), sections().len());
        assert_eq!(update(&new).unwrap(), new);
        let error = update("<!-- end of checks --> <!-- generated: checks -->").unwrap_err();
        assert!(error.to_string().contains("<!-- generated: checks -->"), "{error}");
    }

    #[test]
    fn flags_are_shown_as_they_are_typed() {
        let mut command = Command::new("x").args([
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
            Arg::new("log").long("log").global(true).help("F"),
        ]);
        command.build();
        let text = flags(&command, false);
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
        assert!(flags(&command, true).contains("| `--log <log>` |  |  | F |"));
        assert!(flags_of(&["agent"]).contains("| `--listen-port <PORT>` | `LISTEN_PORT` |"));
        assert_eq!(flags_of(&["no such command"]), "");
    }

    #[test]
    fn a_cell_cannot_break_its_row() {
        let text = table(["a", "b"], [["x|y".to_owned(), "1\n2".to_owned()]]);
        assert_eq!(text, "| a | b |\n|---|---|\n| x\\|y | 1 2 |\n");
    }
}
