//! `tocsin-controller heartbeat` against a real API server: the answers of the replaced controller row by row, and the
//! verdicts that it guessed.

use std::{process::Command, time::Duration};

use e2e::{ControlPlane, Heartbeat, PodIs, Workloads, heartbeat::TOKEN, sandbox::say};
use serde_json::json;
use tocsin_api::heartbeat::{ApiHealth, Status, WorkloadHealth, WorkloadList};

/// Answers of their own status, with JSON.
fn native(command: &mut Command) {
    command.env("HEARTBEAT_COMPAT", "false");
}

fn admin(cluster: &ControlPlane) -> std::path::PathBuf {
    cluster.kubeconfig("admin")
}

/// A Deployment of three pods of which one may be unavailable, all of them ready.
fn web(workloads: &Workloads) {
    let deployment = workloads.deployment("web", 3, 1);
    let set = workloads.replica_set(&deployment, "web-1");
    for pod in ["web-1-a", "web-1-b", "web-1-c"] {
        workloads.pod(&set, pod, PodIs::Ready);
    }
}

/// Method, path, headers; status, body, content type.
type Row<'a> = (&'a str, String, &'a [(&'a str, &'a str)], u16, &'a str, Option<&'a str>);

#[test]
fn the_answers_of_the_replaced_controller() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let workloads = Workloads::new(&cluster, "hb-compat");
    web(&workloads);
    workloads.deployment("broken", 1, 0);
    let heartbeat = Heartbeat::start(&admin(&cluster), |_| {});
    let (up, down) =
        ("/api/healthz/hb-compat/deployment/web", "/api/healthz/hb-compat/deployment/broken");
    let basic = format!("Basic {TOKEN}");
    let with = [("Authorization", basic.as_str())];
    let text = "text/plain; charset=utf-8";
    let rows: &[Row<'_>] = &[
        ("GET", "/healthz".into(), &[], 200, "", None),
        ("GET", "/health".into(), &[], 200, "", None),
        ("HEAD", "/healthz".into(), &[], 200, "", None),
        ("GET", up.into(), &with, 200, "", None),
        ("HEAD", up.into(), &with, 200, "", None),
        ("GET", format!("{up}?token={TOKEN}"), &[], 200, "", None),
        ("GET", down.into(), &with, 400, "", None),
        ("HEAD", down.into(), &with, 400, "", None),
        ("GET", "/api/healthz/hb-compat/deployment/nothing".into(), &with, 400, "", None),
        ("GET", up.into(), &[], 401, "authorization failed\n", Some(text)),
        (
            "GET",
            up.into(),
            &[("Authorization", "Bearer nothing")],
            401,
            "authorization failed\n",
            Some(text),
        ),
        ("GET", up.into(), &[("Authorization", "Basic wrong")], 403, "", None),
        ("GET", format!("{up}?token=wrong"), &[], 403, "", None),
        ("POST", up.into(), &with, 405, "", None),
        ("OPTIONS", up.into(), &with, 405, "", None),
        ("PUT", "/healthz".into(), &[], 405, "", None),
        ("GET", "/nowhere".into(), &[], 404, "404 page not found\n", Some(text)),
        ("GET", format!("{up}/"), &with, 404, "404 page not found\n", Some(text)),
        ("GET", format!("{up}/more"), &with, 404, "404 page not found\n", Some(text)),
        ("POST", "/".into(), &[], 404, "404 page not found\n", Some(text)),
        ("GET", "//healthz?a=b".into(), &[], 301, "", None),
    ];
    for (method, path, headers, status, body, content_type) in rows {
        let found = heartbeat.request(method, path, headers);
        let row = format!("{method} {path} {headers:?}: {found:?}");
        assert_eq!((found.status, &*found.body), (*status, *body), "{row}");
        assert_eq!(found.header("content-type"), *content_type, "{row}");
        let is_text = content_type.is_some();
        assert_eq!(found.header("x-content-type-options"), is_text.then_some("nosniff"), "{row}");
        assert_eq!(found.header("www-authenticate"), (*status == 401).then_some("Basic"), "{row}");
        assert_eq!(found.header("location"), (*status == 301).then_some("/healthz?a=b"), "{row}");
        let is_limited = path.starts_with("/api/") && !matches!(status, 404 | 405);
        assert_eq!(found.header("x-ratelimit-limit"), is_limited.then_some("1000000"), "{row}");
        assert!(found.header("access-control-allow-origin").is_none(), "{row}");
        if *method == "HEAD" {
            assert_eq!(found.header("content-length"), None, "{row}");
        }
    }
}

