//! A table of labelled texts of several tasks, divided and capped, and the vectors of its texts.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use bigrain::dataset::split::{Components, Fractions};
use bigrain::dataset::{Pair, VectorFile};
use bigrain::encoder::Encoder;
use bigrain::error::{Error, Result};
use bigrain::linalg::normalise;
use bigrain::relevance::{RelevanceTask, Row, Target};
use bigrain::sample::Rng;
use bigrain::train::Watch;
use ndarray::Array2;

/// Columns that a table must have.
const COLUMNS: [&str; 5] = ["task", "split", "text_a", "text_b", "label"];
/// Texts that are encoded between two looks at whether to stop.
const CHUNK: usize = 2_048;
/// How rows that the table does not divide are divided.
const PARTS: Fractions = Fractions { valid: 0.1, test: 0.2 };
/// The same where only rows to choose by are missing: the two smaller parts become one.
const CHOICE: Fractions = Fractions { valid: 0.05, test: 0.05 };

/// One row of the table.
#[derive(Debug, Clone)]
struct Line {
    /// From 0, the header not counted.
    number: usize,
    split: String,
    a: String,
    b: String,
    label: String,
    /// Of the texts, for which rows a cap keeps.
    hash: u64,
}

/// Most rows of a task in each part.
#[derive(Debug, Clone, Copy)]
pub struct Caps {
    /// To learn from.
    pub train: usize,
    /// To choose by.
    pub valid: usize,
    /// To report.
    pub test: usize,
}

/// Tasks, their held-out rows, and the vectors of all texts.
pub struct Labelled {
    /// n x d, of unit length.
    pub vectors: Array2<f32>,
    /// With the rows for training and validation.
    pub tasks: Vec<RelevanceTask>,
    /// Of each task, the held-out rows.
    pub test: Vec<Vec<Row>>,
    /// Id of the encoder that made the vectors, where it is known.
    pub encoder: Option<String>,
}

/// Where vectors come from.
pub enum Source<'a> {
    /// They are made here.
    Encoder(&'a Encoder),
    /// Row i of each file is that of row i of the table.
    Files(&'a Path, &'a Path),
}

/// Reads a table (tabs; a header line with `task split text_a text_b label`). Labels of the tasks in `values` are numbers, those of
/// the others classes. An empty `text_b` is none.
///
/// Parts: `test` is held out, `dev` or `val` is for choosing. A task without `test` holds out its `dev`; one without anything to choose by
/// gives a tenth of `train` for it; `all`, and `train` where there is nothing else, are divided 70 : 10 : 20. Rows divided here that
/// share a text stay together, so that no text is in two of their parts; what the table divides is taken as it is. Which rows a cap
/// keeps goes by a hash of their texts. Other splits are left out.
///
/// # Errors
/// `Io`; `InvalidInput` naming the line; `InvalidParams` for names of tasks that there are not, or rows that cannot be divided; those of the encoder and of files of vectors.
pub fn read(
    path: &Path,
    only: &[String],
    values: &[String],
    caps: Caps,
    source: &Source<'_>,
    watch: &dyn Watch,
) -> Result<Labelled> {
    let mut tasks = read_lines(path)?;
    for (flag, names) in [("only", only), ("values", values)] {
        if let Some(name) = names.iter().find(|name| !tasks.contains_key(*name)) {
            let known: Vec<&str> = tasks.keys().map(String::as_str).collect();
            return Err(Error::params(flag, format!("there is no task {name:?}; the tasks are {}", known.join(", "))));
        }
    }
    tasks.retain(|name, _| only.is_empty() || only.contains(name));
    let mut texts = Texts::default();
    let (mut found, mut test) = (Vec::new(), Vec::new());
    for (name, lines) in &tasks {
        let [train, valid, held] = divide(name, lines, caps)?;
        let target = match values.contains(name) {
            true => value(path, &train)?,
            false => classes(&[&train[..], &valid, &held].concat()),
        };
        let mut rows = |lines: &[&Line]| lines.iter().map(|line| texts.row(path, line, &target)).collect::<Result<_>>();
        let (train, valid, held): (Vec<Row>, Vec<Row>, Vec<Row>) = (rows(&train)?, rows(&valid)?, rows(&held)?);
        found.push(RelevanceTask { name: name.clone(), target, train, valid });
        test.push(held);
    }
    let (vectors, encoder) = match source {
        Source::Encoder(encoder) => (texts.encode(encoder, watch)?, Some(encoder.id().to_string())),
        Source::Files(a, b) => (texts.vectors_from_files(path, a, b)?, None),
    };
    Ok(Labelled { vectors, tasks: found, test, encoder })
}

