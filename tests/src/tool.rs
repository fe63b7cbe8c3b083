//! Programs of the system: `mkfs`, `e2fsck`, `debugfs`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Runs a program to its end, whatever its exit status.
pub fn output<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> Output {
    Command::new(program)
        .args(arguments)
        // Callers parse the output, in English.
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("start {program}: {error}"))
}

/// Runs a program that has to succeed, and gives its standard output.
pub fn run<A: AsRef<OsStr>>(program: &str, arguments: &[A]) -> String {
    let output = output(program, arguments);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{program} {:?}: {}\n{}{}",
        arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        output.status,
        text(&output.stdout),
        text(&output.stderr),
    );
    text(&output.stdout)
}

/// A certificate for loopback that signs itself, and its key: files beside each other, of that path with `.crt` and `.key`.
/// Its subject is the last part of the path.
pub fn self_signed_certificate(path: &Path) -> (PathBuf, PathBuf) {
    let (cert, key) = (path.with_extension("crt"), path.with_extension("key"));
    let subject = format!("/CN={}", path.file_name().expect("a name").display());
    let curve = "ec_paramgen_curve:P-256";
    let mut arguments: Vec<&OsStr> =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-days", "2"]
            .map(OsStr::new)
            .into();
    arguments.extend(["-subj", &subject, "-addext", "subjectAltName=IP:127.0.0.1"].map(OsStr::new));
    arguments.extend([OsStr::new("-keyout"), key.as_ref(), OsStr::new("-out"), cert.as_ref()]);
    run("openssl", &arguments);
    (cert, key)
}

/// Whether a program is installed: in `PATH`, or where system tools are.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(|directory| Path::new(directory).to_owned()))
        .any(|directory| directory.join(program).is_file())
}
