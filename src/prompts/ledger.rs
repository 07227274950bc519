//! What a scorer answered, kept as it comes: one JSON object a line.
//!
//! ```json
//! {"key": "0f3a...", "scored": [{"loglik": -1.5, "tokens": 2}]}
//! ```
//! The key is a hash of the scorer's name, the prompt and the completions, so a ledger may hold the scores of several models and
//! several runs. A run that was killed while it wrote leaves a last line without its end: it is dropped. Any other line that cannot
//! be read is refused with its number. The folder is kept to one writer: two would overwrite each other's lines.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::pool::write_whole;
use super::scorer::{Likelihood, Scorer};
use crate::error::{Error, Result};
use crate::vfs::{RealVfs, Vfs, WriteFile, lock_dir};

/// Answers between two syncs: more would be lost with the power.
const SYNC_EVERY: u64 = 64;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    scored: Vec<Likelihood>,
}

/// The answers so far, in memory and in a file.
pub struct Ledger {
    path: PathBuf,
    file: Box<dyn WriteFile>,
    known: HashMap<String, Vec<Likelihood>>,
    unsynced: u64,
    /// Kept as long as the ledger is open.
    _lock: Option<std::fs::File>,
}

impl Ledger {
    /// Opens or creates a ledger.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` with the line that is damaged; `InvalidParams` while another run has it open.
    pub fn open(path: &Path) -> Result<Ledger> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let lock = lock_dir(&RealVfs, folder, "pool", "another run scores in")?;
        if !RealVfs.exists(path)? {
            write_whole(path, b"")?;
        }
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |end| end + 1);
        let mut known = HashMap::new();
        for (number, line) in bytes[..whole].split(|&b| b == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let wrong = |e: serde_json::Error| {
                Error::input(
                    path,
                    format!("line {}", number + 1),
                    format!("{e}; remove the line, it will be asked again"),
                )
            };
            let line: Line = serde_json::from_slice(line).map_err(wrong)?;
            known.insert(line.key, line.scored);
        }
        if whole < bytes.len() {
            write_whole(path, &bytes[..whole])?;
        }
        Ok(Ledger { file: RealVfs.open_append(path)?, path: path.to_path_buf(), known, unsynced: 0, _lock: lock })
    }

    /// Answers that are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn put(&mut self, key: String, scored: Vec<Likelihood>) -> Result<()> {
        let mut line = serde_json::to_vec(&Line { key: key.clone(), scored: scored.clone() }).expect("plain values");
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.unsynced += 1;
        if self.unsynced >= SYNC_EVERY {
            self.file.sync()?;
            self.unsynced = 0;
        }
        self.known.insert(key, scored);
        Ok(())
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ledger({}, {} answers)", self.path.display(), self.known.len())
    }
}

/// A scorer whose answers are kept, and not asked for again.
pub struct KeptScorer<'a> {
    scorer: &'a mut dyn Scorer,
    ledger: &'a mut Ledger,
    asked: u64,
}

impl std::fmt::Debug for KeptScorer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeptScorer({}, {:?})", self.scorer.name(), self.ledger)
    }
}

impl<'a> KeptScorer<'a> {
    /// Lays a ledger before a scorer.
    pub fn new(scorer: &'a mut dyn Scorer, ledger: &'a mut Ledger) -> KeptScorer<'a> {
        KeptScorer { scorer, ledger, asked: 0 }
    }

    /// Requests that the ledger could not answer.
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// The likelihood of each completion after `prompt`.
    ///
    /// # Errors
    /// As [`Scorer::score`]; `Io` where an answer cannot be kept.
    pub fn score(&mut self, prompt: &str, completions: &[String]) -> Result<Vec<Likelihood>> {
        let key = key(self.scorer.name(), prompt, completions);
        if let Some(known) = self.ledger.known.get(&key).filter(|known| known.len() == completions.len()) {
            return Ok(known.clone());
        }
        let scored = self.scorer.score(prompt, completions)?;
        self.asked += 1;
        self.ledger.put(key, scored.clone())?;
        Ok(scored)
    }
}

fn key(name: &str, prompt: &str, completions: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    // Each part with its length, so that no two requests are written alike.
    for part in [name, prompt].into_iter().chain(completions.iter().map(String::as_str)) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..32].to_string()
}

#[cfg(test)]
mod tests {
    use super::super::testing::Words;
    use super::*;

    fn ask(path: &Path, scorer: &mut dyn Scorer, prompts: &[&str]) -> Result<(u64, Vec<f64>)> {
        let mut ledger = Ledger::open(path)?;
        let mut kept = KeptScorer::new(scorer, &mut ledger);
        let one = |prompt: &&str| kept.score(prompt, &["yes".to_string()]).map(|scored| scored[0].loglik);
        let logs = prompts.iter().map(one).collect::<Result<_>>()?;
        Ok((kept.asked(), logs))
    }

    #[test]
    fn a_run_that_fails_goes_on_where_it_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores.jsonl");
        let mut model = Words::failing_after(2);
        assert!(ask(&path, &mut model, &["a", "b", "c"]).unwrap_err().to_string().contains("scorer"));
        let mut model = Words::default();
        let (asked, logs) = ask(&path, &mut model, &["a", "b", "c"]).unwrap();
        assert_eq!(asked, 1, "two were kept");
        assert_eq!(logs, ask(&path, &mut Words::failing_after(0), &["a", "b", "c"]).unwrap().1);
        assert_eq!(ask(&path, &mut Words::named("other"), &["a"]).unwrap().0, 1, "scores of models are not mixed");
    }

    #[test]
    fn a_ledger_has_one_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores.jsonl");
        let first = Ledger::open(&path).unwrap();
        assert!(Ledger::open(&path).unwrap_err().to_string().contains("another run scores in"));
        drop(first);
        assert!(Ledger::open(&path).unwrap().is_empty());
    }

    #[test]
    fn a_line_cut_by_a_crash_is_dropped_and_a_damaged_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scores.jsonl");
        ask(&path, &mut Words::default(), &["a", "b"]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (asked, _) = ask(&path, &mut Words::default(), &["a", "b"]).unwrap();
            assert_eq!(asked, if cut < whole.len() / 2 { 2 } else { 1 }, "{cut}");
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{cut}");
        }
        std::fs::write(&path, [b"{\"key\": 1}\n", &whole[..]].concat()).unwrap();
        assert!(Ledger::open(&path).unwrap_err().to_string().contains("line 1"));
    }
}
