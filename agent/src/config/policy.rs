//! What the operator wants of the checks.

use super::ConfigError;
use crate::{
    checks::{self, BadCondition, Check, CheckSource, Policy, probes},
    cli::ClusterArgs,
    cluster::conditions::OWN_CONDITIONS,
};

/// The policy, without what the flags say by themselves. `has_cluster` says whether a cluster is configured.
pub(super) fn policy(
    args: &ClusterArgs,
    default_checks: Option<&str>,
    probes: &probes::Settings,
    has_cluster: bool,
    requires_mounts: bool,
) -> Result<Policy, ConfigError> {
    let node_name = args.node_name.as_ref().map(|name| name.to_string_lossy().trim().to_owned());
    let own = probes.own();
    Ok(Policy {
        node_name: node_name.filter(|name| !name.is_empty()),
        default_checks: default_set(default_checks, has_cluster, requires_mounts, &own)?,
        requires_mounts,
        on_api_loss: args.on_api_loss,
        custom_conditions: custom_conditions(&args.custom_conditions, args.publish_conditions)?,
        own,
        probe_interval: probes.interval,
        ..Policy::default()
    })
}

/// The conditions that fail `custom_conditions`. Those that the agent publishes are left out: the kernel's checks have
/// the same outcome sooner, without the way to the API server and back.
fn custom_conditions(list: &str, are_published: bool) -> Result<Vec<BadCondition>, ConfigError> {
    let parts = list.split(',').filter(|part| !part.trim().is_empty());
    let mut conditions: Vec<BadCondition> = parts.map(str::parse).collect::<Result<_, _>>()?;
    if are_published {
        conditions.retain(|bad| OWN_CONDITIONS.iter().all(|own| own.kind != bad.kind));
    }
    Ok(conditions)
}

/// The default set. Unless the operator names one, it is the kernel's checks, and `node_ready` where a cluster is
/// configured, and `mounts` where mounts are required.
fn default_set(
    names: Option<&str>,
    in_cluster: bool,
    requires_mounts: bool,
    own: &[&'static Check],
) -> Result<Vec<&'static Check>, ConfigError> {
    let all = || checks::all().iter().chain(own.iter().copied());
    let names_of_all = || all().map(|check| check.name).collect::<Vec<_>>().join(", ");
    let Some(names) = names else {
        let by_default = |check: &&Check| match check.source {
            CheckSource::Kernel(_) => true,
            CheckSource::Mounts => requires_mounts,
            CheckSource::Node(_) => in_cluster && check.name == "node_ready",
            CheckSource::Peers(_) | CheckSource::Probe => false,
        };
        return Ok(checks::all().iter().filter(by_default).collect());
    };
    let mut set: Vec<&'static Check> = Vec::new();
    for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let check = all()
            .find(|check| check.name == name)
            .ok_or_else(|| ConfigError::UnknownCheck(name.to_owned(), names_of_all()))?;
        if set.iter().all(|other| other.name != check.name) {
            set.push(check);
        }
    }
    if set.is_empty() { Err(ConfigError::NoCheck(names_of_all())) } else { Ok(set) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_checks_are_names_of_checks() {
        let names = |text| {
            default_set(text, false, false, &[])
                .map(|set| set.iter().map(|c| c.name).collect::<Vec<_>>())
        };
        assert_eq!(names(None).unwrap(), ["filesystem_ro", "io_errors", "io_stall"]);
        let in_cluster: Vec<_> =
            default_set(None, true, false, &[]).unwrap().iter().map(|c| c.name).collect();
        assert_eq!(in_cluster, ["node_ready", "filesystem_ro", "io_errors", "io_stall"]);
        let with_mounts: Vec<_> =
            default_set(None, false, true, &[]).unwrap().iter().map(|c| c.name).collect();
        assert_eq!(with_mounts, ["filesystem_ro", "io_errors", "io_stall", "mounts"]);
        assert_eq!(names(Some("node_ready")).unwrap(), ["node_ready"]);
        assert_eq!(
            names(Some(" io_stall, io_stall ,,io_errors")).unwrap(),
            ["io_stall", "io_errors"]
        );
        let all: Vec<_> = checks::all().iter().map(|check| check.name).collect();
        assert_eq!(
            names(Some("bogus")).unwrap_err().to_string(),
            format!("DEFAULT_CHECKS: unknown check \"bogus\"; there are: {}", all.join(", "))
        );
        assert!(names(Some(" , ")).is_err());
    }

    #[test]
    fn published_conditions_fail_no_check() {
        let kinds = |are_published| -> Vec<String> {
            let list = "KernelDeadlock, ,ReadonlyFilesystem=True";
            let conditions = custom_conditions(list, are_published).unwrap();
            conditions.into_iter().map(|condition| condition.kind).collect()
        };
        assert_eq!(kinds(false), ["KernelDeadlock", "ReadonlyFilesystem"]);
        assert_eq!(kinds(true), ["KernelDeadlock"]);
        assert!(custom_conditions("a=b=c", false).is_err());
    }
}
