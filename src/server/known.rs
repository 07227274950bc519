//! Query texts whose vectors are known, so that a server without an encoder can still be asked in words.

use std::collections::HashMap;
use std::path::Path;

use super::nearest::ranked;
use crate::dataset::VectorFile;
use crate::error::{Error, Result};

/// The longest texts that are compared with each other, in bytes.
const LONGEST: usize = 100;

/// The most known texts that an unknown one is compared with. With [`LONGEST`] it bounds what a mistyped query can cost: some milliseconds.
const COMPARED: usize = 1_000;

/// Texts and their vectors.
#[derive(Debug, Default)]
pub struct KnownQueries {
    texts: Vec<String>,
    /// The same in small letters, for looking up what begins with something.
    lowered: Vec<String>,
    /// Normalised text to its place in `texts`.
    places: HashMap<String, usize>,
    /// `texts x dim`.
    vectors: Vec<f32>,
    dim: usize,
}

impl KnownQueries {
    /// Reads `texts` (a `.tsv` with a header line, or one text a line) and as many vectors of `dim` elements.
    ///
    /// # Errors
    /// Unreadable files; another number or dimension of vectors than the texts and the index ask for.
    pub fn load(texts: &Path, vectors: &Path, dim: usize) -> Result<KnownQueries> {
        let texts = read_texts(texts)?;
        let mut file = VectorFile::open(vectors, None)?;
        if file.dim() != dim {
            return Err(Error::mismatch("dimension of the known query vectors", dim, file.dim()));
        }
        if file.rows() != texts.len() as u64 {
            return Err(Error::mismatch("number of known query vectors", texts.len(), file.rows()));
        }
        let mut values = vec![0.0; texts.len() * dim];
        file.read(0, &mut values)?;
        Ok(KnownQueries::new(texts, values, dim))
    }

    /// These texts with their vectors, `texts x dim`.
    pub(super) fn new(texts: Vec<String>, vectors: Vec<f32>, dim: usize) -> KnownQueries {
        let places = texts.iter().enumerate().map(|(place, text)| (normalise(text), place)).collect();
        let lowered = texts.iter().map(|text| text.to_lowercase()).collect();
        KnownQueries { texts, lowered, places, vectors, dim }
    }

    /// The vector of `text`; capitals and runs of spaces make no difference.
    pub fn vector(&self, text: &str) -> Option<&[f32]> {
        let place = *self.places.get(&normalise(text))?;
        Some(&self.vectors[place * self.dim..][..self.dim])
    }

    /// Up to three known texts to offer for an unknown one: the nearest, else the first.
    pub fn offer(&self, text: &str) -> Vec<&str> {
        let known = self.texts.iter().take(COMPARED).map(String::as_str);
        let short = known.clone().filter(|known| known.len() <= LONGEST);
        let near = if text.len() <= LONGEST { ranked(text.trim(), short) } else { Vec::new() };
        let near: Vec<&str> = near.into_iter().map(|(_, text)| text).take(3).collect();
        if near.is_empty() { known.take(3).collect() } else { near }
    }

    /// Those of the first `among` texts that start with `prefix`, capitals aside, in the order of the file.
    pub fn starting(&self, prefix: &str, among: usize) -> impl Iterator<Item = &String> {
        let prefix = prefix.trim_start().to_lowercase();
        let pairs = self.texts.iter().zip(&self.lowered).take(among);
        pairs.filter(move |(_, lowered)| lowered.starts_with(&prefix)).map(|(text, _)| text)
    }

    /// The texts, in the order of the file.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }
}

/// Texts of a `.tsv` (a header line; the column `query` or `text`, else the second) or, of any other file, its lines.
///
/// # Errors
/// A file that cannot be read; a line without the column.
fn read_texts(path: &Path) -> Result<Vec<String>> {
    let content = std::fs::read_to_string(path).map_err(Error::io(path))?;
    if path.extension().is_none_or(|ending| ending != "tsv") {
        return Ok(content.lines().filter(|line| !line.trim().is_empty()).map(str::to_string).collect());
    }
    let mut lines = content.lines().enumerate();
    let header = lines.next().map_or("", |(_, header)| header);
    let column = header.split('\t').position(|name| name == "query" || name == "text").unwrap_or(1);
    let cell = |(number, line): (usize, &str)| {
        let cell = line.split('\t').nth(column).map(str::to_string);
        cell.ok_or_else(|| {
            Error::input(path, format!("line {}", number + 1), format!("{line:?} has no column {}", column + 1))
        })
    };
    lines.map(cell).collect()
}

fn normalise(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_from_tables_and_from_lines() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            read_texts(&path)
        };
        assert_eq!(write("a.tsv", "qid\tquery\n1\tred shoe\n2\tblue hat\n").unwrap(), ["red shoe", "blue hat"]);
        assert_eq!(write("b.txt", "red shoe\n\nblue hat\n").unwrap(), ["red shoe", "blue hat"]);
        assert!(write("c.tsv", "qid\tquery\n1\n").unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn the_nearest_texts_are_offered() {
        let texts: Vec<String> = ["usb cable", "red shoe", "blue hat", "green hat"].map(String::from).to_vec();
        let known = KnownQueries::new(texts, vec![1., 2., 3., 4.], 1);
        assert_eq!(known.vector("  Red   SHOE "), Some(&[2.][..]));
        assert_eq!(known.vector("red shoes"), None);
        assert_eq!(known.offer("red shoes")[0], "red shoe");
        assert_eq!(known.offer("quaternion"), ["usb cable", "red shoe", "blue hat"]);
        // What is long is compared with nothing, and nothing with what is long.
        let (long, longer) = ("x".repeat(LONGEST), "x".repeat(LONGEST + 1));
        let texts = vec!["usb cable".to_string(), longer.clone(), long.clone()];
        let known = KnownQueries::new(texts, vec![1., 2., 3.], 1);
        assert_eq!(known.offer(&long), [&*long]);
        assert_eq!(known.offer(&longer)[0], "usb cable");
    }
}
