//! Descriptions of errors, in one line and without secrets.
//!
//! Reasons get into logs, conditions and answers that need no password. The errors of login plugins and of files carry
//! what was in them (arguments, environment, output, lines of the kubeconfig): for those, this module has its own words.

use std::{error::Error, iter::successors};

use kube::{client::AuthError, config::KubeconfigError, core::Status};

use crate::text::one_line;

/// Characters of a description, at most: a line of a log.
pub const LENGTH: usize = 300;
/// Characters of an error's text that are looked at: an API server's may be as long as it likes.
const READ: usize = 64 * 1024;

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
        let text = one_line(cause, READ);
        if let Some(status) = status(cause) {
            // kube's text has the whole object in it, and the texts around it repeat that.
            let answer = answer(status);
            match parts.last_mut() {
                Some(last) if last.contains(&text) => *last = last.replace(&text, &answer),
                _ => parts.push(answer),
            }
            break;
        }
        match parts.last_mut() {
            Some(last) if last.contains(&text) => {}
            Some(last) if text.contains(last.as_str()) => *last = text,
            _ => parts.push(text),
        }
    }
    one_line(&parts.join(": "), LENGTH)
}

/// The API server's own error.
fn status<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Status> {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => Some(status),
        _ => error.downcast_ref(),
    }
}

/// `it answers 403: Forbidden: nodes is forbidden`
fn answer(status: &Status) -> String {
    let code = if status.code == 0 { String::new() } else { format!(" {}", status.code) };
    let words = [&status.reason, &status.message].map(|text| one_line(text, LENGTH));
    let words = words.iter().filter(|text| !text.is_empty()).map(|text| format!(": {text}"));
    format!("it answers{code}{}", words.collect::<String>())
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

    use anyhow::anyhow;

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
    fn an_answer_of_the_api_server_is_told_in_its_words() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to list: {0}")]
        struct Around(#[source] kube::Error);

        let status =
            |code| Status::failure("nodes is\nforbidden", "Forbidden").with_code(code).boxed();
        let api = |code| kube::Error::Api(status(code));
        for (error, expected) in [
            (anyhow!(api(403)), "it answers 403: Forbidden: nodes is forbidden"),
            (
                anyhow!(Around(api(403))),
                "failed to list: it answers 403: Forbidden: nodes is forbidden",
            ),
            (anyhow!(api(0)).context("watch"), "watch: it answers: Forbidden: nodes is forbidden"),
            (anyhow!(*status(410)), "it answers 410: Forbidden: nodes is forbidden"),
        ] {
            assert_eq!(describe(error.as_ref()), expected);
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