fn read_lines(path: &Path) -> Result<BTreeMap<String, Vec<Line>>> {
    let mut lines = BufReader::new(File::open(path).map_err(Error::io(path))?).lines();
    let header = lines.next().transpose().map_err(Error::io(path))?.unwrap_or_default();
    let names: Vec<&str> = header.split('\t').collect();
    let place = |column: &str| {
        let place = names.iter().position(|name| *name == column);
        place.ok_or_else(|| Error::input(path, "line 1", format!("no column {column:?} among {names:?}")))
    };
    let mut columns = [0; COLUMNS.len()];
    for (at, column) in columns.iter_mut().zip(COLUMNS) {
        *at = place(column)?;
    }
    let mut tasks: BTreeMap<String, Vec<Line>> = BTreeMap::new();
    for (number, line) in lines.enumerate() {
        let line = line.map_err(Error::io(path))?;
        let cells: Vec<&str> = line.split('\t').collect();
        if cells.len() != names.len() {
            let reason = format!("{} cells, but the header has {}", cells.len(), names.len());
            return Err(Error::input(path, format!("line {}", number + 2), reason));
        }
        let [task, split, a, b, label] = columns.map(|at| cells[at].to_string());
        let hash = hash(&a, &b);
        tasks.entry(task).or_default().push(Line { number, split, a, b, label, hash });
    }
    if tasks.is_empty() {
        return Err(Error::input(path, "the whole file", "it has no rows"));
    }
    Ok(tasks)
}

/// FNV-1a over both texts, mixed.
fn hash(a: &str, b: &str) -> u64 {
    let bytes = a.bytes().chain([0]).chain(b.bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    Rng::new(fnv).next_u64()
}

/// Rows to learn from, to choose by, to report.
fn divide<'a>(task: &str, lines: &'a [Line], caps: Caps) -> Result<[Vec<&'a Line>; 3]> {
    let of = |names: &[&str]| -> Vec<&'a Line> { lines.iter().filter(|l| names.contains(&l.split.as_str())).collect() };
    let (mut train, mut valid, mut test) = (of(&["train"]), of(&["dev", "val", "valid"]), of(&["test"]));
    let mut whole = of(&["all"]);
    if test.is_empty() {
        test = std::mem::take(&mut valid);
    }
    if test.is_empty() && whole.is_empty() {
        whole = std::mem::take(&mut train);
    }
    if valid.is_empty() && !train.is_empty() {
        let [most, some, others] = apart(task, &train, CHOICE)?;
        (train, valid) = (most, [some, others].concat());
    }
    if !whole.is_empty() {
        let parts = apart(task, &whole, PARTS)?;
        for (part, more) in [&mut train, &mut valid, &mut test].into_iter().zip(parts) {
            part.extend(more);
        }
    }
    let parts = [(train, caps.train), (valid, caps.valid), (test, caps.test)].map(|(lines, cap)| capped(lines, cap));
    for (lines, what) in parts.iter().zip(["train on", "choose by", "report"]) {
        if lines.is_empty() {
            let reason = format!("{task:?} has no rows to {what}; give it some, or leave it out by --only");
            return Err(Error::params("task", reason));
        }
    }
    Ok(parts)
}

/// Divides lines so that no text of one part is in another: lines are connected by their texts.
fn apart<'a>(task: &str, lines: &[&'a Line], fractions: Fractions) -> Result<[Vec<&'a Line>; 3]> {
    let mut numbers: HashMap<&str, u64> = HashMap::new();
    let mut pairs = Vec::new();
    for (query, line) in (0..).zip(lines) {
        let second = Some(&*line.b).filter(|text| !text.trim().is_empty());
        for text in [&*line.a].into_iter().chain(second) {
            let next = numbers.len() as u64;
            pairs.push(Pair { query, document: *numbers.entry(text).or_insert(next) });
        }
    }
    let split = Components::new(pairs).split(fractions, 1).map_err(|_| {
        let reason = format!("{task:?}: its {} rows are too few, or share too many texts, to be divided", lines.len());
        Error::params("task", format!("{reason}; give it rows of test and dev, or leave it out by --only"))
    })?;
    Ok([&split.train, &split.valid, &split.test].map(|pairs| {
        let mut rows: Vec<u64> = pairs.iter().map(|pair| pair.query).collect();
        rows.dedup();
        rows.into_iter().map(|row| lines[row as usize]).collect()
    }))
}

