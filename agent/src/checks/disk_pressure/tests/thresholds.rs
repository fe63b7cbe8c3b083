use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::{
    super::{Thresholds, thresholds::Target},
    GIB, thresholds,
};
use crate::checks::disk_pressure::settings;

/// `path: bytes, inodes`, with `!` behind what is not a default.
fn shown(targets: &[Target]) -> Vec<String> {
    let mark = |is_configured| if is_configured { "!" } else { "" };
    let line = |Target { path, is_configured, bytes, inodes }: &Target| {
        format!(
            "{}{}: {}{}, {}{}",
            path.display(),
            mark(*is_configured),
            bytes.limit,
            mark(bytes.is_configured),
            inodes.limit,
            mark(inodes.is_configured)
        )
    };
    targets.iter().map(line).collect()
}

#[test]
fn which_paths_are_sampled() {
    for (text, images, expected) in [
        (
            "",
            &[][..],
            &[
                "/: 10%, 5%",
                "/var/lib/kubelet: 10%, 5%",
                "/var/lib/containerd: 15%, 5%",
                "/var/lib/containers: 15%, 5%",
            ][..],
        ),
        (
            " , ,",
            &["/images", "/"],
            &["/var/lib/kubelet: 10%, 5%", "/images: 15%, 5%", "/: 15%, 5%"],
        ),
        (
            "/var/lib/kubelet:8%, /data/:20GiB,inodes:3%,/data:inodes:2.5%,/a b:c:1.5Ti",
            &["/images"],
            &[
                "/: 10%, 3%!",
                "/var/lib/kubelet!: 8%!, 3%!",
                "/images: 15%, 3%!",
                "/data!: 20GiB!, 2.5%!",
                "/a b:c!: 1.5Ti!, 3%!",
            ],
        ),
        (
            "/x:inodes:1%,/images:100k,/:0%",
            &["/images"],
            &["/!: 0%!, 5%", "/var/lib/kubelet: 10%, 5%", "/images!: 100k!, 5%", "/x!: 10%, 1%!"],
        ),
    ] {
        let images: Vec<_> = images.iter().map(PathBuf::from).collect();
        assert_eq!(shown(&thresholds(text).targets(&images)), expected, "{text:?}");
    }
}

#[test]
fn amounts() {
    for (text, size, of) in [
        ("/x:0%", 1000, 0),
        ("/x:100%", 1000, 1000),
        ("/x:7.5%", 1000, 75),
        ("/x:0.05%", 10_000, 5),
        ("/x:33 %", u64::MAX, 6_087_425_544_324_152_032),
        ("/x:1Ki", 0, 1 << 10),
        ("/x:1.5MiB", 0, 3 << 19),
        ("/x: 20GiB ", 0, 20 * GIB),
        ("/x:2 Ti", 0, 2 << 40),
        ("/x:5k", 0, 5_000),
        ("/x:5MB", 0, 5_000_000),
        ("/x:5G", 0, 5_000_000_000),
        ("/x:5TB", 0, 5_000_000_000_000),
    ] {
        let targets = thresholds(text).targets(&[]);
        let target = targets.iter().find(|target| target.path == Path::new("/x")).unwrap();
        assert_eq!(target.bytes.limit.of(size), of, "{text}");
    }
}

#[test]
fn bad_entries_say_what_would_be_right() {
    let many: Vec<_> = (0..=settings::DISK_PATHS).map(|n| format!("/{n}:1%")).collect();
    let many = many.join(",");
    for (text, said) in [
        ("/data", "\"/data\": not path:limit or inodes:percent, such as /var/lib/kubelet:10%"),
        (":10%", "not path:limit"),
        ("::inodes:10%", "the path does not begin with /"),
        (":inodes:10%", "not path:limit"),
        ("data:10%", "\"data:10%\": the path does not begin with /"),
        ("inode:10%", "the path does not begin with /"),
        ("/:1%,/a\nb:10%", "\"/a\\nb:10%\": the path has a control character"),
        ("/data:", "\"\" is not a number with % or a unit, such as 10%, 20GiB or 500M"),
        ("/data:ten%", "\"ten%\" is not a number"),
        ("/data:-1%", "\"-1%\" is not a number"),
        ("/data:.5%", "\".5%\" is not a number"),
        ("/data:5.%", "\"5.%\" is not a number"),
        ("/data:1.2.3%", "\"1.2.3%\" is not a number"),
        ("/data:inf%", "\"inf%\" is not a number"),
        ("/data:10", "\"10\" has no unit: write 10% or 10GiB, say"),
        ("/data:10Pi", "\"Pi\" is not a unit: there are %, KiB"),
        ("/data:1e3Gi", "\"e3Gi\" is not a unit"),
        ("/data:10%%", "\"%%\" is not a unit"),
        ("/data:100.01%", "100.01% is more than 100%"),
        ("/data:99999999999Ti", "99999999999Ti is more bytes than any filesystem has"),
        ("inodes:5Gi", "\"inodes:5Gi\": a limit of inodes is a percentage, such as 5%"),
        ("/data:inodes:5k", "a limit of inodes is a percentage"),
        ("/data:1%,/data/:2Gi", "\"/data/:2Gi\": there is another limit of this kind"),
        ("inodes:1%,inodes:1%", "there is another limit of this kind"),
        (&many, "\"/32:1%\": more than 32 paths"),
    ] {
        let error = text.parse::<Thresholds>().unwrap_err().to_string();
        assert!(error.contains(said), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{text:?}: {error}");
    }
}

#[test]
fn what_it_takes_recovery() {
    let bytes = |text: &str| thresholds(&format!("/x:{text}")).targets(&[]).pop().unwrap().bytes;
    for (limit, size, text) in [
        ("10%", GIB, "12%"),
        ("15%", GIB, "18%"),
        ("5%", GIB, "6%"),
        ("7.5%", GIB, "9%"),
        ("0%", GIB, "0%"),
        // Not above the size.
        ("95%", GIB, "97.5%"),
        ("100%", GIB, "100%"),
        ("20GiB", 100 * GIB, "24.0 GiB"),
        ("20GiB", 22 * GIB, "21.0 GiB"),
        ("20GiB", 10 * GIB, "20.0 GiB"),
    ] {
        assert_eq!(bytes(limit).limit.recovery(size).to_string(), text, "{limit}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "(/?[a-z:, ]{0,6}(inodes)?:?[0-9.]{0,5}[%KMGTiBk]{0,3},?){0,4}|.{0,40}") {
        if let Ok(thresholds) = text.parse::<Thresholds>() {
            prop_assert!(thresholds.targets(&[]).len() >= 4);
        } else if let Err(error) = text.parse::<Thresholds>() {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
