//! Tables and properties of the pure parts, and one sample of a real directory.

mod thresholds;

use std::{fs, path::Path, time::Duration};

use proptest::prelude::*;
use rustix::io::Errno;

use super::{
    judge::{Shortages, is_short, judge},
    space::{Amount, Size, Space, StatfsResult},
    statfs::space_at,
    thresholds::Limit,
    *,
};

const GIB: u64 = 1 << 30;

fn thresholds(text: &str) -> Thresholds {
    text.parse().unwrap()
}

#[test]
fn sizes_are_short() {
    for (bytes, text) in [
        (0, "0 KiB"),
        (5 << 20, "5 MiB"),
        (GIB - 1, "1023 MiB"),
        (GIB, "1.0 GiB"),
        (20 * GIB - 1, "19.9 GiB"),
        (3 << 40, "3072.0 GiB"),
    ] {
        assert_eq!(Size(bytes).to_string(), text);
    }
}

/// A filesystem of 100 GiB and a million inodes, with so many percent free of each.
fn space(dev: u64, bytes: f64, inodes: f64) -> StatfsResult {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "small and positive"
    )]
    let part =
        |size: u64, percent: f64| Amount { free: (size as f64 / 100.0 * percent) as u64, size };
    let (bytes, inodes) = (part(100 * GIB, bytes), part(1_000_000, inodes));
    StatfsResult::Space(Space { dev, bytes, inodes, is_read_only: false })
}

fn changed(look: &StatfsResult, change: impl FnOnce(&mut Space)) -> StatfsResult {
    let StatfsResult::Space(mut space) = look.clone() else { panic!() };
    change(&mut space);
    StatfsResult::Space(space)
}

/// The outcome on these results, the default paths first. `shortages` are those before, and become those after.
fn sampled(shortages: &mut Shortages, text: &str, results: &[StatfsResult]) -> Outcome {
    let targets = thresholds(text).targets(&["/images".into()]);
    assert_eq!(targets.len(), results.len());
    let sample: Vec<_> = targets.into_iter().zip(results.iter().cloned()).collect();
    let outcome;
    (*shortages, outcome) = judge(shortages, &sample);
    outcome
}

fn fail(reason: &str) -> Outcome {
    Outcome::Fail(reason.to_owned())
}

fn unknown(reason: &str) -> Outcome {
    Outcome::Unknown(reason.to_owned())
}

