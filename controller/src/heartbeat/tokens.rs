//! Who may ask: tokens, and what a request shows of one. PURE.
//!
//! Neither a token nor what a request shows is ever printed: [`Tokens`] keeps digests, and has no text of them.

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HeaderValue},
};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use subtle::{Choice, ConstantTimeEq};

/// The default of the replaced controller, which everybody knows.
const WELL_KNOWN: &str = "xxx";

/// Tokens in a file, at most: two for a rotation, and one for each team.
const TOKENS: usize = 256;

/// A token that cannot be used; the text does not have it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTokens {
    /// The default of the controller which this replaces.
    #[error("\"xxx\" is the well-known default and no token")]
    WellKnown,
    /// No token.
    #[error("there is no token in it")]
    None,
    /// More than [`TOKENS`].
    #[error("more than {TOKENS} tokens")]
    TooMany,
}

/// The tokens that are accepted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<Token>);

#[derive(Clone, PartialEq, Eq)]
struct Token {
    /// Of equal length whatever the token's, for a comparison in constant time.
    digest: [u8; SHA256_OUTPUT_LEN],
    /// The namespaces that it is good for; empty for all.
    namespaces: Vec<String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokens({})", self.0.len())
    }
}

/// Namespaces: those that a token lets its holder see, or whose badges everybody may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every namespace.
    All,
    /// These.
    Namespaces(Vec<String>),
}

impl Scope {
    /// Whether the namespace is in it.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => names.iter().any(|name| name == namespace),
        }
    }
}

impl Tokens {
    /// One token that is good for everything.
    pub fn one(token: &str) -> Result<Self, BadTokens> {
        Self::parse_lines([(token.trim(), Vec::new())])
    }

    /// A token a line, with the namespaces that it is good for behind it (`s3cret team-a,team-b`); empty lines and lines
    /// with `#` in front are passed over.
    pub fn parse(text: &str) -> Result<Self, BadTokens> {
        let lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self::parse_lines(lines.map(|line| {
            let (token, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let names = rest.split([',', ' ', '\t']).filter(|name| !name.is_empty());
            (token, names.map(str::to_owned).collect())
        }))
    }

    fn parse_lines<'a>(
        lines: impl IntoIterator<Item = (&'a str, Vec<String>)>,
    ) -> Result<Self, BadTokens> {
        let mut tokens = Vec::new();
        for (token, namespaces) in lines {
            if token == WELL_KNOWN {
                return Err(BadTokens::WellKnown);
            }
            if token.is_empty() {
                return Err(BadTokens::None);
            }
            tokens.push(Token { digest: sha256(token.as_bytes()), namespaces });
        }
        match tokens.len() {
            0 => Err(BadTokens::None),
            count if count > TOKENS => Err(BadTokens::TooMany),
            _ => Ok(Self(tokens)),
        }
    }

    /// These and those.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }

    /// What the holder of one of these candidates may see; `None` where none of them is a token. Every token is compared
    /// with every candidate, so the time says nothing about which one was nearly right.
    fn scope(&self, candidates: &[Vec<u8>]) -> Option<Scope> {
        let mut found: Option<&Token> = None;
        for candidate in candidates {
            let digest = sha256(candidate);
            for token in &self.0 {
                let is_equal: Choice = digest.ct_eq(&token.digest);
                if bool::from(is_equal) {
                    found = Some(token);
                }
            }
        }
        found.map(|token| match &token.namespaces[..] {
            [] => Scope::All,
            names => Scope::Namespaces(names.to_vec()),
        })
    }
}

fn sha256(bytes: &[u8]) -> [u8; SHA256_OUTPUT_LEN] {
    let mut output = [0; SHA256_OUTPUT_LEN];
    output.copy_from_slice(digest(&SHA256, bytes).as_ref());
    output
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It shows a token.
    Granted(Scope),
    /// 401: it shows nothing.
    Missing,
    /// 403: it shows something else.
    Wrong,
}

/// Checks what a request shows: `Authorization` with `Basic` (the token itself, or the base64 of `user:password` where
/// the whole or the password is the token) or `Bearer`, or else the query's `token`.
///
/// The replaced controller knows `Basic` with the raw token only, spelled so, and takes any other scheme for none: a
/// request with one that shows no token is judged by its query.
#[must_use]
pub fn check(tokens: &Tokens, headers: &HeaderMap, query: &str) -> Access {
    let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    let (scheme, shown) = header.map_or((&b""[..], &b""[..]), |value| {
        let space = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
        (&value[..space], value.get(space + 1..).unwrap_or_default())
    });
    if !shown.is_empty() {
        let mut candidates = Vec::new();
        if scheme.eq_ignore_ascii_case(b"basic") {
            candidates.push(shown.to_vec());
            candidates.extend(decoded(shown));
        } else if scheme.eq_ignore_ascii_case(b"bearer") {
            candidates.push(shown.trim_ascii().to_vec());
        }
        if let Some(scope) = tokens.scope(&candidates) {
            return Access::Granted(scope);
        }
        if scheme == b"Basic" {
            return Access::Wrong;
        }
    }
    let token = form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == "token");
    match token.map(|(_, value)| value).filter(|value| !value.is_empty()) {
        Some(token) => match tokens.scope(&[token.as_bytes().to_vec()]) {
            Some(scope) => Access::Granted(scope),
            None => Access::Wrong,
        },
        None => Access::Missing,
    }
}

