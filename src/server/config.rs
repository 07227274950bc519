//! The settings of the server: `flag > environment > file > default`.
//!
//! The easy version is a struct with defaults in code and a file that repeats them. Here `config/server.toml` *is* the
//! defaults: it is compiled in, so what people read cannot disagree with what runs. The other sources are laid over
//! that table key by key, and each key remembers where its value came from, which is what `bigrain config` prints.
//! Only then is the table turned into [`ServerConfig`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::admission::AdmissionSection;
use super::auth::AuthSection;
use super::nearest::nearest;
use super::prompts::PromptsSection;
use super::slow_log::SlowLogSection;
use super::telemetry::LogSection;
use super::tls::TlsSection;
use crate::ads::{AdSettings, CollectionOptions};
use crate::dense::{OpenOptions, Store, Tier};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::index::Manifest;

/// The defaults, with a line on each key.
pub const DEFAULTS: &str = include_str!("../../config/server.toml");

/// Settings whose values are paths: in a file they are relative to the folder of that file.
const PATHS: [&str; 10] = [
    "known_queries.texts",
    "known_queries.vectors",
    "auth.keys_file",
    "tls.certificate",
    "tls.key",
    "ads.state",
    "ads.versions",
    "encoder.path",
    "encoder.adapters",
    "prompts.pool",
];

/// Everything that can be set; `config/server.toml` explains each key.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // One explanation a key, and it is in the file.
pub struct ServerConfig {
    pub server: ServerSection,
    pub index: IndexSection,
    pub ads: AdsSection,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub workers: Workers,
    pub admission: AdmissionSection,
    pub auth: AuthSection,
    pub tls: TlsSection,
    pub log: LogSection,
    pub slow_log: SlowLogSection,
    pub known_queries: KnownQueriesSection,
    pub encoder: EncoderSection,
    pub prompts: PromptsSection,
}

/// `[server]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct ServerSection {
    pub listen: String,
    pub collection: String,
}

/// `[index]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct IndexSection {
    pub store: Store,
    pub direct: bool,
    pub page_cache_bytes: u64,
    pub dense_tier: Tier,
}

impl IndexSection {
    /// How the index is to be opened.
    pub fn options(&self) -> OpenOptions {
        let IndexSection { store, direct, page_cache_bytes, dense_tier } = *self;
        OpenOptions { store, direct, page_cache: page_cache_bytes, tier: dense_tier }
    }
}

/// `[ads]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct AdsSection {
    pub state: PathBuf,
    pub versions: PathBuf,
    pub group_attribute: String,
    pub default_ctr: f32,
    pub compact_changes: usize,
    pub canary_recall: f64,
    pub least_free_mib: u64,
    pub recall_every: u64,
}

impl AdsSection {
    /// How the collection is run, its versions opened as `open` says.
    pub fn options(&self, open: OpenOptions) -> CollectionOptions {
        let given = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_path_buf());
        CollectionOptions {
            open,
            settings: AdSettings { group_attribute: self.group_attribute.clone(), default_ctr: self.default_ctr },
            state: given(&self.state),
            versions: given(&self.versions),
            canary_recall: self.canary_recall,
            compact_changes: self.compact_changes,
            least_free: self.least_free_mib.saturating_mul(1 << 20),
        }
    }
}

/// `[limits]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Limits {
    pub body_bytes: usize,
    pub connections: usize,
    pub hits: usize,
    pub nprobe: usize,
    pub candidates: usize,
    pub batch: usize,
    pub exact: bool,
}

/// `[timeouts]`, all in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Timeouts {
    pub search_ms: u64,
    pub search_max_ms: u64,
    pub header_ms: u64,
    pub body_ms: u64,
    pub drain_ms: u64,
}

/// `[workers]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Workers {
    pub threads: usize,
    pub queue: usize,
}

/// `[known_queries]`; an empty path is none.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct KnownQueriesSection {
    pub texts: PathBuf,
    pub vectors: PathBuf,
}

/// `[encoder]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct EncoderSection {
    pub path: PathBuf,
    pub adapters: PathBuf,
}

