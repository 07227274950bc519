//! The settings of a build: flag > environment > configuration file > default.
//!
//! Flags and environment are read by `clap`, the file by [`Recipe::read`]; both turn text into values by the same
//! `FromStr`, so a value means the same wherever it is written. [`Recipe::or`] lays one layer over the next.
//! `config/build.toml` names every key with its default.

use std::fmt::Display;
use std::path::Path;
use std::str::FromStr;

use bigrain::build::{BuildSpec, OnBad};
use bigrain::error::{Error, Result};
use bigrain::simd::CodeBits;
use bigrain::types::{Element, Metric};
use clap::Args;

use crate::size::Size;

/// The keys of the configuration file, as in `config/build.toml`.
pub const KEYS: [&str; 10] =
    ["metric", "lists", "code_bits", "code_bytes", "opq", "dense", "memory_limit", "threads", "seed", "on_bad"];

/// Settings that were given; None: not said here.
#[derive(Args, Clone, Debug, Default)]
pub struct Recipe {
    /// How queries and documents are compared [default: cosine]
    #[arg(long, env = "BIGRAIN_BUILD_METRIC", value_name = "ip|cosine|l2")]
    pub metric: Option<Metric>,
    /// Inverted lists; auto is about twice the square root of the rows [default: auto]
    #[arg(long, env = "BIGRAIN_BUILD_LISTS", value_name = "N|auto")]
    pub lists: Option<Auto<usize>>,
    /// Bits of a code: 4 scans faster, 8 is more accurate for the same bytes [default: 8]
    #[arg(long, env = "BIGRAIN_BUILD_CODE_BITS", value_name = "4|8")]
    pub code_bits: Option<Bits>,
    /// Code bytes a row, the budget in memory; auto is one for eight dimensions [default: auto]
    #[arg(long, env = "BIGRAIN_BUILD_CODE_BYTES", value_name = "N|auto")]
    pub code_bytes: Option<Auto<usize>>,
    /// Learn a rotation of residuals; auto does up to 512 dimensions [default: auto]
    #[arg(long, env = "BIGRAIN_BUILD_OPQ", value_name = "on|off|auto")]
    pub opq: Option<Auto<Switch>>,
    /// Element type of the dense vectors on disk [default: f32]
    #[arg(long, env = "BIGRAIN_BUILD_DENSE", value_name = "f32|f16|i8")]
    pub dense: Option<Element>,
    /// Most resident memory of the build, such as 512MiB or 4G [default: 4GiB]
    #[arg(long, env = "BIGRAIN_BUILD_MEMORY_LIMIT", value_name = "SIZE")]
    pub memory_limit: Option<Size>,
    /// Threads; auto is all that the machine has [default: auto]
    #[arg(long, env = "BIGRAIN_BUILD_THREADS", value_name = "N|auto")]
    pub threads: Option<Auto<usize>>,
    /// Seed of every random choice [default: 1]
    #[arg(long, env = "BIGRAIN_BUILD_SEED", value_name = "N")]
    pub seed: Option<u64>,
    /// What to do with a row that cannot be indexed: stop, or skip it and count it [default: fail]
    #[arg(long, env = "BIGRAIN_BUILD_ON_BAD", value_name = "fail|skip")]
    pub on_bad: Option<Bad>,
}

/// A value, or `auto`: the build chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auto<T>(pub Option<T>);

impl<T: FromStr<Err: Display>> FromStr for Auto<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Auto(None)),
            _ => text.parse().map(|value| Auto(Some(value))).map_err(|e: T::Err| format!("{e}; or write auto")),
        }
    }
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_of(text, &[("on", Switch(true)), ("off", Switch(false))])
    }
}

/// Bits of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub CodeBits);

impl FromStr for Bits {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_of(text, &[("4", Bits(CodeBits::Four)), ("8", Bits(CodeBits::Eight))])
    }
}

/// What to do with bad rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad(pub OnBad);

impl FromStr for Bad {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        one_of(text, &[("fail", Bad(OnBad::Fail)), ("skip", Bad(OnBad::Skip))])
    }
}

fn one_of<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            Err(format!("{text:?} is not one of {}", names.join(", ")))
        }
    }
}

