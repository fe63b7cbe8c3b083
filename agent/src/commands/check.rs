//! `tocsin check`: the checks, once, in a terminal.
//!
//! A running agent answers, if there is one: it knows what happened before. Otherwise the command looks at the host
//! once. Errors that left no trace cannot be seen that way, and the table says so.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, anyhow, bail};
use tocsin_api::health::{CheckResult, HealthResponse};
use tocsin_runtime::command_line;
use tokio::sync::watch;

use super::{client, print, printable, table};
use crate::{
    checks::{self, OnApiLoss, Policy},
    cli::{ALIASES, AgentArgs, CheckArgs, Cli, Command, KernelArgs, Output},
    cluster,
    config::Config,
    health::{Board, HealthQuery, Sources},
    host::Paths,
    kernel::{self, Channels, settings::Keep, task::Kernel},
    model::BlindSpot,
};

/// Exit code: ready.
const READY: u8 = 0;
/// Exit code: not ready.
const NOT_READY: u8 = 1;
/// Exit code: could not tell.
const UNKNOWN: u8 = 2;

/// Runs the command.
pub async fn run(args: &CheckArgs) -> ExitCode {
    match run_checks(args).await {
        Ok((response, origin)) => {
            match args.output {
                Output::Json => {
                    print(&format!("{}\n", serde_json::to_string(&response).unwrap_or_default()));
                }
                Output::Table => print(&text(&response, origin)),
            }
            ExitCode::from(exit_code(&response, origin))
        }
        Err(error) => {
            let _nobody_reads = writeln!(io::stderr(), "tocsin check: {error:#}");
            ExitCode::from(UNKNOWN)
        }
    }
}

/// Where results come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// An agent that has been watching.
    Agent,
    /// A single look. What it could not tell stays unknown: no policy turns it into a verdict.
    SingleLook,
}

fn exit_code(response: &HealthResponse, origin: Origin) -> u8 {
    let is_degraded = || response.checks.iter().any(|check| check.degraded.is_some());
    if !response.is_ready() {
        NOT_READY
    } else if origin == Origin::SingleLook && is_degraded() {
        UNKNOWN
    } else {
        READY
    }
}

/// Asks the running agent, or looks once where there is none.
async fn run_checks(args: &CheckArgs) -> anyhow::Result<(HealthResponse, Origin)> {
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
                let response =
                    serde_json::from_slice(&body).context("the answer is not that of an agent")?;
                return Ok((response, Origin::Agent));
            }
            Ok((status, body)) => {
                bail!("the agent answered {status}: {}", printable(&String::from_utf8_lossy(&body)))
            }
            // An address that was given explicitly must answer.
            Err(error) if args.health_url.is_some() => return Err(error),
            Err(_) => {}
        }
    }
    look_once(args).await.map(|response| (response, Origin::SingleLook))
}

/// Runs the checks in this process, without eBPF.
async fn look_once(args: &CheckArgs) -> anyhow::Result<HealthResponse> {
    let mut config = Config::new(agent_args(args)?)?;
    // A single look leaves nothing to anybody.
    config.kernel.keep = Keep::default();
    let (paths, _own_table) = Paths::new(&config.mount_table)?;
    let Channels { task, published, commands: _commands } = kernel::channels();
    let _kernel =
        Kernel::start(&config.kernel, &paths, task).await.context("read the mount table")?;
    let mut view = (**published.faults.borrow()).clone();
    // Polling is all that a single look does: that is no degradation worth telling.
    view.blind_spots =
        view.blind_spots.without(BlindSpot::NoEvents).without(BlindSpot::NoBlockEvents);
    let (_sender, receiver) = watch::channel(Arc::new(view));
    // A single look has no policy: what it could not tell is told as that.
    let mut policy = Policy { on_api_loss: OnApiLoss::Open, ..config.policy.clone() };
    if policy.node_name.is_none() && args.names.is_empty() {
        policy.default_checks.retain(|check| !check.needs_node_name());
    }
    let policy = Arc::new(policy);
    let (_runner, probes) = config.probes.start(&policy, &paths).context("start the probes")?;
    let node = match (config.cluster, &policy.node_name) {
        (Some(source), Some(node_name)) => {
            let (mut cluster, node) = cluster::start(cluster::Options {
                source,
                node_name: node_name.clone(),
                policy: policy.clone(),
                publish: None,
                stats: Arc::default(),
                beside: None,
            })?;
            cluster.first_answer().await;
            node
        }
        _ => cluster::not_configured(),
    };
    let board =
        Board::new(Sources { kernel: receiver, node, probes, ..Sources::default() }, policy);
    let query = HealthQuery { checks: args.names.clone(), ..HealthQuery::default() };
    Ok(board.ask(&query).await?)
}

/// The agent's flags for a single look without eBPF, with what its environment says.
fn agent_args(args: &CheckArgs) -> anyhow::Result<AgentArgs> {
    let cli: Cli = command_line::parse(["tocsin", "agent", "--no-ebpf"], &ALIASES)
        .map_err(|error| anyhow!(command_line::one_line(&error)))?;
    let Command::Agent(agent) = cli.command else { bail!("not the agent's flags") };
    let kernel = KernelArgs { mount_table: args.mount_table.clone(), ..agent.kernel };
    Ok(AgentArgs { kernel, ..*agent })
}

fn text(response: &HealthResponse, origin: Origin) -> String {
    let row = |check: &CheckResult| {
        let verdict = match (check.passed, origin, &check.degraded) {
            (false, ..) => "FAIL",
            (true, Origin::SingleLook, Some(_)) => "unknown",
            (true, ..) => "pass",
        };
        let degraded = check.degraded.as_ref().map(|why| format!("degraded: {why}"));
        let why = check.reason.clone().or(degraded).unwrap_or_default();
        vec![check.name.clone(), verdict.to_owned(), printable(&why)]
    };
    let rows: Vec<_> = response.checks.iter().map(row).collect();
    let origin = match origin {
        Origin::Agent => "as the running agent says",
        Origin::SingleLook => "looked at once; no agent was asked, so only what shows now",
    };
    let status = response.status.name();
    format!("{}\n{status} ({origin})\n", table(&["CHECK", "VERDICT", "WHY"], &rows))
}
