//! What demonstrations are worth for inputs, by a language model; and the lessons that follow.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::index::assemble;
use super::ledger::KeptScorer;
use super::plan::Plan;
use super::pool::{Demonstration, Pool, write_lines};
use super::scorer::Likelihood;
use crate::error::{Error, Result};
use crate::train::Watch;

/// What candidates were worth for an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lesson {
    /// Number of the demonstration whose input it is.
    pub input: u32,
    /// Candidates with their worth, best first, ties by number.
    pub ranked: Vec<(u32, f64)>,
}

/// What [`score`] did.
#[derive(Debug, Clone, Serialize)]
pub struct ScoreReport {
    /// Inputs tried.
    pub inputs: usize,
    /// Pairs of an input and a candidate.
    pub pairs: u64,
    /// Pairs that the language model was asked for; the others were known.
    pub asked: u64,
    /// Inputs for which some candidate was worth more than another.
    pub lessons: usize,
    /// Mean worth of the best, of all, and of the worst candidate of an input.
    pub best_mean_worst: [f64; 3],
}

/// The completions to score for an input, and which of them is right.
pub(super) fn completions(input: &Demonstration) -> (Vec<String>, usize) {
    match input.options.iter().position(|option| *option == input.answer) {
        Some(right) => (input.options.clone(), right),
        None => (vec![input.answer.clone()], 0),
    }
}

/// What a prompt was worth: 0 to 1. With several completions, those of a choice: 0 if another than the `right` one has the highest
/// mean logarithm a token, else the right one's share of the exponentials of these means. With one: that exponential, which is
/// the geometric mean of its tokens' probabilities.
pub fn worth(scored: &[Likelihood], right: usize) -> f64 {
    let own = scored[right].mean();
    if scored.len() == 1 {
        return own.exp();
    }
    let is_first = scored.iter().enumerate().all(|(i, other)| i == right || other.mean() < own);
    let sum: f64 = scored.iter().map(|other| (other.mean() - own).exp()).sum();
    if is_first { 1.0 / sum } else { 0.0 }
}

/// Scores every candidate of a plan before its inputs. Candidate by candidate within a block, so that the language model meets
/// the same beginning again.
///
/// # Errors
/// Those of the scorer, and of the watch; what was scored before is kept.
pub fn score(
    pool: &Pool,
    plan: &Plan,
    scorer: &mut KeptScorer<'_>,
    watch: &dyn Watch,
) -> Result<(Vec<Lesson>, ScoreReport)> {
    watch.begin("score", plan.pairs());
    let of = |number: u32| &pool.demonstrations[number as usize];
    let (mut lessons, mut sums) = (Vec::new(), [0.0; 3]);
    for block in &plan.blocks {
        let mut worths = vec![Vec::new(); block.len()];
        for at in 0..block.first().map_or(0, |trial| trial.candidates.len()) {
            for (trial, worths) in block.iter().zip(&mut worths) {
                watch.check()?;
                let (completions, right) = completions(of(trial.input));
                let prompt = assemble(&[of(trial.candidates[at])], &of(trial.input).input);
                worths.push((trial.candidates[at], worth(&scorer.score(&prompt, &completions)?, right)));
                watch.advance(1);
            }
        }
        for (trial, mut ranked) in block.iter().zip(worths) {
            ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let (best, worst) = (ranked[0].1, ranked[ranked.len() - 1].1);
            let mean = ranked.iter().map(|(_, worth)| worth).sum::<f64>() / ranked.len() as f64;
            sums.iter_mut().zip([best, mean, worst]).for_each(|(sum, value)| *sum += value);
            if best > worst {
                lessons.push(Lesson { input: trial.input, ranked });
            }
        }
    }
    let inputs = plan.inputs();
    let best_mean_worst = sums.map(|sum| sum / inputs.max(1) as f64);
    let report =
        ScoreReport { inputs, pairs: plan.pairs(), asked: scorer.asked(), lessons: lessons.len(), best_mean_worst };
    Ok((lessons, report))
}

/// Writes lessons, whole or not at all.
///
/// # Errors
/// `Io`.
pub fn write_lessons(path: &Path, lessons: &[Lesson]) -> Result<()> {
    write_lines(path, lessons)
}

/// Reads lessons about a pool.
///
/// # Errors
/// `Io`; `InvalidInput` with the line that is no lesson, or that names a demonstration beyond the pool.
pub fn read_lessons(path: &Path, pool: &Pool) -> Result<Vec<Lesson>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let read = |(number, line): (usize, &str)| {
        let wrong = |reason: String| Error::input(path, format!("line {}", number + 1), reason);
        let lesson: Lesson = serde_json::from_str(line).map_err(|e| wrong(format!("{e}; score the pool again")))?;
        let numbers = lesson.ranked.iter().map(|(number, _)| *number).chain([lesson.input]);
        match numbers.into_iter().find(|&number| number as usize >= pool.demonstrations.len()) {
            Some(number) => {
                let size = pool.demonstrations.len();
                Err(wrong(format!("demonstration {number} is beyond the {size} of the pool; score the pool again")))
            }
            None if lesson.ranked.len() < 2 => {
                Err(wrong("it ranks fewer than two candidates; score the pool again".into()))
            }
            None => Ok(lesson),
        }
    };
    text.lines().enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worth_is_correctness_times_share_or_the_mean_probability() {
        let of = |values: &[(f64, u32)]| -> Vec<Likelihood> {
            values.iter().map(|&(loglik, tokens)| Likelihood { loglik, tokens }).collect()
        };
        assert!((worth(&of(&[(-4.0, 2)]), 0) - (-2f64).exp()).abs() < 1e-12);
        // Means -1 and -2: the second completion has the higher sum, but the first the higher mean.
        let choice = of(&[(-4.0, 4), (-2.0, 1)]);
        assert!((worth(&choice, 0) - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-12);
        assert_eq!(worth(&choice, 1), 0.0);
        assert_eq!(worth(&of(&[(-1.0, 1), (-1.0, 1)]), 0), 0.0, "a tie is no choice");
    }
}