impl Recipe {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` for text that is not TOML, an unknown key (the nearest known one is offered) or a bad value.
    pub fn read(path: &Path) -> Result<Recipe> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let table: toml::Table =
            text.parse().map_err(|e: toml::de::Error| Error::input(path, place_of(&text, &e), e.message()))?;
        let mut recipe = Recipe::default();
        for (key, value) in &table {
            let wrong = |reason: String| Error::input(path, format!("key {key:?}"), reason);
            let value = match value {
                toml::Value::String(text) => text.clone(),
                toml::Value::Integer(number) => number.to_string(),
                other => return Err(wrong(format!("a {} is neither a string nor a whole number", other.type_str()))),
            };
            recipe.set(key, &value).map_err(wrong)?;
        }
        Ok(recipe)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "metric" => put(&mut self.metric, value),
            "lists" => put(&mut self.lists, value),
            "code_bits" => put(&mut self.code_bits, value),
            "code_bytes" => put(&mut self.code_bytes, value),
            "opq" => put(&mut self.opq, value),
            "dense" => put(&mut self.dense, value),
            "memory_limit" => put(&mut self.memory_limit, value),
            "threads" => put(&mut self.threads, value),
            "seed" => put(&mut self.seed, value),
            "on_bad" => put(&mut self.on_bad, value),
            _ => Err(unknown(key)),
        }
    }

    /// What is said here, else what `lower` says.
    #[must_use]
    pub fn or(self, lower: Recipe) -> Recipe {
        Recipe {
            metric: self.metric.or(lower.metric),
            lists: self.lists.or(lower.lists),
            code_bits: self.code_bits.or(lower.code_bits),
            code_bytes: self.code_bytes.or(lower.code_bytes),
            opq: self.opq.or(lower.opq),
            dense: self.dense.or(lower.dense),
            memory_limit: self.memory_limit.or(lower.memory_limit),
            threads: self.threads.or(lower.threads),
            seed: self.seed.or(lower.seed),
            on_bad: self.on_bad.or(lower.on_bad),
        }
    }

    /// Puts what is said here in the place of the spec's defaults.
    pub fn apply(&self, spec: &mut BuildSpec) {
        spec.metric = self.metric.unwrap_or(spec.metric);
        spec.lists = self.lists.map_or(spec.lists, |lists| lists.0);
        spec.code_bits = self.code_bits.map_or(spec.code_bits, |bits| bits.0);
        spec.code_bytes = self.code_bytes.map_or(spec.code_bytes, |bytes| bytes.0);
        spec.opq = self.opq.map_or(spec.opq, |opq| opq.0.map(|on| on.0));
        spec.dense = self.dense.unwrap_or(spec.dense);
        spec.memory_limit = self.memory_limit.map_or(spec.memory_limit, |size| size.0);
        spec.seed = self.seed.unwrap_or(spec.seed);
        spec.on_bad = self.on_bad.map_or(spec.on_bad, |bad| bad.0);
    }

    /// Makes rayon's pool; all parallel work of the library runs on it.
    ///
    /// # Errors
    /// `InvalidParams` for 0 threads, or more than the system starts.
    pub fn start_threads(&self) -> Result<()> {
        let threads = self.threads.and_then(|threads| threads.0);
        if threads == Some(0) {
            return Err(Error::params("threads", "0; give 1 or more, or auto"));
        }
        // Rayon takes 0 for "as many as the machine has".
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build_global();
        pool.map_err(|error| Error::params("threads", format!("{error}; give fewer")))
    }
}

fn put<T: FromStr<Err: Display>>(field: &mut Option<T>, value: &str) -> Result<(), String> {
    *field = Some(value.parse().map_err(|e: T::Err| e.to_string())?);
    Ok(())
}

/// The line of a TOML error.
pub(crate) fn place_of(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().map_or(0, |span| span.start.min(text.len()));
    format!("line {}", text.as_bytes()[..before].iter().filter(|&&b| b == b'\n').count() + 1)
}

fn unknown(key: &str) -> String {
    let near = |known: &&str| strsim::damerau_levenshtein(key, known);
    match KEYS.into_iter().min_by_key(near).filter(|known| near(known) <= 1 + key.len() / 3) {
        Some(known) => format!("there is no such key; did you mean {known:?}?"),
        None => format!("there is no such key; the keys are {}", KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    fn default_file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/build.toml")
    }

    fn read(text: &str) -> Result<Recipe> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("build.toml");
        std::fs::write(&path, text).unwrap();
        Recipe::read(&path)
    }

    #[test]
    fn the_file_of_defaults_names_every_key_and_states_the_default() {
        let table: toml::Table = std::fs::read_to_string(default_file()).unwrap().parse().unwrap();
        assert_eq!(table.keys().map(String::as_str).collect::<BTreeSet<_>>(), KEYS.into_iter().collect());
        let defaults = BuildSpec::new("in", "out");
        // A spec that differs from the defaults in every setting: the file must bring each of them back.
        let mut spec = BuildSpec {
            metric: Metric::Ip,
            lists: Some(3),
            code_bits: CodeBits::Four,
            code_bytes: Some(4),
            opq: Some(true),
            dense: Element::I8,
            memory_limit: 1,
            seed: 99,
            on_bad: OnBad::Skip,
            ..defaults.clone()
        };
        let recipe = Recipe::read(&default_file()).unwrap();
        recipe.apply(&mut spec);
        assert_eq!(format!("{spec:?}"), format!("{defaults:?}"));
        assert_eq!(recipe.threads, Some(Auto(None)));
    }

    #[test]
    fn every_key_can_be_set_and_upper_layers_win() {
        let file = read(
            "metric='l2'\nlists=7\ncode_bits=4\ncode_bytes='auto'\nopq='off'\ndense='f16'\nmemory_limit='1G'\n\
             threads=3\nseed=5\non_bad='skip'",
        );
        let flags = Recipe { lists: Some(Auto(Some(9))), ..Recipe::default() };
        let mut spec = BuildSpec::new("in", "out");
        let recipe = flags.or(file.unwrap());
        recipe.apply(&mut spec);
        assert_eq!((spec.metric, spec.lists, spec.code_bits), (Metric::L2, Some(9), CodeBits::Four));
        assert_eq!((spec.code_bytes, spec.opq, spec.dense), (None, Some(false), Element::F16));
        assert_eq!((spec.memory_limit, spec.seed, spec.on_bad), (1 << 30, 5, OnBad::Skip));
        assert_eq!(recipe.threads, Some(Auto(Some(3))));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_named() {
        for (text, expected) in [
            ("metrics = 'l2'", "did you mean \"metric\""),
            ("memorylimit = '1G'", "did you mean \"memory_limit\""),
            ("colour = 1", "the keys are metric"),
            ("metric = 'l3'", "l3"),
            ("lists = -1", "lists"),
            ("seed = 1.5", "neither a string nor a whole number"),
            ("metric = 'l2'\nseed", "line 2"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