impl EncoderSection {
    /// Opens the encoder for query texts, if there is one, and says what is to be known of it.
    ///
    /// # Errors
    /// As [`Manifest::open_encoder`].
    pub fn open(&self, manifest: &Manifest) -> Result<(Option<Encoder>, Vec<String>)> {
        manifest.open_encoder((!self.path.as_os_str().is_empty()).then_some(&self.path))
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Settings::defaults().config().expect("config/server.toml is tested to be complete")
    }
}

/// A table of settings in which each knows where it came from.
#[derive(Clone, Debug)]
pub struct Settings {
    values: BTreeMap<String, (Value, String)>,
}

impl Settings {
    /// `config/server.toml` as it was compiled in.
    pub fn defaults() -> Settings {
        let table: Table = DEFAULTS.parse().expect("config/server.toml is tested to parse");
        let values = flatten(table).into_iter().map(|(key, value)| (key, (value, "default".to_string()))).collect();
        Settings { values }
    }

    /// The settings in force: the defaults, then `file`, then `environment`, then `flags` (dotted key, value).
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown key (the nearest known one is offered), a value of another
    /// type than the default's.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(&str, String)],
    ) -> Result<Settings> {
        let mut settings = Settings::defaults();
        if let Some(path) = file {
            settings.lay_file(path)?;
        }
        for (name, text) in environment {
            settings.lay_variable(&name, &text)?;
        }
        for (key, text) in flags {
            settings.lay_text(key, text, "flag".to_string())?;
        }
        Ok(settings)
    }

    /// The settings as the server reads them.
    ///
    /// # Errors
    /// A value out of its range, with its key.
    pub fn config(&self) -> Result<ServerConfig> {
        let mut table = Table::new();
        for (key, (value, _)) in &self.values {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            section.as_table_mut().expect("sections are tables").insert(name.to_string(), value.clone());
        }
        let config: ServerConfig = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
            let key = error.path().to_string();
            let origin = self.values.get(&key).map_or("default", |(_, origin)| origin.as_str());
            Error::params("configuration", format!("{key} (from {origin}): {}", one_line(error.inner().message())))
        })?;
        config.check()?;
        Ok(config)
    }

    /// The settings in force as TOML, each with its origin in a comment.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut open = "";
        for (key, (value, origin)) in &self.values {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            if section != open {
                let gap = if open.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{section}]");
                open = section;
            }
            let _ = writeln!(text, "{name} = {value} # {origin}");
        }
        text
    }

    /// The settings in force as JSON: `{"section": {"key": {"value": .., "origin": ".."}}}`.
    pub fn to_json(&self) -> String {
        let mut sections: BTreeMap<&str, BTreeMap<&str, serde_json::Value>> = BTreeMap::new();
        for (key, (value, origin)) in &self.values {
            let (section, name) = key.split_once('.').unwrap_or(("", key));
            let entry = serde_json::json!({"value": value, "origin": origin});
            sections.entry(section).or_default().insert(name, entry);
        }
        serde_json::to_string_pretty(&sections).unwrap_or_default()
    }

    fn lay_file(&mut self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Error::input(path, format!("line {line}"), one_line(error.message()))
        })?;
        for (key, mut value) in flatten(table) {
            self.known(&key).map_err(|reason| Error::input(path, format!("key {key}"), reason))?;
            if let (true, Value::String(text)) = (PATHS.contains(&key.as_str()), &value)
                && !text.is_empty()
            {
                let folder = path.parent().unwrap_or(Path::new(""));
                value = Value::String(folder.join(text).to_string_lossy().into_owned());
            }
            self.values.insert(key, (value, path.display().to_string()));
        }
        Ok(())
    }

    /// `BIGRAIN_LIMITS_BATCH=64`; variables outside the sections of the file belong to others and are passed over.
    fn lay_variable(&mut self, name: &str, text: &str) -> Result<()> {
        let Some(rest) = name.strip_prefix("BIGRAIN_") else { return Ok(()) };
        let rest = rest.to_ascii_lowercase();
        let sections = self.values.keys().filter_map(|key| key.split_once('.')).map(|(section, _)| section);
        let split = |section: &str| Some((section.to_string(), rest.strip_prefix(section)?.strip_prefix('_')?));
        let Some((section, key)) = sections.filter_map(split).max_by_key(|(s, _)| s.len()) else { return Ok(()) };
        self.lay_text(&format!("{section}.{key}"), text, format!("environment {name}"))
    }

    fn lay_text(&mut self, key: &str, text: &str, origin: String) -> Result<()> {
        self.known(key).map_err(|reason| Error::params("configuration", format!("{key} (from {origin}): {reason}")))?;
        let value = match &self.values[key].0 {
            Value::Integer(_) => text.parse().map(Value::Integer).ok(),
            Value::Boolean(_) => text.parse().map(Value::Boolean).ok(),
            Value::Float(_) => text.parse().map(Value::Float).ok(),
            _ => Some(Value::String(text.to_string())),
        };
        let value = value.ok_or_else(|| {
            let kind = self.values[key].0.type_str();
            Error::params("configuration", format!("{key} (from {origin}): {text:?} is not of type {kind}"))
        })?;
        self.values.insert(key.to_string(), (value, origin));
        Ok(())
    }

    fn known(&self, key: &str) -> std::result::Result<(), String> {
        if self.values.contains_key(key) {
            return Ok(());
        }
        let names = self.values.keys().map(String::as_str);
        // Without its section a key is far from every full name, but it may be the whole of a bare one.
        let bare = names.clone().find(|name| name.split_once('.').is_some_and(|(_, bare)| bare == key));
        let remedy = bare.or_else(|| nearest(key, names)).map(|name| format!("did you mean {name}?"));
        Err(format!("unknown setting; {}", remedy.as_deref().unwrap_or("see `bigrain config`")))
    }
}

