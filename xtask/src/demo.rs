//! `cargo xtask demo [NAME]`: the demos of the package `e2e`.

use anyhow::Result;

use crate::cluster;
use crate::release::{build_agent, build_controller};
use crate::setup::{self, Needs};
use crate::workspace::{announce, cargo, check};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to show
    #[arg(value_enum, default_value_t)]
    what: Demo,
}

#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Demo {
    /// Real filesystems break and are repaired while /health is watched
    #[default]
    Agent,
    /// Five agents in network namespaces watch each other: one is unplugged, and the network splits and heals
    Peers,
    /// A Deployment in a real API server breaks and is repaired while a status page asks
    Heartbeat,
    /// A filesystem breaks, the node's remediation begins, a played remediator repairs it, and the remediation ends
    Remediation,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut demo = cargo()?;
    demo.args(["run", "--quiet", "--package", "e2e", "--bin"]);
    match options.what {
        Demo::Agent => {
            let kernel_programs = setup::try_for(Needs::Faults);
            demo.arg("demo").env("TOCSIN_BIN", build_agent(kernel_programs)?);
        }
        Demo::Peers => {
            setup::ensure(Needs::Tests)?;
            demo.arg("demo_peers").env("TOCSIN_BIN", build_agent(false)?);
        }
        Demo::Heartbeat => {
            setup::ensure(Needs::Tests)?;
            demo.arg("demo_heartbeat").env("TOCSIN_CONTROLLER_BIN", build_controller()?);
            if let Some(programs) = cluster::programs() {
                demo.env(cluster::ASSETS, programs);
            }
        }
        Demo::Remediation => {
            setup::ensure(Needs::Tests)?;
            demo.arg("demo_remediation")
                .env("TOCSIN_BIN", build_agent(true)?)
                .env("TOCSIN_CONTROLLER_BIN", build_controller()?);
            if let Some(programs) = cluster::programs() {
                demo.env(cluster::ASSETS, programs);
            }
        }
    }
    announce(&demo);
    check(&mut demo)
}