#[test]
fn scripts_of_other_origins() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let heartbeat = Heartbeat::start(&admin(&cluster), |_| {});
    let path = "/api/healthz/none/deployment/none";
    let origin = ("Origin", "https://status.example.org");
    for (method, path, headers, status) in [
        ("GET", path, &[origin][..], 401),
        ("GET", path, &[origin, ("Authorization", "Basic wrong")], 403),
        ("GET", "/healthz", &[origin], 200),
        (
            "OPTIONS",
            path,
            &[
                origin,
                ("Access-Control-Request-Method", "GET"),
                ("Access-Control-Request-Headers", "authorization"),
            ],
            204,
        ),
    ] {
        let found = heartbeat.request(method, path, headers);
        assert_eq!(
            (found.status, found.header("access-control-allow-origin")),
            (status, Some("*")),
            "{method} {path} {found:?}"
        );
    }
    let preflight = [origin, ("Access-Control-Request-Method", "GET")];
    let found = heartbeat.request("OPTIONS", path, &preflight);
    assert_eq!(found.header("access-control-allow-headers"), Some("Authorization"));
    assert_eq!(
        heartbeat.request("OPTIONS", "/nowhere", &preflight).header("access-control-allow-origin"),
        None
    );
}

#[test]
fn a_limit_per_client() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let heartbeat = Heartbeat::start(&admin(&cluster), |command| {
        command
            .env("RATE_LIMIT", "3")
            .env("RATE_LIMIT_PERIOD", "1h")
            .env("TRUSTED_PROXIES", "127.0.0.0/8");
    });
    let path = "/api/healthz/none/deployment/none";
    let ask = |client: &str| heartbeat.request("GET", path, &[("X-Forwarded-For", client)]);
    let mut reset = None;
    for remaining in ["2", "1", "0"] {
        let found = ask("192.0.2.1");
        assert_eq!((found.status, found.header("x-ratelimit-remaining")), (401, Some(remaining)));
        let this = found.header("x-ratelimit-reset").map(str::to_owned);
        assert_eq!(reset.get_or_insert(this.clone()), &this, "one window");
    }
    let refused = ask("192.0.2.1");
    assert_eq!((refused.status, &*refused.body), (429, "Limit exceeded\n"));
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((3500..=3600).contains(&wait), "{wait}");
    assert_eq!(ask("192.0.2.2").status, 401, "another client");
    assert_eq!(
        ask("192.0.2.9, 192.0.2.1").status,
        429,
        "what the client writes itself counts for nothing"
    );
    // One network of IPv6 is one client.
    for (address, status) in
        [("2001:db8::1", 401), ("2001:db8::2", 401), ("2001:db8::3", 401), ("2001:db8::4", 429)]
    {
        assert_eq!(ask(address).status, status, "{address}");
    }
    assert_eq!(heartbeat.request("GET", "/healthz", &[]).status, 200, "free");
}

#[test]
fn one_of_three_pods_may_be_missing_in_every_single_answer() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let workloads = Workloads::new(&cluster, "hb-one-of-three");
    web(&workloads);
    workloads.pod_is("web-1-b", PodIs::NotReady);
    let heartbeat = Heartbeat::start(&admin(&cluster), native);
    let path = "/api/healthz/hb-one-of-three/deployment/web";
    let basic = format!("Basic {TOKEN}");
    let mut connection = heartbeat.connect();
    for _ in 0..1000 {
        let found = connection.request_with("GET", path, &[("Authorization", &basic)]).unwrap();
        assert_eq!(found.status, 200, "{}", found.body);
    }
    let health: WorkloadHealth = heartbeat.get(path).read();
    assert_eq!(health.status, Status::Up);
    assert_eq!(health.degraded, ["2 of 3 pods are ready", "web-1-b: not ready"]);
    // A second one, and the Deployment is down; back, and it is up.
    workloads.pod_is("web-1-c", PodIs::NotReady);
    say(&format!("down after {:?}", heartbeat.wait_status(path, 503)));
    let health: WorkloadHealth = heartbeat.get(path).read();
    assert_eq!(health.reasons[0], "1 of 3 pods are ready, 2 are needed");
    workloads.pod_is("web-1-b", PodIs::Ready);
    heartbeat.wait_status(path, 200);
}