#[test]
fn outcomes() {
    let (good, none) = (space(1, 50.0, 50.0), StatfsResult::Missing);
    let stuck = StatfsResult::Stuck(Duration::from_millis(7_900));
    let read_only = |dev| changed(&space(dev, 0.0, 0.0), |space| space.is_read_only = true);
    let no_inodes = changed(&good, |space| space.inodes = Amount { free: 0, size: 0 });
    let no_size = changed(&good, |space| space.bytes = Amount { free: 0, size: 0 });
    for (text, results, expected) in [
        ("", [good.clone(), none.clone(), none.clone()].to_vec(), Outcome::Pass),
        ("", vec![no_inodes, none.clone(), none.clone()], Outcome::Pass),
        ("", vec![no_size.clone(), none.clone(), none.clone()], Outcome::Pass),
        (
            "",
            vec![space(1, 9.96, 50.0), none.clone(), none.clone()],
            fail("/: 9.9% of bytes free (9.9 GiB of 100.0 GiB), below 10%"),
        ),
        ("", vec![space(1, 10.0, 5.0), none.clone(), none.clone()], Outcome::Pass),
        (
            "",
            vec![good.clone(), space(2, 50.0, 4.0), none.clone()],
            fail("/var/lib/kubelet: 4.0% of inodes free (40.0k of 1.0M), below 5%"),
        ),
        (
            "",
            vec![good.clone(), none.clone(), space(2, 14.0, 1.0)],
            fail(
                "/images: 14% of bytes free (14.0 GiB of 100.0 GiB), below 15%; \
                 /images: 1.0% of inodes free (10.0k of 1.0M), below 5%",
            ),
        ),
        // On one filesystem the strictest limit counts, and the reason names its path.
        (
            "",
            vec![space(1, 14.0, 50.0), none.clone(), space(1, 14.0, 50.0)],
            fail(
                "/ (with /images): 14% of bytes free (14.0 GiB of 100.0 GiB), below 15% for /images",
            ),
        ),
        // But the operator's limits beat the defaults.
        (
            "/:5%",
            vec![space(1, 6.0, 50.0), space(1, 6.0, 50.0), space(1, 6.0, 50.0)],
            Outcome::Pass,
        ),
        (
            "/:5%,/a:7%,/b:7%",
            [1; 5].map(|dev| space(dev, 6.0, 50.0)).to_vec(),
            fail(
                "/ (with /var/lib/kubelet and 3 more): 6.0% of bytes free (6.0 GiB of 100.0 GiB), \
                 below 7% for /a",
            ),
        ),
        // An operating system's image is always full.
        ("", vec![read_only(1), good.clone(), none.clone()], Outcome::Pass),
        (
            "/:10%",
            vec![read_only(1), space(2, 50.0, 50.0), none.clone()],
            fail(
                "/: 0.0% of bytes free (0 KiB of 100.0 GiB), below 10%; \
                  /: 0.0% of inodes free (0 of 1.0M), below 5%",
            ),
        ),
        (
            "",
            vec![read_only(1), none.clone(), none.clone()],
            unknown("no filesystem that can be written was found: name a path in DISK_THRESHOLDS"),
        ),
        // Filesystems that could not be sampled.
        (
            "/data:1GiB",
            vec![good.clone(), none.clone(), none.clone(), none.clone()],
            unknown("/data does not exist"),
        ),
        (
            "/data:1GiB",
            vec![good.clone(), none.clone(), none.clone(), no_size],
            unknown("the filesystem of /data does not tell its size"),
        ),
        (
            "",
            vec![good.clone(), StatfsResult::Failed("I/O error".into()), stuck.clone()],
            unknown("statfs of /var/lib/kubelet: I/O error; statfs of /images stuck for 7 s"),
        ),
        // They never hide a shortage.
        (
            "",
            vec![space(1, 1.0, 50.0), none.clone(), stuck.clone()],
            fail("/: 1.0% of bytes free (1.0 GiB of 100.0 GiB), below 10%"),
        ),
        (
            "/a:1%,/b:1%,/c:1%",
            vec![good.clone(), none.clone(), stuck, none.clone(), none.clone(), none.clone()],
            unknown(
                "statfs of /images stuck for 7 s; /a does not exist; /b does not exist; and 1 more",
            ),
        ),
    ] {
        assert_eq!(
            sampled(&mut Shortages::default(), text, &results),
            expected,
            "{text:?} {results:?}"
        );
    }
}

#[test]
fn it_does_not_flap() {
    let mut shortages = Shortages::default();
    let mut at = |bytes| {
        sampled(
            &mut shortages,
            "",
            &[space(1, bytes, 50.0), StatfsResult::Missing, StatfsResult::Missing],
        )
    };
    let between =
        "/: 11% of bytes free (11.0 GiB of 100.0 GiB), was below 10% and passes again above 12%";
    assert_eq!(at(11.0), Outcome::Pass);
    assert!(matches!(at(9.0), Outcome::Fail(_)));
    assert_eq!(at(11.0), fail(between));
    assert_eq!(at(11.0), fail(between));
    assert!(matches!(at(12.0), Outcome::Fail(_)));
    assert_eq!(at(12.1), Outcome::Pass);
    assert_eq!(at(11.0), Outcome::Pass);
}

