//! What scores: a language model that says how likely an answer is after a prompt.
//!
//! Processes and HTTP endpoints speak the same JSON:
//! ```json
//! {"id": 7, "prompt": "Is it good?\n", "completions": ["Yes", "No"]}
//! {"id": 7, "loglik": [-0.7, -1.1], "tokens": [1, 1]}
//! ```
//! `loglik` holds natural logarithms, one a completion; `tokens` what each consists of. A model that cannot answer says
//! `{"id": 7, "error": "..."}`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Characters of a message that an error shows.
const SHOWN: usize = 160;

/// How likely a completion is after a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Likelihood {
    /// Natural logarithm of its probability.
    pub loglik: f64,
    /// Tokens it consists of.
    pub tokens: u32,
}

impl Likelihood {
    /// Mean logarithm a token.
    pub fn mean(&self) -> f64 {
        self.loglik / f64::from(self.tokens)
    }
}

/// A language model that scores.
pub trait Scorer {
    /// What it is: scores of scorers with different names are never mixed.
    fn name(&self) -> &str;

    /// The likelihood of each completion after `prompt`.
    ///
    /// # Errors
    /// `InvalidInput` naming what was sent and what came, where it does not answer, answers too late or answers nonsense.
    fn score(&mut self, prompt: &str, completions: &[String]) -> Result<Vec<Likelihood>>;
}

#[derive(Serialize)]
struct Request<'a> {
    id: u64,
    prompt: &'a str,
    completions: &'a [String],
}

/// A request as it is sent: one line without its end.
pub(super) fn request(id: u64, prompt: &str, completions: &[String]) -> String {
    serde_json::to_string(&Request { id, prompt, completions }).expect("plain values")
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    #[serde(default)]
    loglik: Vec<f64>,
    #[serde(default)]
    tokens: Vec<u32>,
    error: Option<String>,
}

/// An error about the scorer `name`: what was sent, and what came of it.
pub(super) fn failed(name: &str, sent: &str, came: &str, remedy: &str) -> Error {
    let reason =
        format!("{came}; what was sent: {}; {remedy}. Scores so far are kept: run again to go on", shown(sent));
    Error::input(Path::new(name), "scorer", reason)
}

/// The beginning of a message, on one line.
pub(super) fn shown(text: &str) -> String {
    let mut chars = text.trim_end().chars();
    let beginning: String = chars.by_ref().take(SHOWN).collect();
    format!("{beginning:?}{}", if chars.next().is_some() { "..." } else { "" })
}

/// Reads an answer to the request `id`, which was `sent`.
pub(super) fn answer(name: &str, sent: &str, came: &str, id: u64, completions: usize) -> Result<Vec<Likelihood>> {
    let wrong = |what: String| {
        let came = format!("the answer {} {what}", shown(came));
        failed(name, sent, &came, "it must be {\"id\", \"loglik\": [...], \"tokens\": [...]}, a number a completion")
    };
    let answer: Answer = serde_json::from_str(came).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    if let Some(error) = answer.error {
        return Err(failed(name, sent, &format!("it refused: {}", shown(&error)), "change the request or the scorer"));
    }
    if answer.id != id {
        return Err(wrong(format!("is for the request {}, not for {id}", answer.id)));
    }
    if answer.loglik.len() != completions || answer.tokens.len() != completions {
        let (l, t) = (answer.loglik.len(), answer.tokens.len());
        return Err(wrong(format!("has {l} logarithms and {t} numbers of tokens for {completions} completions")));
    }
    let pairs = answer.loglik.iter().zip(&answer.tokens);
    if let Some((loglik, tokens)) = pairs.clone().find(|(l, t)| !l.is_finite() || **l > 1e-3 || **t == 0) {
        return Err(wrong(format!("gives {loglik} for {tokens} tokens; a logarithm of a probability is at most 0")));
    }
    Ok(pairs.map(|(&loglik, &tokens)| Likelihood { loglik, tokens }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_or_refused_with_both_sides() {
        let sent = request(7, "p\n", &["a".into(), "b".into()]);
        assert_eq!(sent, r#"{"id":7,"prompt":"p\n","completions":["a","b"]}"#);
        let read = |came: &str| answer("model", &sent, came, 7, 2);
        let good = read(r#"{"id": 7, "loglik": [-1.5, -3], "tokens": [1, 2]}"#).unwrap();
        assert_eq!(good[1], Likelihood { loglik: -3.0, tokens: 2 });
        assert_eq!(good[1].mean(), -1.5);
        for (came, message) in [
            ("hello", "cannot be read"),
            (r#"{"id": 8, "loglik": [-1, -1], "tokens": [1, 1]}"#, "is for the request 8, not for 7"),
            (r#"{"id": 7, "loglik": [-1], "tokens": [1, 1]}"#, "1 logarithms and 2 numbers"),
            (r#"{"id": 7, "loglik": [2, -1], "tokens": [1, 1]}"#, "gives 2 for 1 tokens"),
            (r#"{"id": 7, "loglik": [-1, -1], "tokens": [0, 1]}"#, "for 0 tokens"),
            (r#"{"id": 7, "error": "too long"}"#, "it refused: \"too long\""),
        ] {
            let error = read(came).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("what was sent") && error.contains("p\\"), "{error}");
        }
    }
}
