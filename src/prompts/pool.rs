//! Demonstrations and where they come from.
//!
//! A source is a TSV with the columns `template`, `prompt` and `completion`, a newline in them written as the two characters
//! `\n`. A pool as a file is one JSON object a line, a [`Demonstration`] each; its number is its line, from 0.
//!
//! Two kinds of templates are left out ([`Origin`]): those whose answers are all the same, because a demonstration would help by being
//! copied; and those with fewer or more examples than others of their data set, because examples are numbered by their place,
//! and theirs cannot be told to be the same as those of another wording.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::clusters::Clusters;
use crate::error::{Error, Result};
use crate::sample::sample_rows;
use crate::vfs::{RealVfs, Vfs, replace_file};

/// What ends a completion in the source and is no part of an answer.
const END: &str = "<|endoftext|>";
/// A template with at most so many different answers asks to choose among them.
const MOST_OPTIONS: usize = 6;
/// Examples of a template, at least, for its answers to be counted as options.
const LEAST_EXAMPLES: usize = 20;

/// An input with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Demonstration {
    /// How the input was worded.
    pub template: String,
    /// The data set it comes from: its task.
    pub task: String,
    /// The cluster of its task.
    pub cluster: String,
    /// Its place among the examples of its template. Templates of one data set word the same examples in the same order (those that
    /// leave some out are in no pool).
    pub example: u32,
    /// All answers of the template where it asks to choose, sorted; else none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The input.
    pub input: String,
    /// The answer.
    pub answer: String,
}

impl Demonstration {
    /// The demonstration as a language model reads it, and as it is encoded.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.input, self.answer)
    }

    /// Whether both are the same example of a data set, perhaps worded differently: one would give the other's answer away.
    pub fn is_twin(&self, other: &Demonstration) -> bool {
        self.task == other.task && (self.example == other.example || self.input == other.input)
    }
}

/// Which examples of a source become demonstrations.
#[derive(Debug, Clone)]
pub struct PoolSpec {
    /// Clusters that are left out; none: all are in.
    pub leave_out: BTreeSet<String>,
    /// The only clusters that are in; none: all but those left out.
    pub only: BTreeSet<String>,
    /// Examples of a template, drawn at random; 0: all.
    pub per_template: usize,
    /// Characters of input and answer together, at most.
    pub most_chars: usize,
    /// Of the draws.
    pub seed: u64,
}

impl Default for PoolSpec {
    fn default() -> Self {
        PoolSpec { leave_out: BTreeSet::new(), only: BTreeSet::new(), per_template: 0, most_chars: 800, seed: 1 }
    }
}

/// Demonstrations, each with its number as its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// All of them.
    pub demonstrations: Vec<Demonstration>,
    /// Where they come from; says nothing in a pool that was read from its own file.
    pub origin: Origin,
}

/// What of a source did not become demonstrations, and by which table of clusters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// [`Clusters::id`].
    #[serde(skip)]
    pub clusters: String,
    /// Templates left out because all their answers are the same (or empty).
    pub templates_of_one_answer: usize,
    /// Templates left out because their data set has others with more examples.
    pub templates_of_other_length: usize,
}

impl Pool {
    /// Reads the examples of a source that `spec` asks for. Examples with an empty input or answer are left out.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` with the line that is not of that form, or whose template no cluster knows; `InvalidParams` where
    /// nothing is left or a cluster is unknown.
    pub fn from_tsv(path: &Path, clusters: &Clusters, spec: &PoolSpec) -> Result<Pool> {
        spec.leave_out.iter().chain(&spec.only).try_for_each(|cluster| clusters.check(cluster))?;
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let templates = read_templates(path, &text, clusters)?;
        let usual = usual_lengths(&templates);
        let mut origin = Origin { clusters: clusters.id(), ..Origin::default() };
        let mut demonstrations = Vec::new();
        for (at, all) in (0u64..).zip(templates.into_values()) {
            let Some(first) = all.first().filter(|first| spec.wants(&first.cluster)) else { continue };
            let answers: BTreeSet<&str> = all.iter().map(|d| d.answer.as_str()).filter(|a| !a.is_empty()).collect();
            if usual[&first.task] != all.len() {
                origin.templates_of_other_length += 1;
            } else if all.len() >= LEAST_EXAMPLES && answers.len() < 2 {
                origin.templates_of_one_answer += 1;
            } else {
                demonstrations.extend(chosen(all, spec, at));
            }
        }
        if demonstrations.is_empty() {
            let reason = format!("no example of {} is left; allow longer ones, or more clusters", path.display());
            return Err(Error::params("pool", reason));
        }
        Ok(Pool { demonstrations, origin })
    }

