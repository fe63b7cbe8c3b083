//! The tables of `docs/` that describe the agent, rendered from what the agent is made of.

use clap::CommandFactory;
use tocsin::{
    checks::{self, OnUnknown},
    cli::Cli,
    kernel::{
        hooks::{HOOKS, Wanted},
        reader::kind_name,
    },
    model::FaultKind,
    serve::metrics::DESCRIPTIONS,
};
use tocsin_docgen::{Globals, Metric, Page, Section, code, flags, metrics, table};
use tocsin_ebpf::Kind;

/// Every page with generated tables about the agent.
pub(crate) fn pages() -> Vec<Page> {
    let flags_of =
        |name, path: &[&str], globals| Section { name, text: flags(Cli::command(), path, globals) };
    vec![
        Page {
            path: "docs/checks.md",
            sections: vec![
                Section { name: "checks", text: checks() },
                Section { name: "kinds of faults", text: fault_kinds() },
            ],
        },
        Page {
            path: "docs/configuration.md",
            sections: vec![
                flags_of("flags of tocsin agent", &["agent"], Globals::Shown),
                // The other commands take the flag of the log and have nothing to log.
                flags_of("flags of tocsin check", &["check"], Globals::Hidden),
                flags_of("flags of tocsin faults", &["faults"], Globals::Hidden),
                flags_of("flags of tocsin faults clear", &["faults", "clear"], Globals::Hidden),
            ],
        },
        Page {
            path: "docs/metrics.md",
            sections: vec![
                Section { name: "metrics", text: metrics(metrics_of_the_agent()) },
                Section { name: "label values", text: label_values() },
            ],
        },
        Page { path: "docs/kernel.md", sections: vec![Section { name: "hooks", text: hooks() }] },
    ]
}

/// Every metric by its whole name.
pub(crate) fn metrics_of_the_agent() -> impl Iterator<Item = Metric<'static>> {
    DESCRIPTIONS.iter().map(|metric| {
        let (total, kind) = if metric.counter { ("_total", "counter") } else { ("", "gauge") };
        Metric {
            name: format!("tocsin_{}{total}", metric.name),
            kind,
            labels: metric.labels,
            help: metric.help,
        }
    })
}

fn checks() -> String {
    let rows = checks::all().iter().map(|check| {
        let unknown = match check.on_unknown {
            OnUnknown::Pass => "passes, `degraded`",
            OnUnknown::Fail => "fails",
        };
        let node_name = if check.needs_node_name() { "yes" } else { "no" };
        [code(check.name), check.passes_when.to_owned(), unknown.to_owned(), node_name.to_owned()]
    });
    table(["check", "passes when", "when it cannot tell", "needs `NODE_NAME`"], rows)
}

fn fault_kinds() -> String {
    let rows = FaultKind::ALL.map(|kind| [code(kind.name()), code(kind.check())]);
    table(["kind of fault", "fails the check"], rows)
}

fn label_values() -> String {
    let of_faults: Vec<_> = FaultKind::ALL.map(|kind| code(kind.name())).into();
    let of_events: Vec<_> = Kind::ALL.map(kind_name).into_iter().map(code).collect();
    table(
        ["metrics", "values of `kind`"],
        [
            ["`tocsin_faults_*`".to_owned(), of_faults.join(", ")],
            ["`tocsin_kernel_events_total`".to_owned(), of_events.join(", ")],
        ],
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
