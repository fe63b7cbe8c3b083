//! The log: standard error, in a form for people or for machines.
//!
//! Lines are written by a thread of its own. Whoever reads standard error (journald, a container
//! runtime) may hang on the very disk that fails, and a full pipe must not stop the agent: beyond
//! [`LINES`] waiting lines, lines are dropped and counted.

use std::{
    io::{self, IsTerminal},
    sync::Arc,
};

use tracing::Level;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{cli::LogFormat, serve::metrics::LogDropped};

/// Lines that may wait to be written: some hundred kilobytes at worst.
const LINES: usize = 1024;

/// Keeps the writing thread; dropping it writes what waits.
#[derive(Debug)]
pub struct Log {
    _guard: WorkerGuard,
}

/// A filter that cannot be read, in one line.
#[derive(Debug, thiserror::Error)]
#[error("RUST_LOG: {0:?} is not a log filter: {1}")]
pub struct BadFilter(String, String);

/// Starts the log; the second value counts lines that were dropped.
pub fn start(filter: &str, format: LogFormat) -> Result<(Log, LogDropped), BadFilter> {
    let filter = if filter.trim().is_empty() { "info" } else { filter };
    let mut targets: Targets =
        filter.parse().map_err(|error| BadFilter(filter.to_owned(), format!("{error}")))?;
    // A word that is no level is taken for a target, and then nothing is logged at all.
    let is_word = |part: &&str| !part.contains('=') && part.parse::<LevelFilter>().is_err();
    if let Some(word) = filter.split(',').map(str::trim).find(is_word) {
        return Err(BadFilter(
            filter.to_owned(),
            format!("{word:?} is not a level (error, warn, info, debug, trace)"),
        ));
    }
    // aya tells the address of every relocation at "debug": only whoever asks for aya gets that.
    if !filter.contains("aya") {
        targets = targets.with_target("aya", Level::WARN).with_target("aya_obj", Level::WARN);
    }
    // kube warns of what the agent tells itself, once per outage.
    if !filter.contains("kube") {
        targets = targets.with_target("kube_client", LevelFilter::OFF);
    }
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES).finish(io::stderr());
    let dropped = writer.error_counter();
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
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
    let dropped: LogDropped =
        Arc::new(move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX));
    Ok((Log { _guard: guard }, dropped))
}
