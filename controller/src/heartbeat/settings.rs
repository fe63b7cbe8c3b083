//! What the heartbeat was told, and its defaults, periods and bounds, each with its unit and its reason.

use std::{
    env,
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use tocsin_runtime::{kube::ClusterSource, tls::CertificateFiles};

use super::{
    args::{Auth, HeartbeatArgs},
    rate_limit::Limit,
    tokens::{BadTokens, Scope, Tokens},
};

/// 100 objects per page of a first list: a page of pods is half a megabyte, and a limit of 500 makes it two and a half.
pub const PAGE: u32 = 100;
/// 64 namespaces whose events are watched at once; one more ends the watch of the one asked about longest ago.
pub const EVENT_NAMESPACES: usize = 64;
/// 10 minutes after the last question about a workload of a namespace, its events are watched no longer: a monitor asks
/// every few minutes.
pub const EVENT_IDLE: Duration = Duration::from_mins(10);
/// 2 seconds between looks at the token file: a token that was taken away is refused soon, and a look reads one small file.
pub const TOKEN_INTERVAL: Duration = Duration::from_secs(2);
/// 64 KiB for the token file: 256 tokens with their namespaces.
pub const TOKEN_BYTES: u64 = 64 * 1024;

/// What the heartbeat was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the cluster is.
    pub cluster: ClusterSource,
    /// The API's listener.
    pub listen: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
    /// The token of the command line; `None` where everybody may ask.
    pub auth: Option<TokenSource>,
    /// Requests per client.
    pub limit: Limit,
    /// Networks of proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Status codes and bodies of the replaced controller.
    pub compat: bool,
    /// How long a warning counts.
    pub event_window: Duration,
    /// The namespaces whose badges need no token.
    pub badges: Scope,
    /// Certificate chain and key of the API's listener.
    pub tls: Option<CertificateFiles>,
}

/// Where tokens come from.
#[derive(Clone, Debug)]
pub struct TokenSource {
    /// `AUTH_TOKEN_BASIC`
    pub fixed: Option<Tokens>,
    /// `AUTH_TOKEN_FILE`
    pub file: Option<PathBuf>,
}

/// A value that cannot be used; one line, without secrets.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No cluster.
    #[error("no cluster: set KUBECONFIG, or run in a pod with a service account")]
    NoCluster,
    /// No token, and nobody said that none is wanted.
    #[error(
        "no token: set AUTH_TOKEN_BASIC or AUTH_TOKEN_FILE, or HEARTBEAT_AUTH=none to let everybody ask"
    )]
    NoToken,
    /// A token that is none.
    #[error("AUTH_TOKEN_BASIC: {0}")]
    BadToken(BadTokens),
    /// A token, although everybody may ask.
    #[error("HEARTBEAT_AUTH=none and a token: which of them is meant?")]
    TokenWithoutAuth,
    /// Not a duration.
    #[error("{0}: {1:?} is not a time such as 30s, 10m or 1h30m")]
    BadDuration(&'static str, String),
    /// Not a network.
    #[error("TRUSTED_PROXIES: {0:?} is not a network such as 10.0.0.0/8")]
    BadNetwork(String),
    /// One of two that belong together.
    #[error("{0} needs {1}")]
    HalfOfTls(&'static str, &'static str),
}

impl Settings {
    /// Reads what was typed.
    pub fn new(args: HeartbeatArgs) -> Result<Self, SettingsError> {
        Self::resolve(args, |name| env::var_os(name))
    }