#[test]
fn a_rollout_leaves_it_up_and_a_twin_does_not_count() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let workloads = Workloads::new(&cluster, "hb-rollout");
    let deployment = workloads.deployment("web", 2, 0);
    let old = workloads.replica_set(&deployment, "web-1");
    let new = workloads.replica_set(&deployment, "web-2");
    // Pods with the same labels, of a Deployment of another name.
    let twin = workloads.deployment("twin", 1, 0);
    let mut twin_set = workloads.replica_set(&twin, "twin-1");
    twin_set["metadata"]["labels"]["app"] = json!("web");
    workloads.pod(&twin_set, "twin-pod", PodIs::NotReady);
    for (set, name, is) in [
        (&old, "old-a", PodIs::Ready),
        (&old, "old-b", PodIs::NotReady),
        (&old, "old-evicted", PodIs::Evicted),
        (&old, "old-completed", PodIs::Completed),
        (&new, "new-a", PodIs::Ready),
    ] {
        workloads.pod(set, name, is);
    }
    workloads.terminate("old-b");
    let heartbeat = Heartbeat::start(&admin(&cluster), native);
    let path = "/api/healthz/hb-rollout/deployment/web";
    let health: WorkloadHealth = heartbeat.get(path).read();
    assert_eq!((health.status, &*health.reasons), (Status::Up, &[][..]), "{health:?}");
    assert_eq!(heartbeat.get("/api/healthz/hb-rollout/deployment/twin").status, 503);
    // Available is False: down, whatever the pods say.
    workloads.available("web", false);
    heartbeat.wait_status(path, 503);
    let stuck = json!([
        { "type": "Available", "status": "True", "reason": "MinimumReplicasAvailable" },
        { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" }
    ]);
    workloads.conditions("web", stuck);
    heartbeat.wait("the stuck rollout is the reason", || {
        let health: WorkloadHealth = heartbeat.get(path).read();
        (health.reasons == ["its rollout is stuck: ProgressDeadlineExceeded"]).then_some(())
    });
    workloads.available("web", true);
    heartbeat.wait_status(path, 200);
    workloads.patch("deployment", "web", &json!({ "spec": { "replicas": 0 } }));
    heartbeat.wait_status(path, 503);
    let health: WorkloadHealth = heartbeat.get(path).read();
    assert_eq!(health.reasons, ["it is scaled to 0 replicas"]);
    workloads.patch("pod", "old-b", &json!({ "metadata": { "finalizers": null } }));
    workloads.delete("deployment", "web");
    heartbeat.wait_status(path, 404);
}

#[test]
fn stateful_and_daemon_sets_and_whole_namespaces() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let workloads = Workloads::new(&cluster, "hb-sets");
    let template = json!({ "metadata": { "labels": { "app": "db" } }, "spec": { "containers": [{ "name": "c", "image": "x" }] } });
    let selector = json!({ "matchLabels": { "app": "db" } });
    let db = workloads.apply(json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "db", "labels": { "app": "db", "tier": "data" } },
        "spec": { "replicas": 2, "serviceName": "db", "ordinals": { "start": 3 }, "selector": selector, "template": template }
    }));
    let agent = workloads.apply(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": { "name": "agent", "labels": { "app": "db" } },
        "spec": { "selector": selector, "template": template }
    }));
    workloads.set_status("statefulset", "db", &json!({ "observedGeneration": 1, "replicas": 2 }));
    let counts = json!({ "observedGeneration": 1, "desiredNumberScheduled": 3, "currentNumberScheduled": 3, "numberMisscheduled": 0, "numberReady": 2 });
    workloads.set_status("daemonset", "agent", &counts);
    for (owner, name, is) in [
        (&db, "db-3", PodIs::Ready),
        (&db, "db-4", PodIs::NotReady),
        // Beyond the ordinals: it goes.
        (&db, "db-5", PodIs::Ready),
        (&agent, "agent-a", PodIs::Ready),
        (&agent, "agent-b", PodIs::Ready),
        (&agent, "agent-c", PodIs::NotReady),
    ] {
        workloads.pod(owner, name, is);
    }
    let heartbeat = Heartbeat::start(&admin(&cluster), native);
    let get = |path: &str| heartbeat.get(&format!("/api/healthz/hb-sets{path}"));
    assert_eq!((get("/statefulset/db").status, get("/daemonset/agent").status), (200, 200));
    let all: WorkloadList = get("").read();
    assert_eq!(all.workloads.iter().map(|w| &*w.name).collect::<Vec<_>>(), ["db", "agent"]);
    workloads.pod_is("db-3", PodIs::NotReady);
    heartbeat.wait_status("/api/healthz/hb-sets/statefulset/db", 503);
    assert_eq!((get("").status, get("?selector=tier%3Ddata").status), (503, 503));
    assert_eq!((get("?selector=!tier").status, get("?selector=app%3Dnone").status), (200, 404));
    assert_eq!(get("?selector=%3D").status, 400);
    workloads.pod_is("agent-b", PodIs::NotReady);
    heartbeat.wait_status("/api/healthz/hb-sets/daemonset/agent", 503);
    let feed: WorkloadList = heartbeat.get("/api/feed?namespace=hb-sets").read();
    assert_eq!((feed.status, feed.workloads.len()), (Status::Down, 2));
}

