//! Which cluster of tasks a data set belongs to.

use std::path::Path;

use crate::error::{Error, Result};

/// The table for the data sets of T0; `config/task_clusters.tsv` is the place to start another from.
pub const DEFAULT_CLUSTERS: &str = include_str!("../../config/task_clusters.tsv");

/// A table from beginnings of templates' names to data sets and their clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clusters {
    /// Data set and cluster; longer names first.
    rows: Vec<(String, String)>,
}

impl Clusters {
    /// The table for the data sets of T0.
    pub fn default_table() -> Clusters {
        Clusters::parse(Path::new("config/task_clusters.tsv"), DEFAULT_CLUSTERS).expect("a test reads it")
    }

    /// Reads a table: a data set, a tab and its cluster a line; lines that begin with `#` are comments.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` with the line that is not of that form, or that names a data set again.
    pub fn read(path: &Path) -> Result<Clusters> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Clusters::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Clusters> {
        let mut rows: Vec<(String, String)> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |reason: String| Error::input(path, format!("line {}", number + 1), reason);
            let (set, cluster) = match line.split('\t').collect::<Vec<_>>()[..] {
                [set, cluster] if !set.is_empty() && !cluster.is_empty() => (set, cluster),
                _ => return Err(wrong(format!("{line:?} is not a data set, a tab and its cluster"))),
            };
            if rows.iter().any(|(known, _)| known == set) {
                return Err(wrong(format!("the data set {set:?} has a cluster already; remove one")));
            }
            rows.push((set.into(), cluster.into()));
        }
        rows.sort_by_key(|(set, _)| (std::cmp::Reverse(set.len()), set.clone()));
        Ok(Clusters { rows })
    }

    /// The data set and the cluster of a template: the longest name that it begins with, up to its end or a `_`.
    pub fn of(&self, template: &str) -> Option<(&str, &str)> {
        let begins =
            |set: &str| template.strip_prefix(set).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
        self.rows.iter().find(|(set, _)| begins(set)).map(|(set, cluster)| (set.as_str(), cluster.as_str()))
    }

    /// Thirty-two hexadecimal digits, equal for tables that say the same.
    pub fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (set, cluster) in &self.rows {
            hasher.update(format!("{set}\t{cluster}\n").as_bytes());
        }
        hasher.finalize().to_hex()[..32].to_string()
    }

    /// Whether some data set has this cluster.
    pub fn has(&self, cluster: &str) -> bool {
        self.rows.iter().any(|(_, known)| known == cluster)
    }

    /// The clusters, each once, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.rows.iter().map(|(_, cluster)| cluster.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Refuses a name that is no cluster's.
    ///
    /// # Errors
    /// `InvalidParams` that names those there are.
    pub fn check(&self, cluster: &str) -> Result<()> {
        if self.has(cluster) {
            return Ok(());
        }
        Err(Error::params("cluster", format!("there is no {cluster:?}; there are {}", self.names().join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_decides() {
        let table = Clusters::default_table();
        assert_eq!(table.of("glue_mrpc_same_thing"), Some(("glue_mrpc", "paraphrase")));
        assert_eq!(table.of("cosmos_qa_no_prompt_id"), Some(("cosmos_qa", "commonsense")));
        assert_eq!(table.of("adversarial_qa_dbidaf_based_on"), Some(("adversarial_qa_dbidaf", "reading")));
        assert_eq!((table.of("imdbx_a"), table.of("imdb")), (None, Some(("imdb", "sentiment"))));
        let own = Clusters::parse(Path::new("t"), "a\tone\na_b\ttwo\n").unwrap();
        assert_eq!((own.of("a_c"), own.of("a_b_c")), (Some(("a", "one")), Some(("a_b", "two"))));
        let moved = Clusters::parse(Path::new("t"), "a_b\ttwo\n#\na\tone\n").unwrap();
        assert!(own.id() == moved.id() && own.id() != table.id());
        assert!(own.check("three").unwrap_err().to_string().contains("there are one, two"));
    }

    #[test]
    fn bad_tables_are_refused_with_the_line() {
        for (text, message) in
            [("a\tb\n#x\nq\n", "line 3"), ("a\tb\na\tc\n", "has a cluster already"), ("\tb", "line 1")]
        {
            let error = Clusters::parse(Path::new("own.tsv"), text).unwrap_err().to_string();
            assert!(error.contains(message) && error.contains("own.tsv"), "{error}");
        }
    }
}
