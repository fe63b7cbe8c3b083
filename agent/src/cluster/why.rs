//! What may be told of an error, in one line.
//!
//! The reason of a loss is in answers of the health port, which asks nobody for a password. The errors of login plugins
//! and of files carry what was in them (arguments, environment, output, lines of the kubeconfig), so those are told in
//! words of our own.

use std::{error::Error, fmt::Display};

use kube::{client::AuthError, config::KubeconfigError};

use crate::cluster::settings;

/// Characters of a reason, at most.
const LENGTH: usize = 300;

/// One line of bounded length.
pub(super) fn one_line(text: &(impl Display + ?Sized)) -> String {
    let text = text.to_string();
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(LENGTH).collect()
}

/// The chain of causes, without what the next one says again and without secrets.
pub(super) fn told<'a>(chain: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for error in chain {
        let (text, is_all) = match own_words(error) {
            Some(text) => (text, true),
            None => (one_line(error), false),
        };
        match parts.last_mut() {
            // An error's text often ends with that of its cause, which may be the one with the secret.
            Some(last) if is_all => *last = text,
            Some(last) if last.contains(&text) => {}
            Some(last) if text.contains(last.as_str()) => *last = text,
            _ => parts.push(text),
        }
        if is_all {
            // What comes before repeats it, what comes after is its source.
            return parts.pop().unwrap_or_default();
        }
    }
    // In the words of what was waited for.
    let limit = settings::API_CONNECT_TIMEOUT.as_secs();
    let told = parts
        .join(": ")
        .replace("deadline has elapsed", &format!("no connection within {limit} s"));
    one_line(&told)
}

/// What is told of an error whose own text is not for everybody.
fn own_words(error: &(dyn Error + 'static)) -> Option<String> {
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

    #[test]
    fn causes_are_told_once() {
        let told = |errors: &[&'static str]| {
            let errors: Vec<_> = errors.iter().map(|text| io::Error::other(*text)).collect();
            let chain = errors.iter().map(|error| -> &(dyn Error + 'static) { error });
            super::told(chain)
        };
        assert_eq!(
            told(&["client error", "tcp: refused", "refused"]),
            "client error: tcp: refused"
        );
        assert_eq!(told(&["a\n  b"]), "a b");
        assert_eq!(
            told(&["client error (Connect)", "deadline has elapsed"]),
            "client error (Connect): no connection within 1 s"
        );
        assert_eq!(told(&[&*Box::leak("x".repeat(9000).into_boxed_str())]).len(), LENGTH);
    }

    #[test]
    fn secrets_are_not_told() {
        let out = process::Output {
            status: process::ExitStatus::from_raw(256),
            stdout: b"SECRET".to_vec(),
            stderr: b"SECRET".to_vec(),
        };
        let auth = AuthError::AuthExecRun { cmd: "KEY=SECRET plugin".into(), out: Box::new(out) };
        let kube = kube::Error::Auth(auth);
        let around = anyhow::Error::new(kube).context("credentials");
        assert_eq!(told(around.chain()), "the kubeconfig's login plugin failed: exit status: 1");
        let yaml =
            kube::config::Kubeconfig::from_yaml("users: [{name: u, user: {token: SECRET, oops")
                .unwrap_err();
        let around = anyhow::Error::new(yaml).context("/a/b");
        let text = told(around.chain());
        assert!(!text.contains("SECRET") && text.contains("no kubeconfig"), "{text}");
    }
}
