//! Every input with the same demonstrations, one at a time: a table on which all methods are judged by the same numbers.
//!
//! ```text
//!              demonstration 0   1   2 ...     what a method comes to for an input: the number under the demonstration that it
//! input 0             -0.7    -0.9  -0.4       chooses among these, less the mean of the row. Any demonstration comes to 0 by
//! input 1             -2.1    -1.8  -2.2       this, and the best of the row is as much as can be had.
//! ```
//! A number is the logarithm of what the demonstration is worth ([`super::worth`]). Once the table is scored, a further method, or a seed
//! more, costs no answer of the language model. The demonstration comes before the input, so a model that keeps what it has read reads
//! each demonstration once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::Serialize;

use super::index::{PromptIndex, assemble};
use super::ledger::KeptScorer;
use super::lexical::Lexical;
use super::measure::mean_and_error;
use super::plan::in_turn;
use super::pool::{Demonstration, Pool};
use super::score::{completions, is_first, worth};
use crate::error::{Error, Result};
use crate::sample::Rng;
use crate::train::Watch;

/// What a demonstration did for an input.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    /// Logarithm of its worth.
    log: f64,
    /// Whether the right answer came first.
    first: bool,
}

/// A scored table.
#[derive(Debug)]
pub struct Table {
    inputs: Vec<Demonstration>,
    candidates: Vec<u32>,
    /// Row by row.
    cells: Vec<Cell>,
    /// What each input comes to without a demonstration.
    alone: Vec<Cell>,
}

