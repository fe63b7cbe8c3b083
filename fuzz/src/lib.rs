//! What must hold for every sequence of bytes. The fuzzer looks for one for which it does not.
#![expect(clippy::panic, reason = "a panic is what the fuzzer looks for")]

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use hyper::StatusCode;
use tocsin::{
    checks::{self, Policy, runner::Probes},
    health::{Board, Sources},
    model::{Dev, Fault, FaultKind, FaultView, Link, Node, NodeView, Scope, Word},
    serve::health::{
        Router,
        answers::Answers,
        request::{Parsed, Request, parse},
    },
};
use tokio::sync::watch;

thread_local! {
    /// One for all inputs, so that its cache lives through them.
    static DOOR: Door = Door::new();
}

/// Bytes on a connection to the health listener. The first one says in how many pieces they come, and whether the host
/// is well.
pub fn health(data: &[u8]) {
    let Some((&control, bytes)) = data.split_first() else { return };
    DOOR.with(|door| door.converse(control, bytes));
}

struct Door {
    router: Router,
    /// Keeps what it rendered.
    answers: Answers,
    faults: watch::Sender<Arc<FaultView>>,
}

impl Door {
    fn new() -> Self {
        let (faults, kernel) = watch::channel(Arc::default());
        let node = Node { unschedulable: true, ..Node::default() };
        let last = Some(Word { at: SystemTime::UNIX_EPOCH, node: Some(node) });
        let (_nothing_more, node) = watch::channel(Arc::new(NodeView { link: Link::Up, last }));
        let names = ["filesystem_ro", "io_errors", "io_stall"];
        let policy = Policy {
            node_name: Some("node-1".to_owned()),
            default_checks: names.iter().filter_map(|name| checks::find(name)).collect(),
            ..Policy::default()
        };
        let board =
            Board::new(Sources { kernel, node, probes: Probes::default() }, Arc::new(policy));
        let router = Router::new(board, 200);
        Self { answers: Answers::new(router.clone()), router, faults }
    }

    fn converse(&self, control: u8, bytes: &[u8]) {
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
            self.answer(&request);
            rest = &rest[request.len..];
        }
    }

    fn answer(&self, request: &Request<'_>) {
        let now = Instant::now();
        let ask = |answers: &Answers| {
            let mut out = Vec::new();
            match answers.answer(request, request.keep, now, &mut out) {
                Ok(status) => (status, out),
                Err(route) => panic!("no probe runs, and {route:?} waits for one"),
            }
        };
        let (status, kept) = ask(&self.answers);
        let (fresh_status, fresh) = ask(&Answers::new(self.router.clone()));
        assert_eq!(status, fresh_status);
        let (head, body) = well_formed(&kept, status, request);
        assert_eq!((head, body), well_formed(&fresh, status, request));
    }
}

/// The header's lines without `Date`, and the body.
fn well_formed<'a>(
    answer: &'a [u8],
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
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let Some(end) = end else { panic!("no end of the header") };
    let Ok(head) = std::str::from_utf8(&answer[..end]) else { panic!("a header of other bytes") };
    let body = &answer[end + 4..];
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
    // The longest names in the longest question, each in a reason of its own.
    assert!(answer.len() < 256 * 1024, "{}", answer.len());
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

    /// The corpus, whole and with every byte changed in turn.
    #[test]
    fn what_load_balancers_send() {
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
