//! The tables of `docs/` that describe the agent, rendered from what the agent is made of.

use std::{sync::Arc, time::Instant};

use clap::CommandFactory;
use tocsin::{
    checks::{self, CheckContext, CheckSource, OnUnknown},
    cli::Cli,
    kernel::ebpf::{
        hooks::{HOOKS, Wanted},
        reader::kind_name,
    },
    model::{BlindSpot, BlindSpots, FaultKind, FaultView, Outcome},
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
                Section { name: "blind spots", text: blind_spots() },
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
    DESCRIPTIONS.iter().map(|metric| Metric {
        name: metric.full_name(),
        kind: metric.kind.name(),
        labels: metric.labels,
        help: metric.help,
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

/// What each kernel check says while the kernel side has that blind spot alone.
fn blind_spots() -> String {
    let kernel_checks =
        || checks::all().iter().filter(|check| matches!(check.source, CheckSource::Kernel(_)));
    let rows = BlindSpot::ALL.map(|spot| {
        let blind_spots = BlindSpots::from_iter([(spot, "…".to_owned())]);
        let kernel = Arc::new(FaultView { blind_spots, ..FaultView::default() });
        let context = CheckContext { kernel, ..CheckContext::new(Arc::default(), Instant::now()) };
        let texts = kernel_checks().filter_map(|check| match context.outcome(check) {
            Outcome::Degraded(text) | Outcome::Unknown(text) => Some((check.name, text)),
            Outcome::Pass | Outcome::Fail(_) => None,
        });
        let says = texts.map(|(check, text)| format!("{}: {text}", code(check)));
        let says: Vec<_> = says.collect();
        [code(spot.name()), unseen(spot).to_owned(), says.join("; ")]
    });
    table(["blind spot", "what cannot be seen", "which checks say so, and how"], rows)
}

/// A new kind of blind spot has to be described here.
fn unseen(spot: BlindSpot) -> &'static str {
    match spot {
        BlindSpot::Blind => "anything: the mount table cannot be read",
        BlindSpot::NoEvents => "kernel events: eBPF cannot be used",
        BlindSpot::NoBlockEvents => "failed requests of disks",
        BlindSpot::HooksFailed => "what a hook that could not be attached would show",
        BlindSpot::Unwatched => "filesystems whose line or devices are not understood",
        BlindSpot::Unprobed => "whether a filesystem can still be written after an event on it",
        BlindSpot::Missed => {
            "what events told that were missed, until everything has been looked at"
        }
    }
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
