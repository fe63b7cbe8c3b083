//! `tocsin faults`: the faults and counters of a running agent.

use anyhow::bail;
use tocsin_api::faults::{Counter, Fault, FaultsResponse};

use super::{client, print, printable, table};
use crate::cli::{FaultsAction, FaultsArgs};

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
    let answer = client::ask::<FaultsResponse>(&args.admin_url, "/faults", args.output).await?;
    let Some(response) = answer else { return Ok(()) };
    print(&text(&response));
    Ok(())
}

fn text(response: &FaultsResponse) -> String {
    let node = response.node.as_deref().unwrap_or("this host");
    let mut text = match response.faults.len() {
        0 => format!("{node}: no open faults\n"),
        1 => format!("{node}: 1 open fault\n\n"),
        n => format!("{node}: {n} open faults\n\n"),
    };
    if !response.faults.is_empty() {
        text.push_str(&faults(&response.faults));
    }
    if !response.counters.is_empty() {
        text.push_str(&counters(&response.counters));
    }
    let is_worth_telling = |state: &str| state != "attached" && state != "disabled";
    for hook in response.hooks.iter().filter(|hook| is_worth_telling(&hook.state)) {
        let detail = printable(&hook.detail);
        text.push_str(&format!("\nhook {} is {}: {detail}", hook.name, hook.state));
    }
    for why in &response.degraded {
        text.push_str(&format!("\ndegraded: {}\n", printable(why)));
    }
    text
}

/// A table of faults, and what each rests on.
fn faults(faults: &[Fault]) -> String {
    let row = |fault: &Fault| {
        let Fault { id, scope, count, opened, reason, .. } = fault;
        vec![id.clone(), scope.clone(), count.to_string(), opened.clone(), printable(reason)]
    };
    let rows: Vec<_> = faults.iter().map(row).collect();
    let mut text = table(&["ID", "SCOPE", "COUNT", "SINCE", "REASON"], &rows);
    for fault in faults {
        text.push_str(&format!("\n{}: {}\n", fault.id, printable(&fault.evidence.join("; "))));
    }
    text.push_str("\nclose one by hand: tocsin faults clear ID\n");
    text
}

/// A table of what the kernel counted.
fn counters(counters: &[Counter]) -> String {
    let row = |counter: &Counter| {
        let Counter { kind, device, device_name, errno, count, suppressed, dropped } = counter;
        let device = format!("{device} {device_name}").trim().to_owned();
        let lost = format!("{suppressed}/{dropped}");
        vec![kind.clone(), device, errno.clone(), count.to_string(), lost]
    };
    let rows: Vec<_> = counters.iter().map(row).collect();
    let headers = ["KIND", "DEVICE", "ERRNO", "COUNT", "SUPPRESSED/DROPPED"];
    let title = "\nkernel events since the agent started (harmless ones too)\n";
    format!("{title}{}", table(&headers, &rows))
}