impl ServerConfig {
    fn check(&self) -> Result<()> {
        let positive = [
            ("limits.body_bytes", self.limits.body_bytes as u64),
            ("limits.connections", self.limits.connections as u64),
            ("limits.hits", self.limits.hits as u64),
            ("limits.nprobe", self.limits.nprobe as u64),
            ("limits.candidates", self.limits.candidates as u64),
            ("limits.batch", self.limits.batch as u64),
            ("timeouts.search_ms", self.timeouts.search_ms),
            ("timeouts.search_max_ms", self.timeouts.search_max_ms),
            ("timeouts.header_ms", self.timeouts.header_ms),
            ("timeouts.body_ms", self.timeouts.body_ms),
            ("workers.queue", self.workers.queue as u64),
            ("admission.queue_ms", self.admission.queue_ms),
            ("tls.handshake_ms", self.tls.handshake_ms),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::params("configuration", format!("{key} is 0; give at least 1")));
        }
        let (default, max) = (self.timeouts.search_ms, self.timeouts.search_max_ms);
        if default > max {
            let reason = format!("timeouts.search_ms ({default}) is larger than timeouts.search_max_ms ({max})");
            return Err(Error::params("configuration", reason));
        }
        let ads = &self.ads;
        if !(0.0..=1.0).contains(&ads.canary_recall) || !(0.0..=1.0).contains(&ads.default_ctr) {
            let (recall, ctr) = (ads.canary_recall, ads.default_ctr);
            let reason = format!("ads.canary_recall {recall} and ads.default_ctr {ctr} must be between 0 and 1");
            return Err(Error::params("configuration", reason));
        }
        let known = &self.known_queries;
        if known.texts.as_os_str().is_empty() != known.vectors.as_os_str().is_empty() {
            let reason = "known_queries needs both texts and vectors; one of them is empty";
            return Err(Error::params("configuration", reason));
        }
        self.admission.check()?;
        self.tls.check()?;
        self.log.check()?;
        if self.server.collection.is_empty() || self.server.collection.contains('/') {
            let reason = format!("server.collection {:?} cannot stand in a path", self.server.collection);
            return Err(Error::params("configuration", reason));
        }
        Ok(())
    }
}