/// A way to choose among the demonstrations of a table.
#[derive(Debug)]
pub enum Chooser<'a> {
    /// By the words they share with the input.
    Lexical(&'a Lexical),
    /// By indexes, each for itself: their results are averaged input by input.
    Indexes(Vec<&'a PromptIndex>),
}

/// What a way to choose came to.
#[derive(Debug, Clone, Serialize)]
pub struct TableReport {
    /// Its name.
    pub name: String,
    /// Mean over the inputs of the logarithm of worth, less the mean of the input's row.
    pub gain: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
    /// The gain as a share of the oracle's.
    pub of_oracle: f64,
    /// Share of the inputs with options whose right one came first.
    pub accuracy: f64,
    /// Mean logarithm of worth.
    pub log: f64,
    /// Gain of each input, in order.
    pub gains: Vec<f64>,
}

/// `count` demonstrations of a pool, or all that it has: one of each task in turn, drawn by a seed.
pub fn draw_candidates(pool: &Pool, count: usize, seed: u64) -> Vec<u32> {
    let mut tasks: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (demonstration, number) in pool.demonstrations.iter().zip(0u32..) {
        tasks.entry(&demonstration.task).or_default().push(number);
    }
    let mut rng = Rng::stream(seed, 0x7ab1e);
    let mut tasks: Vec<Vec<u32>> = tasks.into_values().collect();
    rng.shuffle(&mut tasks);
    tasks.iter_mut().for_each(|all| rng.shuffle(all));
    in_turn(&tasks, count)
}

/// Some of `held`, drawn by a seed: one wording an example, and none that is a twin of a demonstration of the pool. `range` are places in
/// the order of the draw, so that what was used to decide can be kept out of what is reported.
pub fn draw_inputs(held: &[Demonstration], pool: &Pool, range: Range<usize>, seed: u64) -> Vec<Demonstration> {
    let mut examples: BTreeSet<(&str, u32)> = BTreeSet::new();
    let mut inputs: BTreeSet<(&str, &str)> = BTreeSet::new();
    for known in &pool.demonstrations {
        examples.insert((&known.task, known.example));
        inputs.insert((&known.task, &known.input));
    }
    let mut order: Vec<&Demonstration> = held.iter().collect();
    Rng::stream(seed, 0x1a_b1e5).shuffle(&mut order);
    let mut fresh: Vec<&Demonstration> = Vec::new();
    for d in order {
        if examples.insert((&d.task, d.example)) && inputs.insert((&d.task, &d.input)) {
            fresh.push(d);
        }
    }
    let drawn = fresh.into_iter().skip(range.start).take(range.len());
    let mut drawn: Vec<Demonstration> = drawn.cloned().collect();
    // Inputs that begin alike follow each other.
    drawn.sort_by(|a, b| (&a.template, a.example).cmp(&(&b.template, b.example)));
    drawn
}

impl Table {
    /// Scores the demonstrations `candidates` of `pool` before each of `inputs`, demonstration by demonstration.
    ///
    /// # Errors
    /// `InvalidParams` for fewer than two demonstrations or no input, or where an input is a twin of a demonstration of the pool;
    /// those of the scorer.
    pub fn score(
        pool: &Pool,
        inputs: Vec<Demonstration>,
        candidates: Vec<u32>,
        scorer: &mut KeptScorer<'_>,
        watch: &dyn Watch,
    ) -> Result<Table> {
        if inputs.is_empty() || candidates.len() < 2 {
            let reason = format!("{} inputs, {} demonstrations; give at least 1 and 2", inputs.len(), candidates.len());
            return Err(Error::params("table", reason));
        }
        if let Some(input) = inputs.iter().find(|input| pool.demonstrations.iter().any(|d| d.is_twin(input))) {
            let reason = format!("example {} of {} is in the pool; draw others", input.example, input.task);
            return Err(Error::params("inputs", reason));
        }
        let size = pool.demonstrations.len();
        if let Some(beyond) = candidates.iter().find(|&&candidate| candidate as usize >= size) {
            let reason = format!("demonstration {beyond} is beyond the {size} of the pool; give numbers below that");
            return Err(Error::params("candidates", reason));
        }
        watch.begin("table", (inputs.len() * (candidates.len() + 1)) as u64);
        let mut cell = |before: &[&Demonstration], input: &Demonstration| -> Result<Cell> {
            watch.check()?;
            let (completions, right) = completions(input);
            let scored = scorer.score(&assemble(before, &input.input), &completions)?;
            watch.advance(1);
            Ok(Cell { log: worth(&scored, right).ln(), first: completions.len() > 1 && is_first(&scored, right) })
        };
        let alone = inputs.iter().map(|input| cell(&[], input)).collect::<Result<Vec<Cell>>>()?;
        let mut cells = vec![alone[0]; inputs.len() * candidates.len()];
        for (column, &candidate) in candidates.iter().enumerate() {
            let demonstration = &pool.demonstrations[candidate as usize];
            for (row, input) in inputs.iter().enumerate() {
                cells[row * candidates.len() + column] = cell(&[demonstration], input)?;
            }
        }
        Ok(Table { inputs, candidates, cells, alone })
    }

    /// Its inputs, in order.
    pub fn inputs(&self) -> &[Demonstration] {
        &self.inputs
    }

    /// Its demonstrations: numbers in the pool.
    pub fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    /// The logarithms of worth of an input's row.
    pub fn row(&self, input: usize) -> Vec<f64> {
        self.cells_of(input).iter().map(|cell| cell.log).collect()
    }

    fn cells_of(&self, input: usize) -> &[Cell] {
        &self.cells[input * self.candidates.len()..][..self.candidates.len()]
    }

    /// What ways to choose come to, between no demonstration, any and the oracle.
    ///
    /// # Errors
    /// Those of the encoder and the search.
    pub fn judge(&self, choosers: &[Chooser<'_>]) -> Result<Vec<TableReport>> {
        let any = |input: usize| average(vec![self.cells_of(input).to_vec()]);
        let best = |input: usize| {
            let cells = self.cells_of(input).iter().copied();
            let cell = cells.reduce(|best, cell| if cell.log > best.log { cell } else { best });
            average(vec![cell.into_iter().collect()])
        };
        let rows = 0..self.inputs.len();
        let mut found: Vec<(String, Vec<(f64, f64)>)> = vec![
            ("alone".into(), self.alone.iter().map(|cell| average(vec![vec![*cell]])).collect()),
            ("random".into(), rows.clone().map(any).collect()),
        ];
        for chooser in choosers {
            let values = rows.clone().map(|input| self.chosen(chooser, input)).collect::<Result<_>>()?;
            found.push((chooser.name(), values));
        }
        found.push(("oracle".into(), rows.map(best).collect()));
        let oracle = self.report(String::new(), &found[found.len() - 1].1, 1.0).gain;
        Ok(found.into_iter().map(|(name, values)| self.report(name, &values, oracle)).collect())
    }

    /// Log and correctness of what is chosen for an input, averaged over the choices of a chooser.
    fn chosen(&self, chooser: &Chooser<'_>, input: usize) -> Result<(f64, f64)> {
        let text = &self.inputs[input].input;
        let cells = self.cells_of(input);
        let first_of = |mut order: Box<dyn Iterator<Item = u32> + '_>| -> Vec<Cell> {
            let place = order.find_map(|number| self.candidates.iter().position(|&c| c == number));
            // Whoever has no opinion takes any.
            place.map_or_else(|| cells.to_vec(), |place| vec![cells[place]])
        };
        let chosen = match chooser {
            Chooser::Lexical(lexical) => {
                let found = lexical.best(text, usize::MAX);
                vec![first_of(Box::new(found.into_iter().map(|hit| hit.0)))]
            }
            Chooser::Indexes(indexes) => {
                let one = |index: &&PromptIndex| -> Result<Vec<Cell>> {
                    let found = index.retrieve_exactly(text, usize::MAX)?;
                    Ok(first_of(Box::new(found.into_iter().map(|hit| hit.number))))
                };
                indexes.iter().map(one).collect::<Result<_>>()?
            }
        };
        Ok(average(chosen))
    }

    fn report(&self, name: String, values: &[(f64, f64)], oracle: f64) -> TableReport {
        let mean = |cells: &[Cell]| cells.iter().map(|cell| cell.log).sum::<f64>() / cells.len() as f64;
        let gains: Vec<f64> = values.iter().enumerate().map(|(at, value)| value.0 - mean(self.cells_of(at))).collect();
        let (gain, standard_error) = mean_and_error(&gains);
        let asked = self.inputs.iter().filter(|input| completions(input).0.len() > 1).count();
        let right: f64 = values.iter().map(|value| value.1).sum();
        let log = values.iter().map(|value| value.0).sum::<f64>() / values.len() as f64;
        let of_oracle = if oracle > 0.0 { gain / oracle } else { 0.0 };
        TableReport { name, gain, standard_error, of_oracle, accuracy: right / asked.max(1) as f64, log, gains }
    }
}

/// The mean over groups of the means within them: of logarithms, and of right answers.
fn average(groups: Vec<Vec<Cell>>) -> (f64, f64) {
    let mut sums = (0.0, 0.0);
    for group in &groups {
        let share = 1.0 / (group.len() * groups.len()) as f64;
        sums.0 += share * group.iter().map(|cell| cell.log).sum::<f64>();
        sums.1 += share * group.iter().filter(|cell| cell.first).count() as f64;
    }
    sums
}

impl Chooser<'_> {
    fn name(&self) -> String {
        match self {
            Chooser::Lexical(_) => "lexical".into(),
            Chooser::Indexes(indexes) => indexes.iter().map(|index| index.name()).collect::<Vec<_>>().join("+"),
        }
    }
}
