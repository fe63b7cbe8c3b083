//! The log: standard error, in a form for people or for machines.
//!
//! A thread of its own writes the lines. The reader of standard error (journald, a container runtime) may hang on the
//! very disk that fails, and a full pipe must not stop the process: beyond [`LINES`] waiting lines, lines are dropped
//! and counted.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
};

use clap::ValueEnum;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
pub use tracing_subscriber::filter::LevelFilter as Level;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// Lines that may wait to be written: some hundred kilobytes at worst.
pub const LINES: usize = 1024;

/// Targets that are quiet unless the filter names them, in every program.
const QUIET: [Quiet; 1] = [
    // kube warns of every failed request; the programs tell a loss themselves, once.
    ("kube_client", Level::OFF),
];

/// A target (with every target that begins like it) and the level that it has unless the filter names it.
pub type Quiet = (&'static str, Level);

/// Log formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// By whether standard error is a terminal.
    #[default]
    Auto,
    /// One line of text each.
    Human,
    /// One JSON object each.
    Json,
}

/// Reads how many lines the log has dropped, for a metric.
pub type DroppedLines = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Keeps the writing thread; dropping it writes the lines that wait.
#[derive(Debug)]
pub struct Log {
    _guard: WorkerGuard,
}

/// A filter that cannot be read, in one line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("RUST_LOG: {0:?} is not a log filter: {1}")]
pub struct BadFilter(String, String);

/// Starts the log of this process; the second value counts the dropped lines.
///
/// `filter` is a level, or `target=level` pairs with commas; an empty one means `info`. `quiet` are targets of this
/// program's own libraries that say too much at the level that the filter gives to everything.
pub fn start(
    filter: &str,
    format: Format,
    quiet: &[Quiet],
) -> Result<(Log, DroppedLines), BadFilter> {
    let targets = targets(filter, quiet)?;
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).finish(io::stderr());
    let dropped = writer.error_counter();
    let human = match format {
        Format::Human => true,
        Format::Json => false,
        Format::Auto => io::stderr().is_terminal(),
    };
    let layer = if human {
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        tracing_subscriber::fmt::layer()
            .with_writer(writer)
            .with_ansi(colours)
            .with_target(false)
            .boxed()
    } else {
        tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(writer)
            .boxed()
    };
    tracing_subscriber::registry().with(layer.with_filter(targets)).init();
    let dropped: DroppedLines =
        Arc::new(move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX));
    Ok((Log { _guard: guard }, dropped))
}

/// The level of every target.
fn targets(filter: &str, quiet: &[Quiet]) -> Result<Targets, BadFilter> {
    let filter = if filter.trim().is_empty() { "info" } else { filter };
    let bad = |why: String| BadFilter(filter.to_owned(), why);
    let mut targets: Targets = filter.parse().map_err(|error| bad(format!("{error}")))?;
    let parts = || filter.split(',').map(str::trim);
    // tracing-subscriber takes a word that is no level for a target, and then nothing is logged at all.
    let is_level = |part: &str| part.parse::<Level>().is_ok();
    if let Some(word) = parts().find(|part| !part.contains('=') && !is_level(part)) {
        return Err(bad(format!("{word:?} is not a level (error, warn, info, debug, trace)")));
    }
    let named: Vec<_> = parts().filter_map(|part| Some(part.split_once('=')?.0)).collect();
    for (target, level) in QUIET.iter().chain(quiet) {
        if !named.iter().any(|name| target.starts_with(name)) {
            targets = targets.with_target(*target, *level);
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use tracing::Level as EventLevel;

    use super::*;

    #[test]
    fn a_noisy_target_is_quiet_unless_the_filter_names_it() {
        let quiet = [("aya", Level::WARN)];
        // (filter, target, level, whether it is logged)
        for (filter, target, level, expected) in [
            ("", "tocsin::app", EventLevel::INFO, true),
            ("", "tocsin::app", EventLevel::DEBUG, false),
            ("debug", "aya::maps", EventLevel::DEBUG, false),
            ("debug", "aya_obj::btf", EventLevel::WARN, true),
            ("debug", "kube_client::client", EventLevel::ERROR, false),
            ("info,aya=debug", "aya_obj::btf", EventLevel::DEBUG, true),
            ("info,kube=warn", "kube_client::client", EventLevel::WARN, true),
            ("warn,tocsin=debug", "tocsin::app", EventLevel::DEBUG, true),
        ] {
            let targets = targets(filter, &quiet).unwrap();
            assert_eq!(targets.would_enable(target, &level), expected, "{filter:?} {target}");
        }
    }

    #[test]
    fn what_is_no_filter_is_an_error() {
        for filter in ["inf", "info,tocsin", "tocsin=loud", "a=b=c"] {
            let error = targets(filter, &[]).unwrap_err().to_string();
            assert!(error.starts_with("RUST_LOG: ") && !error.contains('\n'), "{error}");
        }
    }
}