/// Some of the lines, by their hash.
fn capped(mut lines: Vec<&Line>, cap: usize) -> Vec<&Line> {
    lines.sort_by_key(|line| (line.hash.rotate_left(32), line.number));
    lines.truncate(cap);
    lines
}

/// All labels, numbers in their order.
fn classes(lines: &[&Line]) -> Target {
    let mut classes: Vec<String> = lines.iter().map(|line| line.label.clone()).collect();
    let number = |class: &String| class.parse::<f32>().unwrap_or(f32::INFINITY);
    classes.sort_by(|a, b| number(a).total_cmp(&number(b)).then_with(|| a.cmp(b)));
    classes.dedup();
    Target::Classes(classes)
}

fn value(path: &Path, lines: &[&Line]) -> Result<Target> {
    let values = lines.iter().map(|line| parsed(path, line)).collect::<Result<Vec<f32>>>()?;
    let count = values.len().max(1) as f32;
    let mean = values.iter().sum::<f32>() / count;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / count).sqrt();
    Ok(Target::Value { mean, deviation })
}

fn parsed(path: &Path, line: &Line) -> Result<f32> {
    line.label.parse().ok().filter(|label: &f32| label.is_finite()).ok_or_else(|| {
        Error::input(path, format!("line {}", line.number + 2), format!("the label {:?} is no number", line.label))
    })
}

/// The texts that are used, each once.
#[derive(Default)]
struct Texts {
    rows: HashMap<String, u32>,
    texts: Vec<String>,
    /// Where each was first seen: row of the table, and whether it was the second text.
    seen: Vec<(usize, bool)>,
}

impl Texts {
    fn row(&mut self, path: &Path, line: &Line, target: &Target) -> Result<Row> {
        let label = match target {
            Target::Value { .. } => parsed(path, line)?,
            Target::Classes(classes) => classes.iter().position(|c| *c == line.label).unwrap_or(0) as f32,
        };
        if line.a.trim().is_empty() {
            return Err(Error::input(path, format!("line {}", line.number + 2), "text_a is empty"));
        }
        let a = self.place(&line.a, line.number, false);
        let b = (!line.b.trim().is_empty()).then(|| self.place(&line.b, line.number, true));
        Ok(Row { a, b, label })
    }

    fn place(&mut self, text: &str, number: usize, second: bool) -> u32 {
        if let Some(&place) = self.rows.get(text) {
            return place;
        }
        let place = self.texts.len() as u32;
        self.rows.insert(text.to_string(), place);
        self.texts.push(text.to_string());
        self.seen.push((number, second));
        place
    }

    fn encode(&self, encoder: &Encoder, watch: &dyn Watch) -> Result<Array2<f32>> {
        watch.begin("encode texts", self.texts.len() as u64);
        let mut vectors = Vec::with_capacity(self.texts.len() * encoder.dim());
        for texts in self.texts.chunks(CHUNK) {
            watch.check()?;
            vectors.extend(encoder.encode(texts)?);
            watch.advance(texts.len() as u64);
        }
        Ok(Array2::from_shape_vec((self.texts.len(), encoder.dim()), vectors).expect("a row a text"))
    }

