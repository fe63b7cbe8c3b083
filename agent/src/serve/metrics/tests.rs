//! What a scrape says.

use std::time::{Duration, SystemTime};

use tocsin_runtime::metrics::{Metrics, verify};

use super::*;
use crate::{
    checks::{
        Policy,
        runner::{Probe, Runner},
        tests::fault,
    },
    kernel::{HookStatus, NamedCount},
    model::{Dev, Scope},
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
    let board = Board::new(
        crate::health::Sources {
            kernel: faults.clone(),
            node: node.clone(),
            probes,
            ..crate::health::Sources::default()
        },
        Arc::new(policy),
    );
    let text = Metrics::new(MetricSources {
        faults,
        stats,
        node,
        api: Arc::default(),
        board,
        answered: Arc::default(),
        serve: Arc::default(),
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
