//! URLs of webhooks and of the sanity check.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_STANDARD};
use hyper::{Uri, header::HeaderValue, http::uri::Authority};
use percent_encoding::percent_decode_str;

/// The URL of a webhook or of the sanity check. Shown without what may be secret: only its scheme and host.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    pub(super) is_tls: bool,
    /// With the port, without user and password.
    pub(super) authority: Authority,
    /// With the query.
    pub(super) path: String,
    /// The header for the user and the password in it.
    pub(super) authorization: Option<HeaderValue>,
}

/// A text that is no URL to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an http:// or https:// URL")]
pub struct BadUrl;

impl FromStr for Url {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let uri: Uri = text.trim().parse().map_err(|_| BadUrl)?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(BadUrl),
        };
        let full = uri.authority().ok_or(BadUrl)?.as_str();
        let (user, authority) = match full.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, full),
        };
        let authority: Authority = authority.parse().map_err(|_| BadUrl)?;
        if authority.host().is_empty() {
            return Err(BadUrl);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let authorization = user.map(|user| {
            let plain: Vec<u8> = percent_decode_str(user).collect();
            let mut value =
                HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(plain)))
                    .map_err(|_| BadUrl)?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self { is_tls, authority, path, authorization: authorization.transpose()? })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.is_tls { "https" } else { "http" }, self.authority)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self}/...)")
    }
}

impl Url {
    pub(super) fn host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }

    pub(super) fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.is_tls { 443 } else { 80 })
    }

    /// The URL of a redirect. A user and a password go with it to the same host only, and never from TLS to plain text.
    pub(super) fn redirected(&self, location: &str) -> Option<Self> {
        let mut url = if location.starts_with('/') && !location.starts_with("//") {
            Self {
                path: location.parse::<Uri>().ok()?.path_and_query()?.to_string(),
                ..self.clone()
            }
        } else {
            location.parse::<Self>().ok()?
        };
        if self.is_tls && !url.is_tls {
            return None;
        }
        if url.authorization.is_none() && url.authority == self.authority {
            url.authorization.clone_from(&self.authorization);
        }
        Some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_show_no_secret() {
        for (text, host, port, path, shown) in [
            ("http://h", "h", 80, "/", "http://h"),
            (" https://h/x?y=1 ", "h", 443, "/x?y=1", "https://h"),
            ("http://[fd00::1]:8080/a", "fd00::1", 8080, "/a", "http://[fd00::1]:8080"),
            ("https://u:p%40@h:1/secret?token=t", "h", 1, "/secret?token=t", "https://h:1"),
            ("http://h?x", "h", 80, "/?x", "http://h"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.host(), url.port(), &*url.path), (host, port, path), "{text}");
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("Url({shown}/...)"));
        }
        let url: Url = "http://u:p%40@h/".parse().unwrap();
        assert_eq!(url.authorization.unwrap(), "Basic dTpwQA==");
        for text in ["", "h", "h:80", "/x", "ftp://h/", "http://", "http:///x", "http://a b/"] {
            assert_eq!(text.parse::<Url>(), Err(BadUrl), "{text:?}");
        }
    }

    #[test]
    fn redirects_stay_safe() {
        let redirect = |from: &str, to: &str| {
            let url = from.parse::<Url>().unwrap().redirected(to)?;
            Some((format!("{url}{}", url.path), url.authorization.is_some()))
        };
        let to = |text: &str, has_password| Some((text.to_owned(), has_password));
        for (from, location, expected) in [
            ("http://u@h/a", "/b?c", to("http://h/b?c", true)),
            ("http://u@h/a", "http://h/b", to("http://h/b", true)),
            ("http://u@h/a", "http://i/b", to("http://i/b", false)),
            ("http://h/a", "https://h/b", to("https://h/b", false)),
            ("https://h/a", "http://h/b", None),
            ("http://h/a", "//i/b", None),
            ("http://h/a", "b", None),
        ] {
            assert_eq!(redirect(from, location), expected, "{from} {location}");
        }
    }
}