    /// Reads a pool that [`Pool::write`] wrote.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` with the line that is no demonstration.
    pub fn read(path: &Path) -> Result<Pool> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let parse = |(number, line): (usize, &str)| {
            let wrong = |e: serde_json::Error| {
                Error::input(path, format!("line {}", number + 1), format!("{e}; index the pool again"))
            };
            serde_json::from_str(line).map_err(wrong)
        };
        let demonstrations = text.lines().enumerate().map(parse).collect::<Result<_>>()?;
        Ok(Pool { demonstrations, origin: Origin::default() })
    }

    /// Writes the pool, whole or not at all.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_lines(path, &self.demonstrations)
    }
}

/// The examples of each template of a source.
fn read_templates<'t>(
    path: &Path,
    text: &'t str,
    clusters: &Clusters,
) -> Result<BTreeMap<&'t str, Vec<Demonstration>>> {
    let mut templates: BTreeMap<&str, Vec<Demonstration>> = BTreeMap::new();
    let mut lines = text.lines().enumerate();
    let header = lines.next().map_or("", |(_, line)| line);
    if header.split('\t').collect::<Vec<_>>() != ["template", "prompt", "completion"] {
        let reason = format!("{header:?} is not template, prompt, completion with tabs between");
        return Err(Error::input(path, "line 1", reason));
    }
    for (number, line) in lines {
        let wrong = |reason: String| Error::input(path, format!("line {}", number + 1), reason);
        let [template, input, answer] = line.split('\t').collect::<Vec<_>>()[..] else {
            let fields = line.split('\t').count();
            return Err(wrong(format!("{fields} fields, where template, prompt and completion are 3")));
        };
        let unknown = || {
            let what = format!("no data set in the table of clusters begins the template {template:?}");
            wrong(format!("{what}; give a table with a line for it (--clusters)"))
        };
        let (task, cluster) = clusters.of(template).ok_or_else(unknown)?;
        let of_template = templates.entry(template).or_default();
        of_template.push(Demonstration {
            template: template.into(),
            task: task.into(),
            cluster: cluster.into(),
            example: of_template.len() as u32,
            options: Vec::new(),
            input: unfold(input),
            answer: unfold(answer.trim_end_matches(END)),
        });
    }
    Ok(templates)
}

/// How many examples the templates of each data set have: the number by which most of its examples come, the larger of equals.
fn usual_lengths(templates: &BTreeMap<&str, Vec<Demonstration>>) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<&str, BTreeMap<usize, usize>> = BTreeMap::new();
    for all in templates.values() {
        *counts.entry(&all[0].task).or_default().entry(all.len()).or_default() += all.len();
    }
    let usual = |lengths: BTreeMap<usize, usize>| lengths.into_iter().max_by_key(|&(length, of)| (of, length));
    counts.into_iter().map(|(task, lengths)| (task.to_string(), usual(lengths).map_or(0, |most| most.0))).collect()
}

impl PoolSpec {
    /// Whether examples of this cluster are in.
    fn wants(&self, cluster: &str) -> bool {
        !self.leave_out.contains(cluster) && (self.only.is_empty() || self.only.contains(cluster))
    }
}

/// Writes one JSON object a line, whole or not at all.
pub(super) fn write_lines<T: Serialize>(path: &Path, rows: &[T]) -> Result<()> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row).expect("plain values");
        text.push(b'\n');
    }
    write_whole(path, &text)
}

/// Writes a file, whole or not at all.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_file(&RealVfs, path, |beside| {
        let mut file = RealVfs.create(beside)?;
        file.write_all(bytes)?;
        file.sync()
    })
}

/// The demonstrations of one template.
fn chosen(mut all: Vec<Demonstration>, spec: &PoolSpec, template: u64) -> Vec<Demonstration> {
    let answers: BTreeSet<String> = all.iter().map(|d| d.answer.clone()).filter(|answer| !answer.is_empty()).collect();
    let chooses = all.len() >= LEAST_EXAMPLES && (2..=MOST_OPTIONS).contains(&answers.len());
    if chooses {
        all.iter_mut().for_each(|d| d.options = answers.iter().cloned().collect());
    }
    let short = |d: &Demonstration| d.input.chars().count() + d.answer.chars().count() <= spec.most_chars;
    all.retain(|d| !d.input.is_empty() && !d.answer.is_empty() && short(d));
    let want = if spec.per_template == 0 { all.len() } else { spec.per_template };
    let rows = sample_rows(all.len() as u64, want, spec.seed ^ template.wrapping_mul(0x9e37_79b9));
    let mut all: Vec<Option<Demonstration>> = all.into_iter().map(Some).collect();
    rows.iter().filter_map(|&row| all[row as usize].take()).collect()
}

