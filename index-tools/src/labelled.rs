//! A table of labelled texts of several tasks, divided and capped, and the vectors of its texts.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use bigrain::dataset::VectorFile;
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

/// One row of the table.
#[derive(Debug, Clone)]
struct Line {
    /// From 0, the header not counted.
    number: usize,
    split: String,
    a: String,
    b: String,
    label: String,
    /// Of the texts: equal texts are always in the same part.
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
/// gives a tenth of `train` for it; `all` is divided 70 : 10 : 20. Such divisions, and which rows a cap keeps, go by a hash of the texts.
/// Other splits are left out.
///
/// # Errors
/// `Io`; `InvalidInput` naming the line; `InvalidParams` for names of tasks that there are not; those of the encoder and of files of vectors.
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
        let [train, valid, held] = divide(lines, caps);
        let target = match values.contains(name) {
            true => value(path, &train)?,
            false => classes(&[&train[..], &valid, &held].concat()),
        };
        let mut rows = |lines: &[&Line]| lines.iter().map(|line| texts.row(path, line, &target)).collect::<Result<_>>();
        let (train, valid, held): (Vec<Row>, Vec<Row>, Vec<Row>) = (rows(&train)?, rows(&valid)?, rows(&held)?);
        found.push(RelevanceTask { name: name.clone(), target, train, valid });
        test.push(held);
    }
    let vectors = match source {
        Source::Encoder(encoder) => texts.encode(encoder, watch)?,
        Source::Files(a, b) => texts.vectors_from_files(path, a, b)?,
    };
    Ok(Labelled { vectors, tasks: found, test })
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
fn divide(lines: &[Line], caps: Caps) -> [Vec<&Line>; 3] {
    let of = |names: &[&str]| -> Vec<&Line> { lines.iter().filter(|l| names.contains(&l.split.as_str())).collect() };
    let (mut train, mut valid, mut test) = (of(&["train"]), of(&["dev", "val", "valid"]), of(&["test"]));
    if test.is_empty() {
        test = std::mem::take(&mut valid);
    }
    if valid.is_empty() {
        (valid, train) = train.into_iter().partition(|line| line.hash % 10 == 0);
    }
    for line in of(&["all"]) {
        match line.hash % 100 {
            0..70 => train.push(line),
            70..80 => valid.push(line),
            _ => test.push(line),
        }
    }
    [(train, caps.train), (valid, caps.valid), (test, caps.test)].map(|(lines, cap)| capped(lines, cap))
}

/// Some of the lines, by other bits of the hash than those that chose the part.
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
    line.label.parse().map_err(|_| {
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
        divide(lines, Caps { train: cap, valid: cap, test: cap }).map(|part| part.len())
    }

    #[test]
    fn parts_are_those_of_the_table_or_of_a_hash() {
        let many = |split: &str| (0..1000).map(|n| line(n, split)).collect::<Vec<_>>();
        let parts = sizes(&many("all"), 10_000);
        assert!((650..750).contains(&parts[0]) && (70..130).contains(&parts[1]) && (150..250).contains(&parts[2]));
        let some = [many("train"), vec![line(5000, "dev"), line(5001, "test"), line(5002, "oos")]].concat();
        assert_eq!(sizes(&some, 10_000), [1000, 1, 1]);
        assert_eq!(sizes(&some, 100), [100, 1, 1]);
        let without_test = [many("train"), vec![line(5000, "dev")]].concat();
        let [train, valid, test] = sizes(&without_test, 10_000);
        assert!(train + valid == 1000 && (70..130).contains(&valid) && test == 1);
    }

    #[test]
    fn tables_that_cannot_be_read_are_refused_with_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tasks.tsv");
        let refused = |content: &str| {
            std::fs::write(&path, content).unwrap();
            let none = Path::new("none.npy");
            let caps = Caps { train: 9, valid: 9, test: 9 };
            let values = if content.contains("sts") { vec!["sts".to_string()] } else { Vec::new() };
            let source = Source::Files(none, none);
            read(&path, &[], &values, caps, &source, &bigrain::train::Silent).err().unwrap().to_string()
        };
        assert!(refused("task\tsplit\ttext_a\tlabel\n").contains("no column \"text_b\""));
        assert!(refused("task\tsplit\ttext_a\ttext_b\tlabel\n").contains("it has no rows"));
        assert!(refused("task\tsplit\ttext_a\ttext_b\tlabel\na\ttrain\tx\n").contains("line 2: 3 cells"));
        let head = "task\tsplit\ttext_a\ttext_b\tlabel\n";
        assert!(refused(&format!("{head}sts\ttrain\tx\ty\tgood\n")).contains("\"good\" is no number"));
        assert!(refused(&format!("{head}a\ttrain\t \ty\tgood\n")).contains("text_a is empty"));
    }
}
