//! The properties that every sequence of bytes must keep. The fuzzer looks for one that breaks them.
#![expect(clippy::panic, reason = "a panic is what the fuzzer looks for")]

mod peers;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use hyper::StatusCode;
use tocsin::{
    checks::{self, Policy},
    health::{Board, Sources},
    model::{ApiState, Dev, Fault, FaultKind, FaultView, Node, NodeObservation, NodeView, Scope},
    serve::health::{
        Router,
        cache::ResponseCache,
        request::{Parsed, Request, parse},
    },
};
use tokio::sync::watch;

pub use self::peers::peers;

thread_local! {
    /// One listener for all inputs, so that its cache outlives each of them.
    static LISTENER: Listener = Listener::new();
}

/// Feeds bytes to the health listener, as if they came on a connection. The first byte says where they are cut in two,
/// and whether the host has a fault.
pub fn health(data: &[u8]) {
    let Some((&control, bytes)) = data.split_first() else { return };
    LISTENER.with(|listener| listener.receive(control, bytes));
}

struct Listener {
    router: Router,
    cache: ResponseCache,
    faults: watch::Sender<Arc<FaultView>>,
}

impl Listener {
    fn new() -> Self {
        let (faults, kernel) = watch::channel(Arc::default());
        let node = Node { unschedulable: true, ..Node::default() };
        let last = Some(NodeObservation { at: SystemTime::UNIX_EPOCH, node: Some(node) });
        let (_nothing_more, node) = watch::channel(Arc::new(NodeView { api: ApiState::Up, last }));
        let names = ["filesystem_ro", "io_errors", "io_stall"];
        let policy = Policy {
            node_name: Some("node-1".to_owned()),
            default_checks: names.iter().filter_map(|name| checks::find(name)).collect(),
            ..Policy::default()
        };
        let board = Board::new(Sources { kernel, node, ..Sources::default() }, Arc::new(policy));
        let router = Router::new(board, 200);
        Self { cache: ResponseCache::new(router.clone()), router, faults }
    }

    fn receive(&self, control: u8, bytes: &[u8]) {
        let is_faulty = control & 1 == 1;
        if self.faults.borrow().faults.is_empty() == is_faulty {
            let faults = if is_faulty { vec![fault()] } else { Vec::new() };
            self.faults.send_replace(Arc::new(FaultView { faults, ..FaultView::default() }));
        }
        let whole = parse(bytes);
        let cut = usize::from(control) * bytes.len() / 256;
        match parse(&bytes[..cut]) {
            Parsed::Whole(request) => assert_eq!(whole, Parsed::Whole(request), "cut at {cut}"),
            Parsed::Refused(_) => {
                assert!(matches!(whole, Parsed::Refused(_)), "{whole:?} at {cut}");
            }
            Parsed::Http2 => assert_eq!(whole, Parsed::Http2),
            Parsed::Partial => {}
        }
        let mut rest = bytes;
        while let Parsed::Whole(request) = parse(rest) {
            assert!(request.len > 0 && request.len <= rest.len());
            self.respond(&request);
            rest = &rest[request.len..];
        }
    }

    fn respond(&self, request: &Request<'_>) {
        let now = Instant::now();
        let ask = |cache: &ResponseCache| {
            let mut out = Vec::new();
            match cache.write_http1(request, request.keep, now, &mut out) {
                Ok(status) => (status, out),
                Err(route) => panic!("no probe runs, and {route:?} waits for one"),
            }
        };
        let (status, cached) = ask(&self.cache);
        let (fresh_status, fresh) = ask(&ResponseCache::new(self.router.clone()));
        assert_eq!(status, fresh_status);
        let (head, body) = well_formed(&cached, status, request);
        assert_eq!((head, body), well_formed(&fresh, status, request));
    }
}

/// Asserts that a response is well-formed; gives the lines of its header without `Date`, and its body.
fn well_formed<'a>(
    response: &'a [u8],
    status: StatusCode,
    request: &Request<'_>,
) -> (Vec<&'a str>, &'a [u8]) {
    const NAMES: [&str; 6] = [
        "Content-Type",
        "Content-Length",
        "Cache-Control",
        "X-Tocsin-Reason",
        "Allow",
        "Connection",
    ];
    let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let Some(end) = end else { panic!("no end of the header") };
    let Ok(head) = std::str::from_utf8(&response[..end]) else { panic!("a header of other bytes") };
    let body = &response[end + 4..];
    let mut lines: Vec<_> = head.split("\r\n").collect();
    let first = format!("HTTP/1.{} {} ", request.minor, status.as_u16());
    assert!(lines[0].starts_with(&first), "{}", lines[0]);
    lines.retain(|line| !line.starts_with("Date: "));
    let mut length = None;
    for line in &lines[1..] {
        let Some((name, value)) = line.split_once(": ") else { panic!("{line:?}") };
        assert!(NAMES.contains(&name), "{line:?}");
        assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        if name == "Content-Length" {
            length = value.parse().ok();
        }
    }
    if request.method == "HEAD" {
        assert!(body.is_empty());
    } else {
        assert_eq!(length, Some(body.len()));
    }
    // As many names as there may be, each as long as it may be, and each in a reason of its own.
    assert!(response.len() < 256 * 1024, "{}", response.len());
    (lines, body)
}

fn fault() -> Fault {
    Fault {
        id: "io_stall-7:3".into(),
        kind: FaultKind::IoStall,
        check: FaultKind::IoStall.check(),
        device: Dev::new(7, 3),
        device_name: "loop3".into(),
        filesystem: "ext4".into(),
        mount_points: vec!["/mnt/x\r\ny".into()],
        scope: Scope::Host,
        opened: SystemTime::UNIX_EPOCH,
        last: SystemTime::UNIX_EPOCH,
        count: 1,
        errno: None,
        kernel_ns: None,
        reason: "loop3 (7:3) ext4 on /mnt/x\r\ny: I/O does not move".into(),
        evidence: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// The properties hold for the corpus, and for the corpus with every byte changed in turn.
    #[test]
    fn requests_of_load_balancers_keep_the_properties() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/health");
        let mut count = 0;
        for file in fs::read_dir(corpus).unwrap() {
            let bytes = fs::read(file.unwrap().path()).unwrap();
            for at in 0..bytes.len() {
                for change in [0, 1, 0x20, 0x80] {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= change;
                    super::health(&bytes);
                }
            }
            count += 1;
        }
        assert!(count >= 8);
    }
}