/// Newlines that were written as two characters become one again; the ends are trimmed, and so are lines.
fn unfold(text: &str) -> String {
    let text = text.replace("\\n", "\n");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join("\n").trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "template\tprompt\tcompletion\n";

    fn read(content: &str, spec: &PoolSpec) -> Result<Pool> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prompts.tsv");
        std::fs::write(&path, content).unwrap();
        Pool::from_tsv(&path, &Clusters::default_table(), spec)
    }

    #[test]
    fn examples_become_demonstrations_and_come_back_from_a_file() {
        let content = format!(
            "{HEADER}imdb_x\tIs it good? \\n Yes or no?\tYes<|endoftext|>\nimdb_x\t\tNo\nxsum_y\tText\tShort\n"
        );
        let pool = read(&content, &PoolSpec::default()).unwrap();
        assert_eq!(pool.demonstrations.len(), 2);
        let first = &pool.demonstrations[0];
        assert_eq!(first.text(), "Is it good?\nYes or no?\nYes");
        assert_eq!((first.task.as_str(), first.cluster.as_str(), first.example), ("imdb", "sentiment", 0));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pool.jsonl");
        pool.write(&path).unwrap();
        assert_eq!(Pool::read(&path).unwrap().demonstrations, pool.demonstrations);
        std::fs::write(&path, "{\"template\": 3}\n").unwrap();
        assert!(Pool::read(&path).unwrap_err().to_string().contains("line 1"));
    }

    #[test]
    fn options_are_the_answers_of_a_template_that_has_few() {
        let rows: String = (0..30).map(|i| format!("imdb_x\ttext {i}\t{}\n", ["No", "Yes"][i % 2])).collect();
        let open: String = (0..30).map(|i| format!("xsum_y\ttext {i}\tanswer {i}\n")).collect();
        let spec = PoolSpec { per_template: 5, ..PoolSpec::default() };
        let pool = read(&format!("{HEADER}{rows}{open}"), &spec).unwrap();
        assert_eq!(pool.demonstrations.len(), 10);
        assert!(pool.demonstrations[..5].iter().all(|d| d.options == ["No", "Yes"] && d.task == "imdb"));
        assert!(pool.demonstrations[5..].iter().all(|d| d.options.is_empty()));
        assert!(pool.demonstrations[0].is_twin(&pool.demonstrations[0]));
        assert!(!pool.demonstrations[0].is_twin(&pool.demonstrations[1]));
        assert_eq!(pool, read(&format!("{HEADER}{rows}{open}"), &spec).unwrap(), "a seed decides");
    }

    #[test]
    fn clusters_are_left_out_and_bad_lines_named() {
        let content = format!("{HEADER}imdb_x\ta\tb\nxsum_y\tc\td\n");
        let out = PoolSpec { leave_out: ["sentiment".to_string()].into(), ..PoolSpec::default() };
        let pool = read(&content, &out).unwrap();
        assert!(pool.demonstrations.iter().all(|d| d.cluster == "summarisation") && pool.demonstrations.len() == 1);
        let only = PoolSpec { only: ["sentiment".to_string()].into(), ..PoolSpec::default() };
        assert_eq!(read(&content, &only).unwrap().demonstrations[0].task, "imdb");
        let unknown = PoolSpec { only: ["sentimental".to_string()].into(), ..PoolSpec::default() };
        assert!(read(&content, &unknown).unwrap_err().to_string().contains("sentimental"));
        for (content, message) in [
            ("a\tb\n".to_string(), "line 1"),
            (format!("{HEADER}imdb_x\ta\n"), "line 2: 2 fields"),
            (format!("{HEADER}news_x\ta\tb\n"), "begins the template \"news_x\"; give a table"),
            (HEADER.to_string(), "no example"),
        ] {
            let error = read(&content, &PoolSpec::default()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
    #[test]
    fn templates_of_one_answer_or_of_another_length_are_left_out_and_counted() {
        let rows = |template: &str, answers: &[&str], count: usize| -> String {
            (0..count).map(|i| format!("{template}\ttext {i} {template}\t{}\n", answers[i % answers.len()])).collect()
        };
        let content = [
            HEADER.to_string(),
            rows("imdb_same", &["negative"], 30),
            rows("imdb_empty", &[""], 30),
            rows("glue_mrpc_all", &["yes", "no"], 30),
            rows("glue_mrpc_also", &["same", "other"], 30),
            // Five small templates have fewer examples together than a whole one.
            (0..5).map(|i| rows(&format!("glue_mrpc_part{i}"), &["a", "b"], 8)).collect(),
        ]
        .concat();
        let pool = read(&content, &PoolSpec::default()).unwrap();
        let templates: BTreeSet<&str> = pool.demonstrations.iter().map(|d| d.template.as_str()).collect();
        assert_eq!(templates, ["glue_mrpc_all", "glue_mrpc_also"].into());
        assert_eq!((pool.origin.templates_of_one_answer, pool.origin.templates_of_other_length), (2, 5));
        let [first, last] = [&pool.demonstrations[0], pool.demonstrations.last().unwrap()];
        assert!(!first.is_twin(last) && pool.demonstrations.iter().filter(|d| d.is_twin(first)).count() == 2);
    }
}