#[test]
fn warnings_degrade_and_requests_cost_the_api_server_nothing() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let workloads = Workloads::new(&cluster, "hb-warnings");
    web(&workloads);
    let account = cluster.service_account("hb-warnings", "heartbeat");
    cluster.grant(&account, &rights());
    let heartbeat = Heartbeat::start(&cluster.kubeconfig(&account.user), native);
    let path = "/api/healthz/hb-warnings/deployment/web";
    let health: WorkloadHealth = heartbeat.get(path).read();
    assert_eq!(health.degraded, [""; 0]);
    workloads.warn("web-1-a", "BackOff", "Back-off restarting failed container");
    workloads.warn("web-1-b", "Unhealthy", "Readiness probe failed");
    heartbeat.wait("both warnings", || {
        let found = heartbeat.get(path);
        assert_eq!(found.status, 200, "never down");
        let health: WorkloadHealth = found.read();
        let has = |text: &str| health.degraded.iter().any(|line| line == text);
        (has("BackOff: Back-off restarting failed container")
            && has("Unhealthy: Readiness probe failed"))
        .then_some(())
    });
    let before = cluster.requests_of(&account.user).len();
    let mut connection = heartbeat.connect();
    let basic = format!("Basic {TOKEN}");
    for _ in 0..2000 {
        assert_eq!(
            connection.request_with("GET", path, &[("Authorization", &basic)]).unwrap().status,
            200
        );
    }
    let after = cluster.requests_of(&account.user);
    assert_eq!(after.len(), before, "{:?}", after.last());
    // Five lists with as many watches, and the events of one namespace.
    let of = |verb: &str| after.iter().filter(|entry| entry.verb == verb).count();
    assert!(after.iter().all(|entry| matches!(&*entry.verb, "list" | "watch")), "{after:?}");
    assert!(of("list") >= 6 && of("watch") <= 12, "{} lists, {} watches", of("list"), of("watch"));
}

/// The rights of the shipped role.
fn rights() -> Vec<k8s_openapi::api::rbac::v1::PolicyRule> {
    let apps = ["deployments", "statefulsets", "daemonsets", "replicasets"];
    let mut rules: Vec<_> =
        apps.iter().map(|name| e2e::cluster::rule("apps", name, &["list", "watch"])).collect();
    rules.extend(["pods", "events"].map(|name| e2e::cluster::rule("", name, &["list", "watch"])));
    rules
}

#[test]
fn badges_need_no_token_where_they_are_public() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let workloads = Workloads::new(&cluster, "hb-badge");
    web(&workloads);
    let heartbeat = Heartbeat::start(&admin(&cluster), |command| {
        command.env("BADGE_NAMESPACES", "hb-badge");
    });
    let ask = |path: &str| heartbeat.request("GET", path, &[]);
    let badge = ask("/badge/hb-badge/deployment/web.svg");
    assert_eq!((badge.status, badge.header("content-type")), (200, Some("image/svg+xml")));
    assert!(badge.body.contains("aria-label=\"web: up\""), "{}", badge.body);
    assert!(ask("/badge/hb-badge/deployment/none.svg").body.contains("none: unknown"));
    assert_eq!(ask("/badge/other/deployment/web.svg").status, 401);
    assert_eq!(
        ask("/api/healthz/hb-badge/deployment/web").status,
        401,
        "the badge alone is public"
    );
}