    fn resolve(
        args: HeartbeatArgs,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let HeartbeatArgs {
            common,
            listen_addr,
            port,
            admin_addr,
            admin_port,
            auth,
            auth_token_basic,
            auth_token_file,
            rate_limit,
            rate_limit_period,
            trusted_proxies,
            compat,
            event_window,
            badge_namespaces,
            tls_cert,
            tls_key,
        } = args;
        let some = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
        let cluster = ClusterSource::find(common.kubeconfig.as_deref(), env)
            .ok_or(SettingsError::NoCluster)?;
        let token = auth_token_basic.filter(|token| !token.trim().is_empty());
        let fixed =
            token.map(|token| Tokens::one(&token)).transpose().map_err(SettingsError::BadToken)?;
        let file = some(auth_token_file);
        let auth = match (auth, fixed.is_some() || file.is_some()) {
            (Auth::Token, true) => Some(TokenSource { fixed, file }),
            (Auth::Token, false) => return Err(SettingsError::NoToken),
            (Auth::None, true) => return Err(SettingsError::TokenWithoutAuth),
            (Auth::None, false) => None,
        };
        let tls = match (some(tls_cert), some(tls_key)) {
            (Some(cert), Some(key)) => Some(CertificateFiles { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(SettingsError::HalfOfTls("TLS_CERT", "TLS_KEY")),
            (None, Some(_)) => return Err(SettingsError::HalfOfTls("TLS_KEY", "TLS_CERT")),
        };
        Ok(Self {
            cluster,
            listen: SocketAddr::new(listen_addr, port),
            admin: SocketAddr::new(admin_addr, admin_port),
            auth,
            limit: Limit {
                requests: rate_limit,
                period: duration("RATE_LIMIT_PERIOD", &rate_limit_period)?,
            },
            trusted_proxies: networks(&trusted_proxies)?,
            compat,
            event_window: duration("HEARTBEAT_EVENT_WINDOW", &event_window)?,
            badges: badges(&badge_namespaces),
            tls,
        })
    }
}

/// A duration as Go writes it, which is how the replaced controller reads it.
fn duration(name: &'static str, text: &str) -> Result<Duration, SettingsError> {
    let bad = || SettingsError::BadDuration(name, text.to_owned());
    let parsed = text.trim().parse::<kube::core::Duration>().map_err(|_| bad())?;
    if parsed.is_negative() { Err(bad()) } else { Ok(parsed.into()) }
}

/// Networks, or single addresses.
fn networks(text: &str) -> Result<Vec<IpNet>, SettingsError> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let parse = |part: &str| {
        let alone = || part.parse::<IpAddr>().ok().map(IpNet::from);
        part.parse().ok().or_else(alone).ok_or_else(|| SettingsError::BadNetwork(part.to_owned()))
    };
    parts.map(parse).collect()
}

fn badges(text: &str) -> Scope {
    let names: Vec<String> =
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.iter().any(|name| name == "*") { Scope::All } else { Scope::Namespaces(names) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: HeartbeatArgs,
    }

    fn settings(flags: &[&str]) -> Result<Settings, String> {
        let typed = ["heartbeat", "--kubeconfig", "/k"].into_iter().chain(flags.iter().copied());
        let Typed { args } = Typed::parse_from(typed);
        Settings::resolve(args, |_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_needed_unless_none_is_wanted() {
        for (flags, expected) in [
            (&["--auth-token-basic", "s3cret"][..], None),
            (&["--auth-token-file", "/tokens"], None),
            (&["--auth", "none"], None),
            (&[], Some("no token: ")),
            (&["--auth-token-basic", ""], Some("no token: ")),
            (
                &["--auth-token-basic", "xxx"],
                Some("AUTH_TOKEN_BASIC: \"xxx\" is the well-known default"),
            ),
            (
                &["--auth", "none", "--auth-token-basic", "s3cret"],
                Some("HEARTBEAT_AUTH=none and a token"),
            ),
        ] {
            match (settings(flags), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(start)) => {
                    assert!(error.starts_with(start), "{flags:?}: {error}");
                    assert!(!error.contains("s3cret"));
                }
                (found, expected) => panic!("{flags:?}: {found:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn values_that_cannot_be_used_are_named() {
        for (flags, start) in [
            (["--rate-limit-period", "60"], "RATE_LIMIT_PERIOD: \"60\""),
            (["--rate-limit-period", "-1s"], "RATE_LIMIT_PERIOD: \"-1s\""),
            (["--event-window", "soon"], "HEARTBEAT_EVENT_WINDOW: \"soon\""),
            (["--trusted-proxies", "10.0.0.0/8,lan"], "TRUSTED_PROXIES: \"lan\""),
            (["--tls-cert", "/c"], "TLS_CERT needs TLS_KEY"),
        ] {
            let typed = [&["--auth", "none"][..], &flags].concat();
            let typed: Vec<String> = typed.iter().map(ToString::to_string).collect();
            let joined: Vec<&str> = typed.iter().map(String::as_str).collect();
            // A value that begins with a dash is one with an equals sign.
            let owned = format!("{}={}", flags[0], flags[1]);
            let found = settings(&[&joined[..2], &[owned.as_str()]].concat()).unwrap_err();
            assert!(found.starts_with(start), "{found}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_replaced_controller() {
        let found = settings(&["--auth", "none"]).unwrap();
        assert_eq!(found.limit, Limit { requests: 3600, period: Duration::from_hours(1) });
        assert_eq!((found.listen.port(), found.compat), (8080, true));
        assert_eq!(found.event_window, Duration::from_mins(10));
        assert!(!found.badges.contains("ns"));
        let found =
            settings(&["--auth=none", "--compat=false", "--rate-limit=-1", "--badge-namespaces=*"])
                .unwrap();
        assert_eq!((found.compat, found.limit.requests, found.badges), (false, -1, Scope::All));
        let found = settings(&[
            "--auth=none",
            "--rate-limit-period=1h30m",
            "--trusted-proxies=10.0.0.1, fd00::/8",
        ])
        .unwrap();
        assert_eq!(found.limit.period, Duration::from_mins(90));
        assert_eq!(found.trusted_proxies.len(), 2);
    }
}
