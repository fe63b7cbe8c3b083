//! Credentials for the API server: kubeconfig files that cannot be used, tokens that change, login plugins.

use std::time::{Duration, Instant};

use e2e::{ControlPlane, Sandbox};

use crate::on_api_loss::{BACK, agent_with, changes, is_open, is_well, look};

#[test]
fn a_kubeconfig_that_cannot_be_used() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-client");
    let kubeconfig = sandbox.path("kubeconfig");
    for (text, words) in [
        (None, "No such file"),
        (Some("{"), "kubeconfig"),
        (Some("apiVersion: v1\nkind: Config\n"), "context"),
    ] {
        if let Some(text) = text {
            std::fs::write(&kubeconfig, text).unwrap();
        }
        let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
        let (status, found, _) = look(&agent);
        assert!(is_open(status, &found), "{status} {found}");
        assert!(found.contains("no client for it can be made"), "{found}");
        assert!(found.contains(words), "{words}: {found}");
        // A file that is written later is read.
        std::fs::copy(cluster.kubeconfig("admin"), &kubeconfig).unwrap();
        changes(&agent, "a kubeconfig", [Duration::ZERO, BACK], is_well);
    }
}

#[test]
fn a_token_file_that_changes_is_read_again() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-token");
    let proxy = cluster.proxy();
    let token = sandbox.path("token");
    std::fs::write(&token, cluster.token("nobody")).unwrap();
    let admin = cluster.token("admin");
    let text = std::fs::read_to_string(proxy.kubeconfig("admin")).unwrap();
    let by_file =
        text.replace(&format!(r#""token":"{admin}""#), &format!(r#""tokenFile":{token:?}"#));
    assert_ne!(by_file, text);
    let kubeconfig = sandbox.path("kubeconfig");
    std::fs::write(&kubeconfig, by_file).unwrap();
    let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
    assert!(look(&agent).1.contains("403"), "{:?}", look(&agent));
    std::fs::write(&token, admin).unwrap();
    changes(&agent, "another token", [Duration::ZERO, BACK], is_well);
}

#[test]
fn secrets_of_a_login_plugin_or_a_broken_kubeconfig_are_not_shown() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-secrets");
    let kubeconfig = sandbox.path("kubeconfig");
    let plugin = |command: &str| {
        let text = std::fs::read_to_string(cluster.kubeconfig("admin")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"] = serde_json::json!({ "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "/bin/sh",
            "args": ["-c", command, "sh", "SECRET-argument"],
            "env": [{ "name": "KEY", "value": "SECRET-variable" }],
            "interactiveMode": "Never",
        }});
        config.to_string()
    };
    let fails = plugin("echo SECRET-out; echo SECRET-err >&2; exit 3");
    let broken = "users: [{name: u, user: {token: SECRET-token, oops".to_owned();
    for (text, words) in [
        (fails, "login plugin failed: exit status: 3"),
        (plugin("echo SECRET-out"), "login plugin says cannot be read"),
        (broken, "it is no kubeconfig"),
    ] {
        std::fs::write(&kubeconfig, text).unwrap();
        let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
        let (status, found, _) = look(&agent);
        assert!(is_open(status, &found) && found.contains(words), "{status} {found}");
        let all = format!("{found}{}{}", agent.log().join("\n"), agent.get("/health?verbose").body);
        assert!(!all.contains("SECRET"), "{all}");
    }
    // A slow plugin delays no answer, and its token is used.
    let status = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": cluster.token("admin") },
    });
    std::fs::write(&kubeconfig, plugin(&format!("sleep 2; echo '{status}'"))).unwrap();
    let began = Instant::now();
    let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
    // The ports open before the plugin has ended, which takes 2 s and is run twice.
    let took = began.elapsed();
    assert!(is_open(look(&agent).0, &look(&agent).1), "{:?} after {took:?}", look(&agent));
    changes(&agent, "a slow login", [Duration::ZERO, 2 * BACK], is_well);
}