#[test]
fn tokens_of_a_file_are_read_again_and_have_their_namespaces() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let workloads = Workloads::new(&cluster, "hb-tokens");
    web(&workloads);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tokens");
    std::fs::write(&file, "old\nteam hb-other\n").unwrap();
    let heartbeat = Heartbeat::start(&admin(&cluster), |command| {
        command.env_remove("AUTH_TOKEN_BASIC").env("AUTH_TOKEN_FILE", &file);
    });
    let path = "/api/healthz/hb-tokens/deployment/web";
    let with = |token: &str| {
        heartbeat.request("GET", path, &[("Authorization", &format!("Bearer {token}"))]).status
    };
    assert_eq!((with("old"), with("new"), with("team")), (200, 401, 403));
    std::fs::write(&file, "old\nnew\n").unwrap();
    heartbeat.wait("the new token", || (with("new") == 200).then_some(()));
    assert_eq!(with("old"), 200, "both, for a rotation");
    std::fs::write(&file, "new\n").unwrap();
    heartbeat.wait("the old token is gone", || (with("old") == 401).then_some(()));
    // A file that cannot be used changes nothing.
    std::fs::write(&file, "xxx\n").unwrap();
    heartbeat.wait("the failure is counted", || {
        (heartbeat.metric("tocsin_heartbeat_token_file_failures_total") > 0.0).then_some(())
    });
    assert_eq!(with("new"), 200);
    let log = heartbeat.process().log().join("\n");
    assert!(!log.contains("old\"") && !log.contains("\"new"), "{log}");
}

#[test]
fn it_refuses_to_start_without_a_token() {
    let file = std::path::Path::new("/nowhere/kubeconfig");
    for (name, value, words) in [
        ("AUTH_TOKEN_BASIC", None, "no token"),
        ("AUTH_TOKEN_BASIC", Some(""), "no token"),
        ("AUTH_TOKEN_BASIC", Some("xxx"), "well-known default"),
        ("KUBECONFIG", None, "no cluster"),
        ("RATE_LIMIT_PERIOD", Some("3600"), "RATE_LIMIT_PERIOD"),
    ] {
        let mut command = e2e::heartbeat::command(file);
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        let Err(exited) = Heartbeat::try_start(command) else { panic!("it starts: {words}") };
        assert_eq!(exited.status.code(), Some(2), "{:?}", exited.log);
        assert_eq!(exited.log.len(), 1, "{:?}", exited.log);
        assert!(exited.log[0].contains(words), "{:?}", exited.log);
    }
}

#[test]
fn a_lost_api_server_is_said_within_two_seconds() {
    let Some(cluster) = ControlPlane::private() else { return };
    let workloads = Workloads::new(&cluster, "hb-loss");
    web(&workloads);
    let kubeconfig = admin(&cluster);
    let (compat, native) =
        (Heartbeat::start(&kubeconfig, |_| {}), Heartbeat::start(&kubeconfig, native));
    let path = "/api/healthz/hb-loss/deployment/web";
    // Twice the two seconds of the design: the machine may be busy.
    let limit = Duration::from_secs(4);
    let lost = |how: &str| {
        let took = native.wait_status(path, 502);
        compat.wait_status(path, 400);
        say(&format!("{how}: lost after {took:?}"));
        assert!(took < limit, "{how}: {took:?}");
        let health: ApiHealth = native.get(path).read();
        assert_eq!(health.status, Status::Unknown);
        assert!(health.reason.is_some_and(|reason| !reason.is_empty()));
        assert_eq!(compat.request("GET", "/healthz", &[]).status, 500);
        assert_eq!((native.admin("/livez").status, native.admin("/readyz").status), (200, 503));
    };
    let back = |how: &str| {
        let took = native.wait_status(path, 200);
        compat.wait_status(path, 200);
        say(&format!("{how}: back after {took:?}"));
        assert!(took < limit, "{how}: {took:?}");
        native.wait_ready(200);
    };
    cluster.stop_api();
    lost("stopped");
    cluster.resume_api();
    back("resumed");
    cluster.kill_api();
    lost("killed");
    // What happens meanwhile is there afterwards.
    cluster.start_api();
    back("started");
    // Without the versions that the watches had: 410 Gone, and lists.
    cluster.kill_api();
    cluster.compact();
    cluster.start_api();
    back("compacted");
    workloads.pod_is("web-1-a", PodIs::NotReady);
    workloads.pod_is("web-1-b", PodIs::NotReady);
    native.wait_status(path, 503);
}

#[test]
fn missing_rights_are_said() {
    let Some(cluster) = ControlPlane::private() else { return };
    let workloads = Workloads::new(&cluster, "hb-rights");
    web(&workloads);
    let account = cluster.service_account("hb-rights", "heartbeat");
    let heartbeat = Heartbeat::start_unready(&cluster.kubeconfig(&account.user), native);
    let path = "/api/healthz/hb-rights/deployment/web";
    heartbeat.wait("the missing rights", || {
        let found = heartbeat.get(path);
        assert_eq!(found.status, 502);
        found.body.contains("forbidden").then_some(())
    });
    assert!(heartbeat.admin("/readyz").body.contains("forbidden"));
    cluster.grant(&account, &rights());
    heartbeat.wait_status(path, 200);
    assert!(heartbeat.terminate().success());
}
