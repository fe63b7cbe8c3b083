//! What was typed for the heartbeat.

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, ValueEnum, builder::BoolishValueParser};

use super::defaults;
use crate::args::CommonArgs;

/// `tocsin-controller heartbeat`
#[derive(Clone, Debug, Args)]
pub struct HeartbeatArgs {
    /// What every role has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address of the API's listener
    #[arg(long, env = "LISTEN_ADDR", default_value_t = defaults::LISTEN_ADDR, value_name = "IP")]
    pub listen_addr: IpAddr,
    /// Port of the API's listener; 0 for any
    #[arg(long, env = "PORT", default_value_t = defaults::PORT, value_name = "PORT")]
    pub port: u16,
    /// Address of the admin listener: /metrics, /livez and /readyz
    #[arg(long, env = "ADMIN_ADDR", default_value_t = defaults::LISTEN_ADDR, value_name = "IP")]
    pub admin_addr: IpAddr,
    /// Port of the admin listener; 0 for any
    #[arg(long, env = "ADMIN_PORT", default_value_t = defaults::ADMIN_PORT, value_name = "PORT")]
    pub admin_port: u16,
    /// Whether a request has to show a token
    #[arg(long, env = "HEARTBEAT_AUTH", value_enum, default_value_t, value_name = "HOW")]
    pub auth: Auth,
    /// The token that a request has to show
    #[arg(long, env = "AUTH_TOKEN_BASIC", hide_env_values = true, value_name = "TOKEN")]
    pub auth_token_basic: Option<String>,
    /// A file with a token a line, each with the namespaces that it is good for behind it, if not for all; read again when it changes
    #[arg(long, env = "AUTH_TOKEN_FILE", value_name = "PATH")]
    pub auth_token_file: Option<PathBuf>,
    /// Requests per client and period; 0 refuses all of them
    #[arg(long, env = "RATE_LIMIT", default_value_t = defaults::RATE_LIMIT, allow_negative_numbers = true, value_name = "COUNT")]
    pub rate_limit: i64,
    /// The period, such as 30s, 1h or 1h30m; 0s limits nothing
    #[arg(long, env = "RATE_LIMIT_PERIOD", default_value = "1h", value_name = "TIME")]
    pub rate_limit_period: String,
    /// Networks of proxies whose X-Forwarded-For names the client, with commas, such as `10.0.0.0/8,fd00::/8`
    #[arg(
        long,
        env = "TRUSTED_PROXIES",
        default_value = "",
        hide_default_value = true,
        value_name = "CIDRS"
    )]
    pub trusted_proxies: String,
    /// Keep to the status codes and empty bodies of k8s-controller-heartbeat; false for 404, 502, 503 and JSON
    #[arg(long, env = "HEARTBEAT_COMPAT", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "true", value_name = "BOOL", hide_possible_values = true, action = clap::ArgAction::Set)]
    pub compat: bool,
    /// How long a Warning event about a pod counts
    #[arg(long, env = "HEARTBEAT_EVENT_WINDOW", default_value = "10m", value_name = "TIME")]
    pub event_window: String,
    /// Namespaces whose badges need no token, with commas; * for all
    #[arg(
        long,
        env = "BADGE_NAMESPACES",
        default_value = "",
        hide_default_value = true,
        value_name = "NAMES"
    )]
    pub badge_namespaces: String,
    /// Certificate chain (PEM) for TLS on the API's listener; read again when it changes
    #[arg(long, env = "TLS_CERT", value_name = "PATH")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "TLS_KEY", value_name = "PATH")]
    pub tls_key: Option<PathBuf>,
}

/// Whether a request has to show a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    /// It has to.
    #[default]
    Token,
    /// Everybody may ask.
    None,
}