/// `{section: {key: value}}` as `section.key` -> value; a value outside a section keeps its bare name.
fn flatten(table: Table) -> Vec<(String, Value)> {
    let mut flat = Vec::new();
    for (section, value) in table {
        match value {
            Value::Table(keys) => flat.extend(keys.into_iter().map(|(key, v)| (format!("{section}.{key}"), v))),
            value => flat.push((section, value)),
        }
    }
    flat
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(n, v)| (n.to_string(), v.to_string()));
        let flags: Vec<_> = flags.iter().map(|(k, v)| (*k, v.to_string())).collect();
        Settings::load(Some(&path), environment, &flags)
    }

    #[test]
    fn the_file_of_defaults_is_complete_and_explains_each_key() {
        let config = ServerConfig::default();
        assert_eq!(config.server.listen, "127.0.0.1:7700");
        let lines: Vec<&str> = DEFAULTS.lines().collect();
        let keys = lines.windows(2).filter(|pair| pair[1].contains(" = ") && !pair[1].starts_with('#'));
        let undocumented: Vec<&str> = keys.clone().filter(|p| !p[0].starts_with("# ")).map(|p| p[1]).collect();
        assert!(undocumented.is_empty(), "{undocumented:?}");
        assert_eq!(keys.count(), Settings::defaults().values.len());
    }

    #[test]
    fn what_is_printed_loads_as_the_same_settings() {
        let settings = load("[limits]\nbatch = 7\n", &[], &[]).unwrap();
        let again = load(&settings.to_toml(), &[], &[]).unwrap();
        let values = |s: &Settings| s.values.iter().map(|(k, (v, _))| (k.clone(), v.to_string())).collect::<Vec<_>>();
        assert_eq!(values(&settings), values(&again));
    }

    #[test]
    fn flag_beats_environment_beats_file_beats_default() {
        let file = "[limits]\nbatch = 2\nhits = 2\n[workers]\nqueue = 2\n";
        let environment = [("BIGRAIN_LIMITS_BATCH", "3"), ("BIGRAIN_WORKERS_QUEUE", "3"), ("BIGRAIN_SIMD", "avx2")];
        let settings = load(file, &environment, &[("limits.batch", "4")]).unwrap();
        let config = settings.config().unwrap();
        assert_eq!((config.limits.batch, config.workers.queue, config.limits.hits), (4, 3, 2));
        assert_eq!(config.limits.connections, ServerConfig::default().limits.connections);
        assert!(settings.to_toml().contains("queue = 3 # environment BIGRAIN_WORKERS_QUEUE"));
    }

    #[test]
    fn how_the_index_is_opened_is_set_like_all_else() {
        let defaults = ServerConfig::default().index.options();
        assert_eq!((defaults.page_cache, defaults.tier), (0, Tier::None));
        let environment = [("BIGRAIN_INDEX_PAGE_CACHE_BYTES", "67108864"), ("BIGRAIN_INDEX_DENSE_TIER", "int8")];
        let file = "[index]\nstore = \"uring\"\ndirect = true\n";
        let options = load(file, &environment, &[]).unwrap().config().unwrap().index.options();
        let OpenOptions { store, direct, page_cache, tier } = options;
        assert_eq!((store, direct, page_cache, tier), (Store::Uring, true, 64 << 20, Tier::Int8));
    }

    #[test]
    fn paths_in_a_file_are_relative_to_it() {
        let settings = load("[known_queries]\ntexts = \"q.tsv\"\nvectors = \"/abs/q.npy\"\n", &[], &[]).unwrap();
        let known = settings.config().unwrap().known_queries;
        assert!(known.texts.is_absolute() && known.texts.ends_with("q.tsv"), "{:?}", known.texts);
        assert_eq!(known.vectors, Path::new("/abs/q.npy"));
    }

    #[test]
    fn mistakes_name_the_place_and_the_remedy() {
        let message = |file: &str, env: &[(&str, &str)]| {
            load(file, env, &[]).and_then(|settings| settings.config().map(|_| ())).unwrap_err().to_string()
        };
        assert!(message("[limits]\nbatsh = 1\n", &[]).contains("did you mean limits.batch?"));
        assert!(message("listen = \"x\"\n", &[]).contains("did you mean"));
        assert!(message("[limits]\nbatch = \n", &[]).contains("line 2"));
        assert!(message("[limits]\nbatch = -1\n", &[]).contains("limits.batch"));
        assert!(message("[index]\nstore = \"floppy\"\n", &[]).contains("floppy"));
        assert!(message("[workers]\nqueue = 0\n", &[]).contains("workers.queue is 0"));
        assert!(message("", &[("BIGRAIN_LIMITS_BATCH", "many")]).contains("\"many\" is not of type integer"));
        assert!(message("", &[("BIGRAIN_LIMITS_BATCHES", "1")]).contains("did you mean limits.batch?"));
    }
}
