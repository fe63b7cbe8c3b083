//! `tocsin faults`: what a running agent has found wrong.

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{client, print, printable, table};
use crate::cli::{FaultsAction, FaultsArgs, Output};

#[derive(Debug, Deserialize)]
struct Body {
    node: Option<String>,
    faults: Vec<Fault>,
    counters: Vec<Counter>,
    hooks: Vec<Hook>,
    degraded: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    id: String,
    scope: String,
    count: u64,
    opened: String,
    reason: String,
    evidence: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Counter {
    kind: String,
    device: String,
    device_name: String,
    errno: String,
    count: u64,
    suppressed: u64,
    dropped: u64,
}

#[derive(Debug, Deserialize)]
struct Hook {
    name: String,
    state: String,
    detail: String,
}

/// Runs the command.
pub async fn run(args: &FaultsArgs) -> anyhow::Result<()> {
    if let Some(FaultsAction::Clear { id, control_socket }) = &args.action {
        // An id is letters, digits, `_`, `-` and `:`; anything else cannot be one.
        let is_id = |c: char| c.is_ascii_alphanumeric() || "_-:".contains(c);
        if id.is_empty() || !id.chars().all(is_id) {
            bail!("{id:?} is not the id of a fault");
        }
        let (status, _) = client::post(control_socket, &format!("/faults/{id}/clear")).await?;
        return match status.as_u16() {
            200 => {
                print(&format!("{id} cleared\n"));
                Ok(())
            }
            404 => bail!("no open fault has the id {id}"),
            status => bail!("the agent answered {status}"),
        };
    }
    let (status, body) = client::get(&args.admin_url, "/faults")
        .await
        .context("no agent answered; is it running? (--admin-url says where)")?;
    if !status.is_success() {
        bail!("the agent answered {status}");
    }
    if args.output == Output::Json {
        print(&format!("{}\n", String::from_utf8_lossy(&body)));
        return Ok(());
    }
    let body: Body = serde_json::from_slice(&body).context("the answer is not that of an agent")?;
    print(&text(&body));
    Ok(())
}

fn text(body: &Body) -> String {
    let node = body.node.as_deref().unwrap_or("this host");
    let mut text = match body.faults.len() {
        0 => format!("{node}: no open faults\n"),
        1 => format!("{node}: 1 open fault\n\n"),
        n => format!("{node}: {n} open faults\n\n"),
    };
    if !body.faults.is_empty() {
        let rows: Vec<_> = body
            .faults
            .iter()
            .map(|f| {
                vec![
                    f.id.clone(),
                    f.scope.clone(),
                    f.count.to_string(),
                    f.opened.clone(),
                    printable(&f.reason),
                ]
            })
            .collect();
        text.push_str(&table(&["ID", "SCOPE", "COUNT", "SINCE", "REASON"], &rows));
        for fault in &body.faults {
            text.push_str(&format!("\n{}: {}\n", fault.id, printable(&fault.evidence.join("; "))));
        }
        text.push_str("\nclose one by hand: tocsin faults clear ID\n");
    }
    if !body.counters.is_empty() {
        let rows: Vec<_> = body
            .counters
            .iter()
            .map(|c| {
                let device = format!("{} {}", c.device, c.device_name);
                let lost = format!("{}/{}", c.suppressed, c.dropped);
                vec![
                    c.kind.clone(),
                    device.trim().to_owned(),
                    c.errno.clone(),
                    c.count.to_string(),
                    lost,
                ]
            })
            .collect();
        text.push_str("\nkernel events since the agent started (harmless ones too)\n");
        text.push_str(&table(&["KIND", "DEVICE", "ERRNO", "COUNT", "SUPPRESSED/DROPPED"], &rows));
    }
    for hook in
        body.hooks.iter().filter(|hook| hook.state != "attached" && hook.state != "disabled")
    {
        text.push_str(&format!(
            "\nhook {} is {}: {}",
            hook.name,
            hook.state,
            printable(&hook.detail)
        ));
    }
    for why in &body.degraded {
        text.push_str(&format!("\ndegraded: {}\n", printable(why)));
    }
    text
}
