//! The settings of training: flag > environment > configuration file > default.
//!
//! All layers meet in one TOML table, which is read as [`Settings`] once: a value means the same wherever it is written.
//! `config/train.toml` names every key with its default.

use std::path::Path;
use std::str::FromStr;

use bigrain::build::{auto_bytes, auto_lists};
use bigrain::error::{Error, Result};
use bigrain::learn::LearnSpec;
use bigrain::quantizer::CodeShape;
use bigrain::simd::CodeBits;
use bigrain::train::{
    CODE_ROWS, CodeTraining, DenseTraining, HeadChoice, Method, QuantizerSpec, RouterTraining, Sampling,
};
use bigrain::types::Metric;
use serde::{Deserialize, Serialize};

use crate::recipe::place_of;

/// Environment variables that begin so are settings: `BIGRAIN_TRAIN_CODES_EPOCHS` is `codes.epochs`.
const PREFIX: &str = "BIGRAIN_TRAIN_";
const SECTIONS: [&str; 4] = ["codes", "warm", "router", "dense"];

/// Everything that can be set; `config/train.toml` explains each key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs)]
pub struct Settings {
    pub method: String,
    pub metric: String,
    pub lists: toml::Value,
    pub code_bits: u8,
    pub code_bytes: toml::Value,
    pub heads: String,
    pub sampling: String,
    pub routing: String,
    pub unify: bool,
    pub seed: u64,
    pub threads: toml::Value,
    pub valid_share: f64,
    pub max_documents: usize,
    pub candidates: usize,
    pub nprobe: usize,
    pub routing_neighbours: usize,
    pub codes: CodeTraining,
    pub warm: DenseTraining,
    pub router: RouterTraining,
    pub dense: DenseTraining,
}

fn auto() -> toml::Value {
    toml::Value::String("auto".into())
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            method: "contrastive".into(),
            metric: "cosine".into(),
            lists: auto(),
            code_bits: 8,
            code_bytes: auto(),
            heads: "none".into(),
            sampling: "none".into(),
            routing: "auto".into(),
            unify: false,
            seed: 1,
            threads: auto(),
            valid_share: 0.05,
            max_documents: 1_000_000,
            candidates: 200,
            nprobe: 0,
            routing_neighbours: 0,
            codes: CodeTraining::default(),
            warm: DenseTraining::default(),
            router: RouterTraining::default(),
            dense: DenseTraining::default(),
        }
    }
}

impl Settings {
    /// The settings in force: the defaults, then `file`, then the environment, then `flags` (dotted key, text).
    ///
    /// # Errors
    /// `Io`; `InvalidInput` and `InvalidParams` for text that is not TOML, unknown keys and bad values, with their origin.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Settings> {
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
                let wrong = |e: toml::de::Error| Error::input(path, place_of(&text, &e), e.message());
                // Read alone first, so that what is wrong with the file is said of the file.
                toml::from_str::<Settings>(&text).map_err(wrong)?;
                text.parse::<toml::Table>().map_err(wrong)?
            }
        };
        for (name, text) in environment {
            if let Some(key) = name.strip_prefix(PREFIX).map(str::to_lowercase) {
                if key == "config" {
                    continue;
                }
                let section = SECTIONS.iter().find(|s| key.starts_with(&format!("{s}_")));
                let key = match section {
                    Some(section) => format!("{section}.{}", &key[section.len() + 1..]),
                    None => key,
                };
                lay(&mut table, &key, &text);
                read(&table, &format!("environment {name}"))?;
            }
        }
        for (key, text) in flags {
            lay(&mut table, key, text);
            read(&table, &format!("flag {key}"))?;
        }
        read(&table, "settings")
    }

    /// What `learn` is to do, for documents of `rows` x `dim` values. Paths are those of `paths`.
    ///
    /// # Errors
    /// `InvalidParams` for values that no setting can have.
    pub fn spec(&self, rows: u64, dim: usize, paths: LearnPaths) -> Result<LearnSpec> {
        let metric: Metric = self.metric.parse()?;
        let lists = number("lists", &self.lists)?.unwrap_or_else(|| auto_lists(rows));
        if lists == 0 || lists as u64 > rows {
            return Err(Error::params("lists", format!("{lists}; give 1 to the number of rows, {rows}, or auto")));
        }
        let bytes = number("code_bytes", &self.code_bytes)?.unwrap_or_else(|| auto_bytes(dim));
        let shape = CodeShape::new(CodeBits::from_count(self.code_bits)?, bytes)?;
        let heads: HeadChoice = self.heads.parse()?;
        let codes = match self.method.as_str() {
            "opq" => None,
            method => {
                let method: Method = method.parse().map_err(|_| {
                    Error::params("method", format!("{method:?} is not one of opq, contrastive, distill"))
                })?;
                let (hidden, seed) = (self.warm.hidden, self.seed);
                Some(CodeTraining { method, metric, lists, shape, heads, hidden, seed, ..self.codes.clone() })
            }
        };
        let dense = match self.sampling.as_str() {
            "none" => None,
            text => {
                let sampling: Sampling = text.parse().map_err(|_| {
                    let names = "none, random, ann, ann-in-batch, walk, snowball";
                    Error::params("sampling", format!("{text:?} is not one of {names}"))
                })?;
                Some(DenseTraining { metric, sampling, seed: self.seed, ..self.dense.clone() })
            }
        };
        let routing = match self.routing.as_str() {
            "off" => false,
            "on" => true,
            "auto" => lists > 1 && paths.queries.is_some() && codes.is_some(),
            other => return Err(Error::params("routing", format!("{other:?} is not one of on, off, auto"))),
        };
        let warm = (heads != HeadChoice::None && codes.is_some()).then(|| DenseTraining {
            metric,
            sampling: Sampling::Random,
            seed: self.seed,
            ..self.warm.clone()
        });
        Ok(LearnSpec {
            input: paths.input,
            column: paths.column,
            queries: paths.queries,
            pairs: paths.pairs,
            valid: paths.valid,
            valid_share: self.valid_share,
            output: paths.output,
            metric,
            max_documents: self.max_documents,
            seed: self.seed,
            codes,
            opq: QuantizerSpec { metric, lists, shape, opq: true, code_rows: CODE_ROWS, seed: self.seed },
            warm,
            routing: routing.then(|| RouterTraining { seed: self.seed, ..self.router.clone() }),
            routing_neighbours: self.routing_neighbours,
            dense,
            candidates: self.candidates,
            nprobe: self.nprobe,
            unify: self.unify,
        })
    }

    /// Threads to work on; None: all that the machine has.
    ///
    /// # Errors
    /// `InvalidParams` for what is neither a number above 0 nor "auto".
    pub fn threads(&self) -> Result<Option<usize>> {
        match number("threads", &self.threads)? {
            Some(0) => Err(Error::params("threads", "0; give 1 or more, or auto")),
            threads => Ok(threads),
        }
    }
}