#[test]
fn a_shortage_belongs_to_a_filesystem_and_a_resource() {
    let mut shortages = Shortages::default();
    let mut fails = |result: StatfsResult| {
        let outcome =
            sampled(&mut shortages, "", &[result, StatfsResult::Missing, StatfsResult::Missing]);
        matches!(outcome, Outcome::Fail(_))
    };
    assert!(fails(space(1, 50.0, 4.0)));
    assert!(fails(space(1, 50.0, 5.5)));
    assert!(!fails(space(1, 11.0, 6.5)), "short of inodes is not short of bytes");
    // Another filesystem at the same path begins anew.
    assert!(fails(space(1, 9.0, 50.0)));
    assert!(!fails(space(2, 11.0, 50.0)));
    // One that hangs and comes back does not.
    assert!(fails(space(2, 9.0, 50.0)));
    assert!(!fails(StatfsResult::Stuck(Duration::from_secs(1))));
    assert!(!fails(StatfsResult::Stuck(Duration::from_secs(2))));
    assert!(fails(space(2, 11.0, 50.0)));
    // One that is gone does.
    assert!(!fails(StatfsResult::Missing));
    assert!(!fails(space(2, 11.0, 50.0)));
}

fn any_limit() -> impl Strategy<Value = Limit> {
    prop_oneof![
        (0..=100_u32).prop_map(|percent| format!("{percent}%")),
        (0..10_000_u64).prop_map(|kib| format!("{kib}Ki")),
    ]
    .prop_map(|text| thresholds(&format!("/x:{text}")).targets(&[]).pop().unwrap().bytes.limit)
}

proptest! {
    #[test]
    fn too_little_is_short_and_plenty_is_not(
        limit in any_limit(),
        size in 1..10_000_000_u64,
        samples in proptest::collection::vec(0..=1000_u64, 1..50),
    ) {
        let again = limit.recovery(size).of(size);
        prop_assert!(again >= limit.of(size));
        let mut was_short = false;
        for per_mille in samples {
            let free = size * per_mille / 1000;
            let now = is_short(was_short, Amount { free, size }, &limit);
            if free < limit.of(size) {
                prop_assert!(now);
            } else if free > again {
                prop_assert!(!now);
            } else {
                // In between, it stays as it was.
                prop_assert_eq!(now, was_short);
            }
            was_short = now;
        }
    }
}

#[tokio::test]
async fn a_real_sample_follows_links_within_its_root() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("real/deep")).unwrap();
    std::os::unix::fs::symlink("/real/deep", root.path().join("link")).unwrap();
    std::os::unix::fs::symlink("../../..", root.path().join("real/up")).unwrap();
    for path in ["/", "/real/deep", "/link", "/link/.", "/real/up/real"] {
        let space = space_at(root.path(), Path::new(path)).unwrap();
        assert!(space.bytes.size >= space.bytes.free, "{path}: {space:?}");
        assert_eq!(
            space.dev,
            fs::metadata(root.path()).map(|m| std::os::unix::fs::MetadataExt::dev(&m)).unwrap()
        );
    }
    assert_eq!(space_at(root.path(), Path::new("/real/none")), Err(Errno::NOENT));
}

#[tokio::test]
async fn the_runtime_is_asked_rarely_and_its_last_answer_stays() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let asked = Arc::<AtomicUsize>::default();
    let counter = asked.clone();
    let ask: ImageLookup = Box::new(move || {
        let first = counter.fetch_add(1, Ordering::Relaxed) == 0;
        Box::pin(async move {
            if first { Some(vec!["/images".into()]) } else { std::future::pending().await }
        })
    });
    let root = tempfile::tempdir().unwrap();
    let paths = Paths {
        root: root.path().to_owned(),
        proc: "/proc".into(),
        sys: "/sys".into(),
        mount_table: "/proc/self/mountinfo".into(),
    };
    let probe =
        Arc::new(DiskPressure::new(thresholds("/:0%"), &paths, Some(ask), Bounded::default()));
    for _ in 0..3 {
        assert_eq!(probe.images().await, [PathBuf::from("/images")]);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    lock(&probe.images).due = Some(Instant::now());
    assert_eq!(probe.images().await, [PathBuf::from("/images")]);
    assert_eq!(probe.images().await, [PathBuf::from("/images")]);
    assert_eq!(asked.load(Ordering::Relaxed), 2);
    assert_eq!(probe.sample().await, Outcome::Pass);
}