    fn vectors_from_files(&self, path: &Path, a: &Path, b: &Path) -> Result<Array2<f32>> {
        let mut files = [VectorFile::open(a, None)?, VectorFile::open(b, None)?];
        let dim = files[0].dim();
        if files[1].dim() != dim {
            return Err(Error::mismatch(format!("dimension of {}", b.display()), dim, files[1].dim()));
        }
        let mut vectors = Array2::zeros((self.texts.len(), dim));
        for (mut vector, &(number, second)) in vectors.rows_mut().into_iter().zip(&self.seen) {
            let file = &mut files[usize::from(second)];
            if number as u64 >= file.rows() {
                let what = format!("rows of {} and {}", file.path().display(), path.display());
                return Err(Error::mismatch(what, format!("more than {number}"), file.rows()));
            }
            let vector = vector.as_slice_mut().expect("C order");
            file.read(number as u64, vector)?;
            normalise(vector);
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize, split: &str) -> Line {
        let a = format!("text {number}");
        Line { number, split: split.into(), hash: hash(&a, ""), a, b: String::new(), label: "1".into() }
    }

    fn sizes(lines: &[Line], cap: usize) -> [usize; 3] {
        divide("t", lines, Caps { train: cap, valid: cap, test: cap }).unwrap().map(|part| part.len())
    }

    #[test]
    fn rows_that_share_a_text_stay_together() {
        // Chains of three pairs: the second text of one is the first of the next.
        let pair = |number: usize, split: &str| {
            let text = |at: usize| format!("text {} {}", number / 3, number % 3 + at);
            Line { b: text(1), a: text(0), ..line(number, split) }
        };
        for (split, expected) in [("all", [210, 30, 60]), ("train", [210, 30, 60])] {
            let lines: Vec<Line> = (0..300).map(|number| pair(number, split)).collect();
            let parts = divide("t", &lines, Caps { train: 300, valid: 300, test: 300 }).unwrap();
            assert_eq!([0, 1, 2].map(|part| parts[part].len()), expected, "{split}");
            let texts = parts.map(|part| -> std::collections::HashSet<String> {
                part.iter().flat_map(|line| [line.a.clone(), line.b.clone()]).collect()
            });
            assert!(
                texts[0].is_disjoint(&texts[1]) && texts[0].is_disjoint(&texts[2]) && texts[1].is_disjoint(&texts[2])
            );
        }
        // One text in all rows: they are one part or none.
        let lines: Vec<Line> = (0..300).map(|number| Line { b: "the same".into(), ..line(number, "all") }).collect();
        let message = divide("t", &lines, Caps { train: 9, valid: 9, test: 9 }).unwrap_err().to_string();
        assert!(message.contains("\"t\": its 300 rows"), "{message}");
        let lines = [line(1, "test"), line(2, "dev")];
        let message = divide("t", &lines, Caps { train: 9, valid: 9, test: 9 }).unwrap_err().to_string();
        assert!(message.contains("no rows to train on"), "{message}");
    }

    #[test]
    fn parts_are_those_of_the_table_or_drawn() {
        let many = |split: &str| (0..1000).map(|n| line(n, split)).collect::<Vec<_>>();
        assert_eq!(sizes(&many("all"), 10_000), [700, 100, 200]);
        assert_eq!(sizes(&many("train"), 10_000), [700, 100, 200]);
        let some = [many("train"), vec![line(5000, "dev"), line(5001, "test"), line(5002, "oos")]].concat();
        assert_eq!(sizes(&some, 10_000), [1000, 1, 1]);
        assert_eq!(sizes(&some, 100), [100, 1, 1]);
        let without_test = [many("train"), vec![line(5000, "dev")]].concat();
        let [train, valid, test] = sizes(&without_test, 10_000);
        assert_eq!([train, valid, test], [900, 100, 1]);
    }

    #[test]
    fn tables_that_cannot_be_read_are_refused_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tasks.tsv");
        let refused = |content: &str| {
            std::fs::write(&path, content).unwrap();
            let none = Path::new("none.npy");
            let caps = Caps { train: 99, valid: 99, test: 99 };
            let values = if content.contains("sts") { vec!["sts".to_string()] } else { Vec::new() };
            let source = Source::Files(none, none);
            read(&path, &[], &values, caps, &source, &bigrain::train::Silent).err().unwrap().to_string()
        };
        assert!(refused("task\tsplit\ttext_a\tlabel\n").contains("no column \"text_b\""));
        assert!(refused("task\tsplit\ttext_a\ttext_b\tlabel\n").contains("it has no rows"));
        assert!(refused("task\tsplit\ttext_a\ttext_b\tlabel\na\ttrain\tx\n").contains("line 2: 3 cells"));
        let head = "task\tsplit\ttext_a\ttext_b\tlabel\n";
        let many: String = (0..40).map(|row| format!("sts\ttrain\tx{row}\ty{row}\t{row}\n")).collect();
        assert!(refused(&format!("{head}{many}sts\ttest\tx\ty\tnan\n")).contains("line 42: the label \"nan\""));
        let many = many.replace("\t7\n", "\tgood\n");
        assert!(refused(&format!("{head}{many}")).contains("\"good\" is no number"));
        assert!(refused(&format!("{head}a\ttrain\tx\ty\tgood\n")).contains("\"a\": its 1 rows"));
        let parts = "a\tdev\tx\ty\tgood\na\ttest\tv\tw\tgood\n";
        assert!(refused(&format!("{head}{parts}a\ttrain\t \ty\tgood\n")).contains("line 4: text_a is empty"));
    }
}
