//! Measures the budgets of the design on this machine, with real faults.
//!
//! `bench [NAME]... [--quick]` runs the measurements of these names, or all of them. A busy machine has bad numbers, so
//! only a budget that is missed tenfold is an error.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "it measures, or panics")]

mod cluster;
mod detect;
mod haproxy;
mod heartbeat;
mod http;
mod idle;
mod mesh;
mod probes;
mod remediation;
mod report;
mod scale;
mod storm;

use std::process::ExitCode;

use e2e::Sandbox;

use crate::report::Report;
use crate::scale::{FULL, QUICK, Scale};

/// Adds its figures to the report.
type Measurement = fn(&Sandbox, Scale, &mut Report);

const MEASUREMENTS: [(&str, Measurement); 15] = [
    ("size", idle::size),
    ("start", idle::start),
    ("detect", detect::run),
    ("storm", storm::run),
    ("idle", idle::run),
    ("mesh", mesh::run),
    ("flips", cluster::flips),
    ("nodes", cluster::many_nodes),
    ("requests", cluster::requests),
    ("probes", probes::run),
    ("haproxy", haproxy::run),
    ("http", http::run),
    ("heartbeat", heartbeat::run),
    ("loop", remediation::closed_loop),
    ("remediation", remediation::fleet),
];

fn main() -> ExitCode {
    let (mut wanted, mut scale) = (Vec::new(), FULL);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => scale = QUICK,
            name if MEASUREMENTS.iter().any(|(known, _)| *known == name) => wanted.push(argument),
            _ => {
                let names = MEASUREMENTS.map(|(name, _)| name).join(" | ");
                eprintln!("{argument}: not one of {names} | --quick");
                return ExitCode::from(2);
            }
        }
    }
    let Some(sandbox) = Sandbox::new_unwatched() else { return ExitCode::FAILURE };
    let mut report = Report::default();
    for (name, measure) in MEASUREMENTS {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            eprintln!("{name} ...");
            measure(&sandbox, scale, &mut report);
        }
    }
    report.print();
    if report.is_acceptable() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
