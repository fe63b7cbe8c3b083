//! Descriptions of errors, in one line and without secrets.
//!
//! Reasons get into logs, conditions and answers that need no password. The errors of login plugins and of files carry
//! what was in them (arguments, environment, output, lines of the kubeconfig): for those, this module has its own words.

use std::{error::Error, iter::successors};

use kube::{client::AuthError, config::KubeconfigError};

use crate::text::one_line;

/// Characters of a description, at most: a line of a log.
pub const LENGTH: usize = 300;

/// One line about an error and its causes, each told once, without secrets; at most [`LENGTH`] characters.
#[must_use]
pub fn describe(error: &(dyn Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in successors(Some(error), |&error| error.source()) {
        if let Some(text) = redacted(cause) {
            // An error's text often ends with that of its cause, so the part before repeats the secret; what comes
            // after is where it comes from.
            return text;
        }
        let text = one_line(cause, LENGTH);
        match parts.last_mut() {
            Some(last) if last.contains(&text) => {}
            Some(last) if text.contains(last.as_str()) => *last = text,
            _ => parts.push(text),
        }
    }
    one_line(&parts.join(": "), LENGTH)
}

/// The words for an error whose own text is not for everybody.
fn redacted(error: &(dyn Error + 'static)) -> Option<String> {
    let auth = error.downcast_ref::<AuthError>().or_else(|| match error.downcast_ref() {
        Some(kube::Error::Auth(auth)) => Some(auth),
        _ => None,
    });
    if let Some(auth) = auth {
        return Some(match auth {
            AuthError::AuthExecRun { out, .. } => {
                format!("the kubeconfig's login plugin failed: {}", out.status)
            }
            AuthError::AuthExecStart(error) => {
                format!("the kubeconfig's login plugin cannot be started: {error}")
            }
            AuthError::AuthExecParse(_) | AuthError::ParseTokenKey(_) => {
                "what the kubeconfig's login plugin says cannot be read".to_owned()
            }
            AuthError::ReadTokenFile(error, path) => {
                format!("the token file {}: {error}", path.display())
            }
            _ => "the kubeconfig's credentials cannot be used".to_owned(),
        });
    }
    match error.downcast_ref::<KubeconfigError>()? {
        KubeconfigError::Parse(_) => {
            Some("it is no kubeconfig: not YAML, or not its fields".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::{io, os::unix::process::ExitStatusExt, process};

    use super::*;

    /// An error with these texts, the first one outermost.
    fn chain(texts: &[&'static str]) -> anyhow::Error {
        let (last, before) = texts.split_last().unwrap();
        let last = anyhow::Error::new(io::Error::other(*last));
        before.iter().rev().fold(last, |error, text| error.context(*text))
    }

    #[test]
    fn causes_are_told_once() {
        let long: &str = Box::leak("x".repeat(9000).into_boxed_str());
        for (texts, expected) in [
            (&["client error", "tcp: refused", "refused"][..], "client error: tcp: refused"),
            (&["refused", "tcp: refused"], "tcp: refused"),
            (&["a\n  b"], "a b"),
            (&[long], &long[..LENGTH]),
            (&["a", long], &format!("a: {}", &long[..LENGTH - 3])),
        ] {
            assert_eq!(describe(chain(texts).as_ref()), expected);
        }
    }

    #[test]
    fn secrets_are_not_told() {
        let out = process::Output {
            status: process::ExitStatus::from_raw(256),
            stdout: b"SECRET".to_vec(),
            stderr: b"SECRET".to_vec(),
        };
        let auth = AuthError::AuthExecRun { cmd: "KEY=SECRET plugin".into(), out: Box::new(out) };
        let around = anyhow::Error::new(kube::Error::Auth(auth)).context("credentials");
        assert_eq!(
            describe(around.as_ref()),
            "the kubeconfig's login plugin failed: exit status: 1"
        );
        let yaml =
            kube::config::Kubeconfig::from_yaml("users: [{name: u, user: {token: SECRET, oops")
                .unwrap_err();
        let around = anyhow::Error::new(yaml).context("/a/b");
        let text = describe(around.as_ref());
        assert!(!text.contains("SECRET") && text.contains("no kubeconfig"), "{text}");
    }
}
