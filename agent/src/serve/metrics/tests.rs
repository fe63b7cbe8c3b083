//! What a scrape says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use tocsin_runtime::metrics::{Metrics, verify};

use super::*;
use crate::{
    checks::{
        Policy,
        runner::{Probe, Runner},
        tests::fault,
    },
    health::storm_guard::Failing,
    kernel::{HookStatus, NamedCount},
    model::{Dev, Peer, PeerIdentity, PeerProbe, PeerRole, PeerState, PeerView, Scope},
    peers::Rejection,
};

#[tokio::test]
async fn every_metric_is_written_as_described_and_none_besides() {
    let view = FaultView {
        faults: vec![fault(FaultKind::IoError, Scope::Host)],
        opened: [0, 0, 1, 0],
        ..FaultView::default()
    };
    let stats = KernelStats {
        counts: vec![NamedCount {
            kind: "block_write",
            device: Dev::new(7, 3),
            device_name: "loop3".into(),
            errno: "EIO".into(),
            count: 12,
            suppressed: 2,
            dropped: 1,
        }],
        hooks: vec![HookStatus {
            name: "block:block_rq_error".into(),
            state: HookState::Attached,
            detail: String::new(),
        }],
        ..KernelStats::default()
    };
    let (_faults, faults) = watch::channel(Arc::new(view));
    let (_stats, stats) = watch::channel(Arc::new(stats));
    let lost = ApiState::Lost { since: SystemTime::UNIX_EPOCH, error: String::new() };
    let (_node, node) = watch::channel(Arc::new(NodeView { api: lost, last: None }));
    let policy = Policy { node_name: Some("n".into()), ..Policy::default() };
    let probe = Probe {
        name: "kubelet",
        timeout: Duration::from_secs(5),
        sample: Box::new(|| Box::pin(async { Outcome::Fail("no".into()) })),
    };
    let (_runner, probes) =
        Runner::start(vec![probe], &["kubelet"], Duration::from_mins(1)).unwrap();
    probes.demand(["kubelet"]).await;
    let mut guard = GuardView::new(Some("30%".parse().unwrap()));
    let storm = BTreeMap::from([("network".into(), Failing { failing: 3, of: 5 })]);
    guard.update(Some(&storm), tokio::time::Instant::now(), SystemTime::UNIX_EPOCH);
    let board = Board::new(
        crate::health::Sources {
            kernel: faults.clone(),
            node: node.clone(),
            guard: watch::channel(Arc::new(guard)).1,
            probes,
            ..crate::health::Sources::default()
        },
        Arc::new(policy),
    );
    let (peers, _peers) = peers();
    let text = Metrics::new(MetricSources {
        faults,
        stats,
        node,
        api: Arc::default(),
        board,
        answered: Arc::default(),
        serve: Arc::default(),
        peers,
        webhooks: Arc::default(),
        log_dropped: Arc::new(|| 3),
    })
    .render()
    .unwrap();
    for line in [
        "tocsin_kernel_events_total{kind=\"block_write\",device=\"7:3\",errno=\"EIO\"} 12",
        "tocsin_faults_open{kind=\"io_error\",device=\"7:3\",scope=\"host\"} 1",
        "tocsin_faults_opened_total{kind=\"io_error\"} 1",
        "tocsin_hook_attached{hook=\"block:block_rq_error\"} 1",
        "tocsin_records_suppressed_total 2",
        "tocsin_records_dropped_total 1",
        "tocsin_check_passed{check=\"io_errors\"} 0",
        "tocsin_check_passed{check=\"io_stall\"} 1",
        "tocsin_check_degraded{check=\"node_ready\"} 1",
        "tocsin_health_requests_total{code=\"503\"} 0",
        "tocsin_log_lines_dropped_total 3",
        "tocsin_storm_guard_active{check=\"network\"} 1",
        "tocsin_storm_guard_failing_ratio{check=\"network\"} 0.6",
        "tocsin_storm_guard_begun_total 1",
        "tocsin_peers{state=\"alive\"} 2",
        "tocsin_peers{state=\"dead\"} 0",
        "tocsin_peer_role{role=\"isolated\"} 1",
        "tocsin_peer_role{role=\"off\"} 0",
        "tocsin_peer_packets_rejected_total{reason=\"forged\"} 1",
        "tocsin_peer_round_trip_seconds{peers=\"worst\"} 0.25",
        "tocsin_peer_probe_loss_ratio{peers=\"worst\"} 0.5",
        "tocsin_peer_clock_offset_seconds 2.0",
        "tocsin_peer_webhooks_total{kind=\"peer\",result=\"failed\"} 0",
        "tocsin_peer_webhooks_dropped_total{reason=\"expired\"} 0",
        "tocsin_peer_webhooks_queued 0",
        "tocsin_api_up 0",
        "tocsin_check_passed{check=\"kubelet\"} 0",
        "tocsin_probe_outcome{check=\"kubelet\",outcome=\"fail\"} 1",
        "tocsin_probe_outcome{check=\"kubelet\",outcome=\"pass\"} 0",
        "tocsin_api_requests_total{code=\"none\"} 0",
        "tocsin_api_writes_total{what=\"event\",result=\"failed\"} 0",
        "tocsin_fault_changes_missed_total{reader=\"events\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    verify(&text, DESCRIPTIONS).unwrap();
}

/// Two peers that are reached, by an agent that is isolated all the same.
fn peers() -> (Published, watch::Sender<Arc<PeerView>>) {
    let peer = |last: u8, round_trip, loss| Peer {
        identity: PeerIdentity {
            id: format!("n@100{last}").into(),
            node: "n".into(),
            address: ([10, 0, 0, last], 25004).into(),
        },
        state: PeerState::Alive,
        since: tokio::time::Instant::now(),
        host: None,
        failing: BTreeSet::new(),
        passing: None,
        probe: Some(PeerProbe {
            round_trip: Some(Duration::from_millis(round_trip)),
            loss,
            clock_offset: Some(2.0),
        }),
        reaches: Vec::new(),
    };
    let view = PeerView {
        is_configured: true,
        role: PeerRole::Isolated,
        peers: vec![peer(1, 1, 0.0), peer(2, 250, 0.5)],
        ..PeerView::default()
    };
    let (sender, view) = watch::channel(Arc::new(view));
    let mut published = crate::peers::not_configured();
    published.view = view;
    published.stats.reject(Rejection::Forged);
    (published, sender)
}