/// Files of a training run.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct LearnPaths {
    pub input: std::path::PathBuf,
    pub column: Option<String>,
    pub queries: Option<std::path::PathBuf>,
    pub pairs: Option<std::path::PathBuf>,
    pub valid: Option<std::path::PathBuf>,
    pub output: std::path::PathBuf,
}

/// A whole number, or "auto".
fn number(name: &'static str, value: &toml::Value) -> Result<Option<usize>> {
    match value {
        toml::Value::Integer(n) if *n >= 0 => Ok(Some(*n as usize)),
        toml::Value::String(text) if text == "auto" => Ok(None),
        other => {
            let said = match other {
                toml::Value::Integer(n) => n.to_string(),
                toml::Value::String(text) => format!("{text:?}"),
                other => format!("a {}", other.type_str()),
            };
            Err(Error::params(name, format!("{said} is neither a whole number nor \"auto\"")))
        }
    }
}

/// Puts `text` at a dotted key: as the TOML value it looks like, else as a string.
fn lay(table: &mut toml::Table, key: &str, text: &str) {
    let value = toml::Value::from_str(text).unwrap_or_else(|_| toml::Value::String(text.into()));
    match key.split_once('.') {
        Some((section, key)) => {
            let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(section) = entry {
                section.insert(key.into(), value);
            }
        }
        None => {
            table.insert(key.into(), value);
        }
    }
}

fn read(table: &toml::Table, origin: &str) -> Result<Settings> {
    let settings: std::result::Result<Settings, toml::de::Error> = toml::Value::Table(table.clone()).try_into();
    settings.map_err(|e| Error::params("setting", format!("{origin}: {}", e.message())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn default_file() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/train.toml")
    }

    fn keys(table: &toml::Table, prefix: &str, out: &mut BTreeSet<String>) {
        for (key, value) in table {
            match value {
                toml::Value::Table(inner) => keys(inner, &format!("{prefix}{key}."), out),
                _ => {
                    out.insert(format!("{prefix}{key}"));
                }
            }
        }
    }

    #[test]
    fn the_file_of_defaults_states_the_default_of_every_key_and_nothing_else() {
        let settings = Settings::load(Some(&default_file()), [], &[]).unwrap();
        assert_eq!(settings, Settings::default());
        let table: toml::Table = std::fs::read_to_string(default_file()).unwrap().parse().unwrap();
        let mut named = BTreeSet::new();
        keys(&table, "", &mut named);
        let mut fields = BTreeSet::new();
        keys(&toml::Table::try_from(Settings::default()).unwrap(), "", &mut fields);
        assert_eq!(named, fields);
    }

    #[test]
    fn upper_layers_win_and_origins_are_named() {
        let environment = [("BIGRAIN_TRAIN_CODES_EPOCHS", "7"), ("BIGRAIN_TRAIN_LISTS", "64"), ("HOME", "x")];
        let environment = environment.map(|(a, b)| (a.to_string(), b.to_string()));
        let flags = [("lists", "32".to_string()), ("heads", "both".to_string())];
        let settings = Settings::load(None, environment, &flags).unwrap();
        assert_eq!((settings.codes.epochs, settings.heads.as_str()), (7, "both"));
        assert_eq!(settings.lists, toml::Value::Integer(32));
        let wrong = [("BIGRAIN_TRAIN_CODES_EPOCH".to_string(), "7".to_string())];
        let message = Settings::load(None, wrong, &[]).unwrap_err().to_string();
        assert!(message.contains("BIGRAIN_TRAIN_CODES_EPOCH") && message.contains("epochs"), "{message}");
        let message = Settings::load(None, [], &[("codes.batch", "many".into())]).unwrap_err().to_string();
        assert!(message.contains("flag codes.batch"), "{message}");
    }

    #[test]
    fn values_that_no_setting_can_have_are_refused() {
        let paths =
            LearnPaths { input: "a".into(), column: None, queries: None, pairs: None, valid: None, output: "b".into() };
        for (key, text, expected) in [
            ("method", "magic", "contrastive"),
            ("sampling", "magic", "snowball"),
            ("lists", "5000", "number of rows"),
            ("lists", "-1", "neither"),
            ("routing", "perhaps", "auto"),
            ("code_bytes", "3", "bytes"),
            ("metric", "l3", "cosine"),
        ] {
            let settings = Settings::load(None, [], &[(key, text.to_string())]).unwrap();
            let message = settings.spec(1000, 16, paths.clone()).unwrap_err().to_string();
            assert!(message.contains(expected), "{key} {text}: {message}");
        }
    }
}
