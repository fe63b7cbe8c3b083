//! `tocsin check`: the checks, once, in a terminal.
//!
//! A running agent is asked first: it knows what happened before. Without one, the host is looked at
//! once; then errors that have left no trace cannot be seen, and the table says so.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{client, printable, table};
use crate::{
    checks,
    cli::{AgentArgs, CheckArgs, Output},
    config::Config,
    health::{Board, Question},
    host::Paths,
    kernel::Kernel,
    model::FaultView,
};

/// Ready.
const READY: u8 = 0;
/// Not ready.
const NOT_READY: u8 = 1;
/// Could not tell.
const UNKNOWN: u8 = 2;

#[derive(Debug, Deserialize, Serialize)]
struct Answer {
    status: String,
    checks: Vec<Check>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Check {
    name: String,
    passed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    degraded: Option<String>,
}

/// Runs the command.
pub async fn run(args: &CheckArgs) -> ExitCode {
    match ask(args).await {
        Ok((answer, source)) => {
            let shown = match args.output {
                Output::Json => serde_json::to_string(&answer).unwrap_or_default(),
                Output::Table => text(&answer, source),
            };
            println!("{}", shown.trim_end());
            ExitCode::from(if answer.status == "ready" { READY } else { NOT_READY })
        }
        Err(error) => {
            eprintln!("tocsin check: {error:#}");
            ExitCode::from(UNKNOWN)
        }
    }
}

async fn ask(args: &CheckArgs) -> anyhow::Result<(Answer, &'static str)> {
    if let Some(name) = args.names.iter().find(|name| checks::find(name).is_none()) {
        let known: Vec<_> = checks::all().iter().map(|check| check.name).collect();
        bail!("unknown check {name:?}; there are: {}", known.join(", "));
    }
    if !args.local {
        let query = if args.names.is_empty() {
            String::new()
        } else {
            format!("?check={}", args.names.join(","))
        };
        if let Ok((status, body)) = client::get(&args.health_url, &format!("/health{query}")).await
        {
            if !matches!(status.as_u16(), 200 | 503) {
                bail!("the agent answered {status}: {}", String::from_utf8_lossy(&body));
            }
            let answer =
                serde_json::from_slice(&body).context("the answer is not that of an agent")?;
            return Ok((answer, "as the running agent says"));
        }
    }
    look_once(args)
        .await
        .map(|answer| (answer, "looked at once; no agent was asked, so only what shows now"))
}

async fn look_once(args: &CheckArgs) -> anyhow::Result<Answer> {
    let defaults = <AgentArgs as DefaultArgs>::defaults(args)?;
    let config = Config::new(defaults)?;
    let (paths, _own_table) = Paths::new(&config.mount_table);
    let (_commands, commanded) = mpsc::channel(1);
    let (_kernel, published) =
        Kernel::start(&config, &paths, commanded).await.context("read the mount table")?;
    let view = published.faults.borrow().clone();
    if let Some(why) = &view.blind {
        bail!("{why}");
    }
    // Polling is all that a single look does: that is no degradation worth telling.
    let view = FaultView { no_events: None, no_block_events: None, ..(*view).clone() };
    let (_sender, receiver) = tokio::sync::watch::channel(Arc::new(view));
    let board = Board::new(receiver, Some("-"), &config.default_checks, true);
    let answer = board.answer(&Question { checks: args.names.clone(), ..Question::default() })?;
    if let Some(unknown) = answer.checks.iter().find(|check| check.degraded.is_some()) {
        bail!("{}: {}", unknown.name, unknown.degraded.clone().unwrap_or_default());
    }
    serde_json::from_value(serde_json::to_value(&answer)?).context("own answer")
}

/// The agent's defaults, for a single look without eBPF.
trait DefaultArgs: Sized {
    fn defaults(args: &CheckArgs) -> anyhow::Result<Self>;
}

impl DefaultArgs for AgentArgs {
    fn defaults(args: &CheckArgs) -> anyhow::Result<Self> {
        use clap::Parser as _;
        let cli = crate::cli::Cli::try_parse_from(["tocsin", "agent", "--no-ebpf"])?;
        let crate::cli::Command::Agent(agent) = cli.command else { bail!("not the agent's flags") };
        Ok(Self { mount_table: args.mount_table.clone(), ..*agent })
    }
}

fn text(answer: &Answer, source: &str) -> String {
    let rows: Vec<_> = answer
        .checks
        .iter()
        .map(|check| {
            let verdict = if check.passed { "pass" } else { "FAIL" };
            let why = check
                .reason
                .clone()
                .or_else(|| check.degraded.as_ref().map(|why| format!("degraded: {why}")));
            vec![check.name.clone(), verdict.to_owned(), printable(&why.unwrap_or_default())]
        })
        .collect();
    format!("{}\n{} ({source})\n", table(&["CHECK", "VERDICT", "WHY"], &rows), answer.status)
}

/// Long enough for the look and for what it may wait for at start.
pub const DEADLINE: Duration = Duration::from_secs(10);
