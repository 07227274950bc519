//! Who may ask for what: API keys, each with a scope.
//!
//! A file holds one key a line, `scope key`, with comments after `#`. The scopes are `read` (ask and look), `write` (change
//! ads and their control, measure recall) and `admin` (versions, and what others have asked: the slow log); each includes those before it.
//! A key travels as `Authorization: Bearer KEY`. Without a file everyone may do everything, which is right behind a proxy
//! that asks for keys itself.
//!
//! Keys are kept as hashes, and every hash is compared in constant time with all of them: how long a refusal takes tells
//! nothing about how near the guess was. Neither a key nor a line of the file is ever in an error or a log.

use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, Method, StatusCode, header};
use serde::Deserialize;

use super::problem::Problem;
use crate::error::{Error, Result};

/// Least length of a key: 16 random letters and digits are 95 bits.
const LEAST_LENGTH: usize = 16;
/// Longest key that is hashed.
const LONGEST: usize = 512;

/// `[auth]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AuthSection {
    pub keys_file: PathBuf,
    pub open_metrics: bool,
    pub open_pages: bool,
}

/// What a key allows; each scope includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Read,
    Write,
    Admin,
}

/// What a route asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// No key.
    Nothing,
    /// No key where the settings say so, else one of the scope.
    Metrics,
    Page,
    Key(Scope),
}

/// The keys of one server.
#[derive(Debug)]
pub(super) struct Keys {
    /// Hash and scope of each; empty: no key is asked for.
    keys: Vec<(blake3::Hash, Scope)>,
    open_metrics: bool,
    open_pages: bool,
}

/// What the route with this pattern (of the router) asks for, by method. What is not listed asks for `admin`: a route that
/// somebody adds and forgets here is closed, not open.
pub(super) fn need(method: &Method, route: Option<&str>) -> Need {
    // Who has any key may learn that there is no such route.
    let Some(route) = route else { return Need::Key(Scope::Read) };
    let looks = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    match route {
        "/livez" | "/readyz" => Need::Nothing,
        "/metrics" => Need::Metrics,
        "/openapi.json" => Need::Page,
        page if ["/docs", "/ui"].iter().any(|root| page == *root || page.starts_with(&format!("{root}/"))) => {
            Need::Page
        }
        "/v1/slow" => Need::Key(Scope::Admin),
        _ if looks => Need::Key(Scope::Read),
        "/search" | "/v1/prompts" => Need::Key(Scope::Read),
        _ => Need::Key(of_change(route)),
    }
}

/// The scope for a request that is no GET, by the last parts of its pattern.
fn of_change(route: &str) -> Scope {
    let of_collection = route.strip_prefix("/v1/collections/{collection}/").unwrap_or_default();
    match of_collection {
        "search" | "search/batch" | "explain" => Scope::Read,
        // Measuring recall reads the whole index for each of its queries: not for everybody who may search.
        "ads" | "ads/delete" | "control" | "recall" => Scope::Write,
        _ => Scope::Admin,
    }
}

impl Keys {
    /// The keys of the settings.
    ///
    /// # Errors
    /// A file that cannot be read or has no keys; a line without a scope, with a short key, or with one that was there before.
    pub(super) fn load(settings: &AuthSection) -> Result<Keys> {
        let AuthSection { keys_file, open_metrics, open_pages } = settings;
        let mut keys = Vec::new();
        if !keys_file.as_os_str().is_empty() {
            let text = std::fs::read_to_string(keys_file).map_err(Error::io(keys_file))?;
            keys = parse(keys_file, &text)?;
        }
        Ok(Keys { keys, open_metrics: *open_metrics, open_pages: *open_pages })
    }

    /// Whether keys are asked for at all.
    pub(super) fn asked(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Refuses a request that lacks what its route asks for: 401 without a valid key, 403 where its scope is too small.
    pub(super) fn check(&self, need: Need, headers: &HeaderMap) -> std::result::Result<(), Problem> {
        let scope = match need {
            _ if !self.asked() => return Ok(()),
            Need::Nothing => return Ok(()),
            Need::Metrics if self.open_metrics => return Ok(()),
            Need::Page if self.open_pages => return Ok(()),
            Need::Metrics | Need::Page => Scope::Read,
            Need::Key(scope) => scope,
        };
        let Some(given) = headers.get(header::AUTHORIZATION) else {
            return Err(unauthorised("the request has no key", "Bearer realm=\"bigrain\""));
        };
        let invalid = "Bearer realm=\"bigrain\", error=\"invalid_token\"";
        let Some(key) = given.to_str().ok().and_then(bearer) else {
            return Err(unauthorised("the Authorization header is not \"Bearer KEY\"", invalid));
        };
        match self.scope(key) {
            None => Err(unauthorised("the key is not known", invalid)),
            Some(own) if own < scope => Err(forbidden(own, scope)),
            Some(_) => Ok(()),
        }
    }

    /// The scope of a key. All keys are looked at, whichever matches.
    fn scope(&self, key: &str) -> Option<Scope> {
        if key.len() > LONGEST {
            return None;
        }
        let hash = blake3::hash(key.as_bytes());
        // Comparing two hashes takes the same time wherever they differ.
        let matching = |found: Option<Scope>, (known, scope): &(blake3::Hash, Scope)| {
            if *known == hash { Some(*scope) } else { found }
        };
        self.keys.iter().fold(None, matching)
    }
}

/// The key of `Bearer KEY`; the scheme's capitals make no difference (RFC 9110).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim()).filter(|key| !key.is_empty())
}

