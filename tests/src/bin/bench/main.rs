//! Measures the budgets of the design on this machine, with real faults.
//!
//! `bench [detect] [storm] [idle] [start] [size] [flips] [nodes] [requests] [probes]
//! [haproxy] [http] [--quick]`; all of them without arguments. Numbers of a
//! busy machine are what they are, so only a budget missed tenfold is an error.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "it measures, or panics")]

mod cluster;
mod detect;
mod haproxy;
mod http;
mod idle;
mod probes;
mod report;
mod storm;

use std::process::ExitCode;

use e2e::Sandbox;

use crate::report::Report;

/// How much of everything.
#[derive(Clone, Copy)]
struct Scale {
    injections: usize,
    storm_errors: u64,
    storm_injections: usize,
    idle_seconds: u64,
    starts: usize,
    flips: usize,
    probe_seconds: u64,
    haproxy_faults: usize,
    http_rounds: usize,
    http_seconds: u64,
}

const FULL: Scale = Scale {
    injections: 1000,
    storm_errors: 1_000_000,
    storm_injections: 100,
    idle_seconds: 60,
    starts: 20,
    flips: 100,
    probe_seconds: 600,
    haproxy_faults: 200,
    http_rounds: 9,
    http_seconds: 3,
};

const QUICK: Scale = Scale {
    injections: 100,
    storm_errors: 100_000,
    storm_injections: 20,
    idle_seconds: 5,
    starts: 5,
    flips: 20,
    probe_seconds: 10,
    haproxy_faults: 30,
    http_rounds: 3,
    http_seconds: 1,
};

type Measurement = fn(&Sandbox, Scale, &mut Report);

const MEASUREMENTS: [(&str, Measurement); 11] = [
    ("size", idle::size),
    ("start", idle::start),
    ("detect", detect::run),
    ("storm", storm::run),
    ("idle", idle::run),
    ("flips", cluster::flips),
    ("nodes", cluster::many_nodes),
    ("requests", cluster::requests),
    ("probes", probes::run),
    ("haproxy", haproxy::run),
    ("http", http::run),
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
