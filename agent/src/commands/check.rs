//! `tocsin check`: the checks, once, in a terminal.
//!
//! A running agent is asked first: it knows what happened before. Without one, the host is looked at
//! once; then errors that have left no trace cannot be seen, and the table says so.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::{client, print, printable, table};
use crate::{
    checks::{self, OnApiLoss, Policy},
    cli::{AgentArgs, CheckArgs, Cli, Command, Output, one_line},
    cluster::{self, Cluster},
    config::Config,
    health::{Board, Question},
    host::Paths,
    kernel::task::Kernel,
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
            match args.output {
                Output::Json => {
                    print(&format!("{}\n", serde_json::to_string(&answer).unwrap_or_default()));
                }
                Output::Table => print(&text(&answer, source)),
            }
            ExitCode::from(exit_code(&answer, source))
        }
        Err(error) => {
            let _nobody_reads = writeln!(io::stderr(), "tocsin check: {error:#}");
            ExitCode::from(UNKNOWN)
        }
    }
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// An agent that has been watching.
    Agent,
    /// A single look: what it could not tell is not for a policy to decide.
    Look,
}

fn exit_code(answer: &Answer, source: Source) -> u8 {
    if answer.status != "ready" {
        NOT_READY
    } else if source == Source::Look && answer.checks.iter().any(|check| check.degraded.is_some()) {
        UNKNOWN
    } else {
        READY
    }
}

async fn ask(args: &CheckArgs) -> anyhow::Result<(Answer, Source)> {
    if let Some(name) = args.names.iter().find(|name| checks::find(name).is_none()) {
        let known: Vec<_> = checks::all().iter().map(|check| check.name).collect();
        bail!("unknown check {name:?}; there are: {}", known.join(", "));
    }
    if !args.local {
        let any = args.listen_addr.is_unspecified();
        let host = if any { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { args.listen_addr };
        let default = format!("http://{}", SocketAddr::new(host, args.listen_port));
        let url = args.health_url.as_ref().unwrap_or(&default);
        let query = match args.names.as_slice() {
            [] => String::new(),
            names => format!("?check={}", names.join(",")),
        };
        match client::get(url, &format!("/health{query}")).await {
            Ok((status, body)) if matches!(status.as_u16(), 200 | 503) => {
                let answer =
                    serde_json::from_slice(&body).context("the answer is not that of an agent")?;
                return Ok((answer, Source::Agent));
            }
            Ok((status, body)) => {
                bail!("the agent answered {status}: {}", printable(&String::from_utf8_lossy(&body)))
            }
            // An address that somebody gave must answer.
            Err(error) if args.health_url.is_some() => return Err(error),
            Err(_) => {}
        }
    }
    look_once(args).await.map(|answer| (answer, Source::Look))
}

async fn look_once(args: &CheckArgs) -> anyhow::Result<Answer> {
    let config = Config::new(agent_args(args)?)?;
    let (paths, _own_table) = Paths::new(&config.mount_table)?;
    let (_commands, commanded) = mpsc::channel(1);
    let (_kernel, published) =
        Kernel::start(&config.kernel, &paths, commanded).await.context("read the mount table")?;
    let view = published.faults.borrow().clone();
    // Polling is all that a single look does: that is no degradation worth telling.
    let view = FaultView { no_events: None, no_block_events: None, ..(*view).clone() };
    let (_sender, receiver) = watch::channel(Arc::new(view));
    // A single look has no policy: what it could not tell is told as that.
    let mut policy = Policy { on_api_loss: OnApiLoss::Open, ..config.policy.clone() };
    if policy.node_name.is_none() && args.names.is_empty() {
        policy.default_checks.retain(|check| !check.needs_node_name);
    }
    let policy = Arc::new(policy);
    let (_runner, probes) = config.probes.start(&policy, &paths).context("start the probes")?;
    let node = match (config.cluster, &policy.node_name) {
        (Some(source), Some(node_name)) => {
            let (mut cluster, node) = Cluster::start(cluster::Start {
                source,
                node_name: node_name.clone(),
                policy: policy.clone(),
                publish: None,
                stats: Arc::default(),
            })?;
            cluster.first_word().await;
            node
        }
        _ => cluster::none(),
    };
    let board = Board::new(receiver, node, probes, policy);
    let answer = board.ask(&Question { checks: args.names.clone(), ..Question::default() }).await?;
    serde_json::from_value(serde_json::to_value(&answer)?).context("own answer")
}

/// The agent's flags for a single look without eBPF, with what its environment says.
fn agent_args(args: &CheckArgs) -> anyhow::Result<AgentArgs> {
    let cli = Cli::try_parse_from(["tocsin", "agent", "--no-ebpf"])
        .map_err(|error| anyhow!(one_line(&error)))?;
    let Command::Agent(agent) = cli.command else { bail!("not the agent's flags") };
    Ok(AgentArgs { mount_table: args.mount_table.clone(), ..*agent })
}

fn text(answer: &Answer, source: Source) -> String {
    let rows: Vec<_> = answer
        .checks
        .iter()
        .map(|check| {
            let verdict = match (check.passed, source, &check.degraded) {
                (false, ..) => "FAIL",
                (true, Source::Look, Some(_)) => "unknown",
                (true, ..) => "pass",
            };
            let degraded = check.degraded.as_ref().map(|why| format!("degraded: {why}"));
            let why = check.reason.clone().or(degraded).unwrap_or_default();
            vec![check.name.clone(), verdict.to_owned(), printable(&why)]
        })
        .collect();
    let source = match source {
        Source::Agent => "as the running agent says",
        Source::Look => "looked at once; no agent was asked, so only what shows now",
    };
    format!("{}\n{} ({source})\n", table(&["CHECK", "VERDICT", "WHY"], &rows), answer.status)
}
