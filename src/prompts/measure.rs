//! How much retrieved demonstrations help a language model, on inputs of a cluster that the pool has never seen.

use std::collections::HashSet;

use serde::Serialize;

use super::index::{PromptIndex, assemble};
use super::ledger::KeptScorer;
use super::lexical::Lexical;
use super::pool::{Demonstration, Pool};
use super::score::{completions, is_first, worth};
use crate::error::{Error, Result};
use crate::sample::Rng;
use crate::train::Watch;

/// A way to choose demonstrations.
#[derive(Debug)]
pub enum Method<'a> {
    /// None: the input alone.
    Alone,
    /// Any, by a seed.
    Random(u64),
    /// By the words they share with the input.
    Lexical(&'a Lexical),
    /// By an index.
    Index(&'a PromptIndex),
}

impl Method<'_> {
    fn name(&self) -> String {
        match self {
            Method::Alone => "alone".into(),
            Method::Random(seed) => format!("random {seed}"),
            Method::Lexical(_) => "lexical".into(),
            Method::Index(index) => index.name().into(),
        }
    }

    /// The demonstrations for the input with the number `at`, best first.
    fn choose<'p>(&self, pool: &'p Pool, input: &str, at: usize, k: usize) -> Result<Vec<&'p Demonstration>> {
        let of = |number: u32| &pool.demonstrations[number as usize];
        Ok(match self {
            Method::Alone => Vec::new(),
            Method::Random(seed) => {
                let mut rng = Rng::stream(*seed, at as u64);
                (0..k).map(|_| of(rng.below(pool.demonstrations.len() as u64) as u32)).collect()
            }
            Method::Lexical(lexical) => lexical.best(input, k).iter().map(|(number, _)| of(*number)).collect(),
            Method::Index(index) => index.retrieve_exactly(input, k)?.iter().map(|hit| of(hit.number)).collect(),
        })
    }
}

/// What a method came to.
#[derive(Debug, Clone, Serialize)]
pub struct MethodReport {
    /// Its name.
    pub name: String,
    /// Mean worth over the inputs: see [`worth`].
    pub worth: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
    /// Share of the inputs with options whose right one came first.
    pub accuracy: f64,
    /// Mean logarithm a token of the right answer.
    pub loglik: f64,
    /// The demonstrations' clusters with how often each was chosen.
    pub chosen: std::collections::BTreeMap<String, u64>,
    /// Worth of each input, in order.
    pub worths: Vec<f64>,
}

impl MethodReport {
    /// Mean difference of worth to another report on the same inputs, and its standard error.
    pub fn against(&self, other: &MethodReport) -> (f64, f64) {
        let differences: Vec<f64> = self.worths.iter().zip(&other.worths).map(|(a, b)| a - b).collect();
        mean_and_error(&differences)
    }
}

pub(super) fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / n;
    let square = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, (square / n).sqrt())
}

/// Refuses inputs whose cluster or data set a pool has demonstrations of.
///
/// # Errors
/// `InvalidParams` that names the cluster or the data set.
pub fn check_unseen(pool: &Pool, inputs: &[Demonstration]) -> Result<()> {
    let all = &pool.demonstrations;
    let clusters: HashSet<&str> = all.iter().map(|d| d.cluster.as_str()).collect();
    let tasks: HashSet<&str> = all.iter().map(|d| d.task.as_str()).collect();
    let known = |d: &&Demonstration| clusters.contains(d.cluster.as_str()) || tasks.contains(d.task.as_str());
    match inputs.iter().find(known) {
        None => Ok(()),
        Some(d) => {
            let what = format!("the pool has demonstrations of {:?} or of its data set {:?}", d.cluster, d.task);
            Err(Error::params("cluster", format!("{what}; index it without that cluster")))
        }
    }
}

/// Measures methods on `inputs` with `k` demonstrations each from `pool`, which must not know the inputs' clusters or data sets.
/// Indexes are searched exactly.
///
/// # Errors
/// `InvalidParams` as [`check_unseen`], or where there are no inputs; those of the scorer.
pub fn measure(
    methods: &[Method<'_>],
    pool: &Pool,
    inputs: &[Demonstration],
    k: usize,
    scorer: &mut KeptScorer<'_>,
    watch: &dyn Watch,
) -> Result<Vec<MethodReport>> {
    if inputs.is_empty() {
        return Err(Error::params("inputs", "there is none to measure on"));
    }
    check_unseen(pool, inputs)?;
    watch.begin("measure", (inputs.len() * methods.len()) as u64);
    let mut reports: Vec<MethodReport> = methods.iter().map(|method| MethodReport::empty(method.name())).collect();
    let mut with_options = 0;
    for (at, input) in inputs.iter().enumerate() {
        let (completions, right) = completions(input);
        with_options += usize::from(completions.len() > 1);
        for (method, report) in methods.iter().zip(&mut reports) {
            watch.check()?;
            let chosen = method.choose(pool, &input.input, at, k)?;
            let scored = scorer.score(&assemble(&chosen, &input.input), &completions)?;
            let value = worth(&scored, right);
            report.worths.push(value);
            report.accuracy += f64::from(u8::from(completions.len() > 1 && is_first(&scored, right)));
            report.loglik += scored[right].mean();
            chosen.iter().for_each(|d| *report.chosen.entry(d.cluster.clone()).or_default() += 1);
            watch.advance(1);
        }
    }
    for report in &mut reports {
        (report.worth, report.standard_error) = mean_and_error(&report.worths);
        report.accuracy /= f64::from(with_options.max(1) as u32);
        report.loglik /= inputs.len() as f64;
    }
    Ok(reports)
}

impl MethodReport {
    fn empty(name: String) -> MethodReport {
        let (worth, standard_error, accuracy, loglik) = (0.0, 0.0, 0.0, 0.0);
        MethodReport { name, worth, standard_error, accuracy, loglik, chosen: Default::default(), worths: Vec::new() }
    }
}
