//! What was typed for any role.

use std::ffi::OsString;

use clap::Args;
use tocsin_runtime::log::Format;

/// What every role has.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Kubeconfig files of the cluster [default: in a pod, its service account]
    #[arg(long, env = "KUBECONFIG", value_name = "PATHS")]
    pub kubeconfig: Option<OsString>,
    /// How to write the log; auto is human on a terminal and JSON elsewhere
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: Format,
    /// What to log: a level, or `target=level` pairs with commas (also `LOG_LEVEL`)
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}