fn unauthorised(detail: &str, challenge: &'static str) -> Problem {
    let remedy = "send \"Authorization: Bearer KEY\" with a key of this server";
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail, remedy);
    Problem { challenge: Some(challenge), ..problem }
}

fn forbidden(own: Scope, needed: Scope) -> Problem {
    let challenge = match needed {
        Scope::Read => "Bearer realm=\"bigrain\", error=\"insufficient_scope\", scope=\"read\"",
        Scope::Write => "Bearer realm=\"bigrain\", error=\"insufficient_scope\", scope=\"write\"",
        Scope::Admin => "Bearer realm=\"bigrain\", error=\"insufficient_scope\", scope=\"admin\"",
    };
    let detail = format!("the key has the scope {}; this asks for {}", own.name(), needed.name());
    let remedy = format!("use a key with the scope {}", needed.name());
    Problem { challenge: Some(challenge), ..Problem::new(StatusCode::FORBIDDEN, "forbidden", detail, remedy) }
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Write => "write",
            Scope::Admin => "admin",
        }
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<(blake3::Hash, Scope)>> {
    let mut keys: Vec<(blake3::Hash, Scope)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        // Whoever may read the log need not read the key: the line is named, never quoted.
        let wrong = |reason: &str| Error::input(path, format!("line {}", number + 1), reason);
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(scope) = words.next() else { continue };
        let scope = match scope {
            "read" => Scope::Read,
            "write" => Scope::Write,
            "admin" => Scope::Admin,
            _ => return Err(wrong("the first word is not read, write or admin; write \"scope key\"")),
        };
        let (Some(key), None) = (words.next(), words.next()) else {
            return Err(wrong("there is not exactly one key after the scope; write \"scope key\""));
        };
        if key.len() < LEAST_LENGTH || key.len() > LONGEST || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason =
                format!("the key is not {LEAST_LENGTH} to {LONGEST} visible ASCII characters; make a random one");
            return Err(wrong(&reason));
        }
        let hash = blake3::hash(key.as_bytes());
        if keys.iter().any(|(known, _)| *known == hash) {
            return Err(wrong("the key was given before; give each key once"));
        }
        keys.push((hash, scope));
    }
    if keys.is_empty() {
        return Err(Error::input(path, "the file", "it has no keys; add one, or leave auth.keys_file empty"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<(blake3::Hash, Scope)>> {
        parse(Path::new("keys"), text)
    }

    #[test]
    fn files_are_read_and_mistakes_name_the_line_but_not_the_key() {
        let keys = of("# ours\nread aaaaaaaaaaaaaaaa # the site\n\n  admin bbbbbbbbbbbbbbbb\n").unwrap();
        assert_eq!(keys.iter().map(|(_, scope)| *scope).collect::<Vec<_>>(), [Scope::Read, Scope::Admin]);
        let cases = [
            ("reader secretsecretsecret\n", "line 1"),
            ("read aaaaaaaaaaaaaaaa\nsecretsecretsecret\n", "line 2"),
            ("write\n", "line 1"),
            ("read secretsecretsecret and more\n", "line 1"),
            ("read secret\n", "line 1"),
            ("read secretsecretsecr\u{e9}t\n", "line 1"),
            ("read secretsecretsecret\nadmin secretsecretsecret\n", "line 2"),
            ("# nothing\n", "the file"),
        ];
        for (text, place) in cases {
            let message = of(text).unwrap_err().to_string();
            assert!(message.contains(place) && !message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn each_route_has_its_scope_and_an_unlisted_one_is_closed() {
        let of = |method: &str, route: &str| need(&method.parse().unwrap(), Some(route));
        let under = |rest: &str| format!("/v1/collections/{{collection}}/{rest}");
        for rest in ["search", "search/batch", "explain"] {
            assert_eq!(of("POST", &under(rest)), Need::Key(Scope::Read), "{rest}");
        }
        assert_eq!(of("PUT", &under("ads")), Need::Key(Scope::Write));
        for rest in ["ads/delete", "recall"] {
            assert_eq!(of("POST", &under(rest)), Need::Key(Scope::Write), "{rest}");
        }
        assert_eq!(of("PATCH", &under("control")), Need::Key(Scope::Write));
        assert_eq!(of("GET", &under("versions")), Need::Key(Scope::Read));
        for rest in ["versions", "activate", "rollback", "split", "compact", "whatever"] {
            assert_eq!(of("POST", &under(rest)), Need::Key(Scope::Admin), "{rest}");
        }
        assert_eq!(of("DELETE", "/v1/collections/{collection}"), Need::Key(Scope::Admin));
        assert_eq!(of("GET", "/v1/slow"), Need::Key(Scope::Admin));
        assert_eq!(of("GET", "/v1/status"), Need::Key(Scope::Read));
        assert_eq!((of("GET", "/docs"), of("GET", "/docs/{file}")), (Need::Page, Need::Page));
        assert_eq!((of("GET", "/livez"), of("GET", "/metrics")), (Need::Nothing, Need::Metrics));
        assert_eq!(need(&Method::GET, None), Need::Key(Scope::Read));
    }

    #[test]
    fn a_key_is_taken_only_as_a_bearer() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc"), Some("abc"));
        assert_eq!((bearer("Basic abc"), bearer("Bearer "), bearer("abc")), (None, None, None));
    }
}
