//! What was typed for the remediation, and what it means.

use std::{
    env,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::{Args, builder::BoolishValueParser};
use jiff::SignedDuration;
use tocsin_runtime::{kube::ClusterSource, tls::CertificateFiles};

use super::{
    crd::parse_duration,
    names,
    settings::{Amount, Settings},
};
use crate::args::CommonArgs;

/// All addresses, both families.
const ANY: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
/// Port of the webhook: the reference's.
const WEBHOOK_PORT: u16 = 9443;
/// Port of the admin listener.
const ADMIN_PORT: u16 = 25013;

/// What decisions go by.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// Namespace of the leases of nodes
    #[arg(long, env = "LEASE_NAMESPACE", default_value = names::LEASE_NAMESPACE, value_name = "NAME")]
    pub lease_namespace: String,
    /// How many remediations of one node may begin within the window; 0 for any number
    #[arg(long, env = "REMEDIATION_ATTEMPTS", default_value_t = 5, value_name = "COUNT")]
    pub attempts: u32,
    /// The window within which attempts count
    #[arg(long, env = "REMEDIATION_ATTEMPTS_WINDOW", default_value = "24h", value_name = "TIME", value_parser = duration)]
    pub attempts_window: SignedDuration,
    /// Least time between the beginnings of two remediations of a node; doubled for each further one, 0s for none
    #[arg(long, env = "REMEDIATION_COOL_OFF", default_value = "5m", value_name = "TIME", value_parser = duration)]
    pub cool_off: SignedDuration,
    /// How many nodes of the cluster may be under remediation at once: a number or a percentage [default: any number]
    #[arg(long, env = "REMEDIATION_BUDGET", value_name = "AMOUNT")]
    pub budget: Option<Amount>,
    /// How many nodes of each zone may be under remediation at once: a number or a percentage [default: any number]
    #[arg(long, env = "REMEDIATION_ZONE_BUDGET", value_name = "AMOUNT")]
    pub zone_budget: Option<Amount>,
    /// Set the agent's conditions to Unknown when it has not renewed them for so long, such as 15m, three of its
    /// periods [default: never]
    #[arg(long, env = "SILENCE_AFTER", value_name = "TIME", value_parser = duration)]
    pub silence_after: Option<SignedDuration>,
}

impl PolicyArgs {
    /// The settings.
    #[must_use]
    pub fn settings(&self) -> Settings {
        let Self {
            lease_namespace,
            attempts,
            attempts_window,
            cool_off,
            budget,
            zone_budget,
            silence_after,
        } = self;
        Settings {
            lease_namespace: lease_namespace.clone(),
            attempts: *attempts,
            attempts_window: *attempts_window,
            cool_off: *cool_off,
            budget: *budget,
            zone_budget: *zone_budget,
            silence: *silence_after,
        }
    }
}

fn duration(text: &str) -> Result<SignedDuration, String> {
    parse_duration(text)
        .filter(|duration| !duration.is_negative())
        .ok_or_else(|| format!("{text:?} is no duration such as 30s, 5m or 1h30m"))
}

/// `tocsin-controller remediation`
#[derive(Clone, Debug, Args)]
pub struct RemediationArgs {
    /// What every role has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What decisions go by.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// Namespace of this program: for the leader's lease and the webhook's certificate [default: the pod's]
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub pod_namespace: Option<String>,
    /// Name of this replica in the leader's lease [default: the host's name and a number]
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Let one of several replicas act, by a lease; false where there is one replica only
    #[arg(long, env = "LEADER_ELECTION", value_parser = BoolishValueParser::new(), num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "true", value_name = "BOOL", hide_possible_values = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// Address of the webhook's listener
    #[arg(long, env = "WEBHOOK_ADDR", default_value_t = ANY, value_name = "IP")]
    pub webhook_addr: IpAddr,
    /// Port of the webhook's listener; 0 for any
    #[arg(long, env = "WEBHOOK_PORT", default_value_t = WEBHOOK_PORT, value_name = "PORT")]
    pub webhook_port: u16,
    /// Certificate chain (PEM) of the webhook; read again when it changes
    #[arg(long, env = "WEBHOOK_CERT", value_name = "PATH", requires = "webhook_key")]
    pub webhook_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "WEBHOOK_KEY", value_name = "PATH", requires = "webhook_cert")]
    pub webhook_key: Option<PathBuf>,
    /// `ValidatingWebhookConfiguration` to write the CA of a certificate of our own making into
    #[arg(
        long,
        env = "WEBHOOK_CONFIGURATION",
        value_name = "NAME",
        conflicts_with = "webhook_cert"
    )]
    pub webhook_configuration: Option<String>,
    /// Address of the admin listener: /metrics, /livez and /readyz
    #[arg(long, env = "ADMIN_ADDR", default_value_t = ANY, value_name = "IP")]
    pub admin_addr: IpAddr,
    /// Port of the admin listener; 0 for any
    #[arg(long, env = "ADMIN_PORT", default_value_t = ADMIN_PORT, value_name = "PORT")]
    pub admin_port: u16,
}

/// `tocsin-controller explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// What every role has.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What decisions go by: as the running controller has it.
    #[command(flatten)]
    pub policy: PolicyArgs,
    /// The node
    #[arg(value_name = "NODE")]
    pub node: String,
}

/// How the webhook comes by its certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookCertificate {
    /// From files that somebody else renews.
    Files(CertificateFiles),
    /// Of our own making; its CA is written into this configuration.
    Own(String),
}

/// What was typed, resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the cluster is.
    pub cluster: ClusterSource,
    /// What decisions go by.
    pub settings: Settings,
    /// Namespace of this program; without it, the pod's.
    pub namespace: Option<String>,
    /// Name of this replica.
    pub identity: String,
    /// Whether one of several replicas acts.
    pub leader_election: bool,
    /// The webhook's listener and certificate; `None`: no webhook.
    pub webhook: Option<(SocketAddr, WebhookCertificate)>,
    /// The admin listener.
    pub admin: SocketAddr,
}

/// Where the cluster is.
pub fn cluster(common: &CommonArgs) -> anyhow::Result<ClusterSource> {
    let source = ClusterSource::find(common.kubeconfig.as_deref(), |name| env::var_os(name));
    source.context("no cluster: set KUBECONFIG, or run in a pod")
}

impl Config {
    /// What `args` mean.
    pub fn new(args: &RemediationArgs) -> anyhow::Result<Self> {
        let certificate = match (&args.webhook_cert, &args.webhook_key, &args.webhook_configuration)
        {
            (Some(cert), Some(key), _) => Some(WebhookCertificate::Files(CertificateFiles {
                cert: cert.clone(),
                key: key.clone(),
            })),
            (None, None, Some(name)) => Some(WebhookCertificate::Own(name.clone())),
            (None, None, None) => None,
            _ => bail!("WEBHOOK_CERT and WEBHOOK_KEY belong together"),
        };
        let address = SocketAddr::new(args.webhook_addr, args.webhook_port);
        Ok(Self {
            cluster: cluster(&args.common)?,
            settings: args.policy.settings(),
            namespace: args.pod_namespace.clone(),
            identity: args.pod_name.clone().unwrap_or_else(identity),
            leader_election: args.leader_election,
            webhook: certificate.map(|certificate| (address, certificate)),
            admin: SocketAddr::new(args.admin_addr, args.admin_port),
        })
    }
}

/// A name that no other replica has: that of the host, and one for this process.
fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let now = jiff::Timestamp::now().as_nanosecond();
    format!("{host}_{}_{:x}", std::process::id(), now & 0xffff_ffff)
}