/// What is behind base64: `user:password`, and the password.
fn decoded(shown: &[u8]) -> Vec<Vec<u8>> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let Ok(pair) = STANDARD.decode(shown.trim_ascii()) else { return Vec::new() };
    let password =
        pair.iter().position(|byte| *byte == b':').map(|colon| pair[colon + 1..].to_vec());
    [Some(pair), password].into_iter().flatten().filter(|text| !text.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(tokens: &Tokens, header: Option<&str>, query: &str) -> Access {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(AUTHORIZATION, header.parse().unwrap());
        }
        check(tokens, &headers, query)
    }

    #[test]
    fn the_table_of_the_reference_and_beyond() {
        // The base64 of test:test.
        let tokens = Tokens::one("dGVzdDp0ZXN0").unwrap();
        let granted = || Access::Granted(Scope::All);
        for (header, query, expected) in [
            (None, "", Access::Missing),
            (None, "token=", Access::Missing),
            (None, "token=dGVzdDp0ZXN0", granted()),
            (None, "a=b&token=dGVzdDp0ZXN0&token=other", granted()),
            (None, "token=other&token=dGVzdDp0ZXN0", Access::Wrong),
            (None, "token=wrong", Access::Wrong),
            (Some("Basic dGVzdDp0ZXN0"), "", granted()),
            (Some("Basic wrong"), "token=dGVzdDp0ZXN0", Access::Wrong),
            (Some("Basic "), "token=dGVzdDp0ZXN0", granted()),
            (Some("Basic "), "", Access::Missing),
            (Some("Basic"), "", Access::Missing),
            (Some("Bearer wrong"), "", Access::Missing),
            (Some("Bearer wrong"), "token=dGVzdDp0ZXN0", granted()),
            (Some("basic wrong"), "", Access::Missing),
            // Beyond the reference.
            (Some("basic dGVzdDp0ZXN0"), "", granted()),
            (Some("Bearer dGVzdDp0ZXN0"), "", granted()),
        ] {
            assert_eq!(access(&tokens, header, query), expected, "{header:?} {query}");
        }
        // A token with a plus, which is a space in a query.
        let plus = Tokens::one("a+b").unwrap();
        assert_eq!(access(&plus, None, "token=a+b"), Access::Wrong);
        assert_eq!(access(&plus, None, "token=a%2Bb"), granted());
    }

    #[test]
    fn user_and_password_are_decoded() {
        for token in ["test:test", "dGVzdDp0ZXN0", "test"] {
            let tokens = Tokens::one(token).unwrap();
            assert_eq!(
                access(&tokens, Some("Basic dGVzdDp0ZXN0"), ""),
                Access::Granted(Scope::All),
                "{token}"
            );
        }
        assert_eq!(
            access(&Tokens::one("tes").unwrap(), Some("Basic dGVzdDp0ZXN0"), ""),
            Access::Wrong
        );
    }

    #[test]
    fn several_tokens_and_their_namespaces() {
        let tokens = Tokens::parse("# for the status page\nold\nnew team-a, team-b\n\n").unwrap();
        assert_eq!(access(&tokens, Some("Bearer old"), ""), Access::Granted(Scope::All));
        let Access::Granted(scope) = access(&tokens, Some("Bearer new"), "") else { panic!() };
        assert!(scope.contains("team-a") && scope.contains("team-b") && !scope.contains("team-c"));
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
    }

    #[test]
    fn what_is_no_token() {
        assert_eq!(Tokens::one("xxx"), Err(BadTokens::WellKnown));
        assert_eq!(Tokens::parse("a\nxxx team-a"), Err(BadTokens::WellKnown));
        assert_eq!(Tokens::one(" "), Err(BadTokens::None));
        assert_eq!(Tokens::parse("# nothing\n"), Err(BadTokens::None));
        assert_eq!(Tokens::parse(&"a\n".repeat(257)), Err(BadTokens::TooMany));
    }
}
