//! What demonstrations are worth for inputs, by a language model; and the lessons that follow.
//!
//! Lessons as a file: a line `{"pool": "..."}` with the hash of the pool that they number, then one [`Lesson`] a line.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::index::assemble;
use super::ledger::KeptScorer;
use super::plan::Plan;
use super::pool::{Demonstration, Pool, write_whole};
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

/// What a prompt was worth: 0 to 1. With several completions, those of a choice: the right one's share of the exponentials of the mean
/// logarithms a token. With one: that exponential, which is the geometric mean of its tokens' probabilities.
///
/// The paper multiplies a choice by whether it was right ([`is_first`]). Here it counts either way: else nothing could be learned from an
/// input that no candidate gets right.
pub fn worth(scored: &[Likelihood], right: usize) -> f64 {
    let own = scored[right].mean();
    if scored.len() == 1 {
        return own.exp();
    }
    1.0 / scored.iter().map(|other| (other.mean() - own).exp()).sum::<f64>()
}

/// Whether no other completion has as high a mean logarithm a token as the `right` one.
pub fn is_first(scored: &[Likelihood], right: usize) -> bool {
    let own = scored[right].mean();
    scored.iter().enumerate().all(|(i, other)| i == right || other.mean() < own)
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
            rank(&mut ranked);
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

/// Best first, ties by number.
fn rank(candidates: &mut [(u32, f64)]) {
    candidates.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

/// Lessons of two runs, an input once: with the candidates of both, each with the worth that the later run gave it.
pub fn merge_lessons(before: Vec<Lesson>, after: Vec<Lesson>) -> Vec<Lesson> {
    let mut inputs: BTreeMap<u32, HashMap<u32, f64>> = BTreeMap::new();
    for lesson in before.into_iter().chain(after) {
        inputs.entry(lesson.input).or_default().extend(lesson.ranked);
    }
    let lesson = |(input, candidates): (u32, HashMap<u32, f64>)| {
        let mut ranked: Vec<(u32, f64)> = candidates.into_iter().collect();
        rank(&mut ranked);
        Lesson { input, ranked }
    };
    inputs.into_iter().map(lesson).collect()
}

/// The first line of a file of lessons.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    pool: String,
}

/// Writes lessons about the pool with the hash `pool`, whole or not at all.
///
/// # Errors
/// `Io`.
pub fn write_lessons(path: &Path, pool: &str, lessons: &[Lesson]) -> Result<()> {
    let mut text = serde_json::to_vec(&About { pool: pool.into() }).expect("plain values");
    for lesson in lessons {
        text.push(b'\n');
        serde_json::to_writer(&mut text, lesson).expect("plain values");
    }
    text.push(b'\n');
    write_whole(path, &text)
}

/// Reads lessons about a pool of `size` demonstrations with the hash `pool`.
///
/// # Errors
/// `Io`; `Mismatch` for lessons about another pool; `InvalidInput` with the line that is no lesson, or that names a demonstration beyond
/// the pool.
pub fn read_lessons(path: &Path, pool: &str, size: usize) -> Result<Vec<Lesson>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let mut lines = text.lines().zip(1..);
    let wrong = |number: i32, reason: String| {
        Error::input(path, format!("line {number}"), format!("{reason}; remove the file and score the pool again"))
    };
    let about: About =
        serde_json::from_str(lines.next().map_or("", |(line, _)| line)).map_err(|e| wrong(1, e.to_string()))?;
    if about.pool != pool {
        let what = format!("{}; remove it and score the pool again. Pool", path.display());
        return Err(Error::mismatch(what, pool, about.pool));
    }
    let read = |(line, number): (&str, i32)| {
        let lesson: Lesson = serde_json::from_str(line).map_err(|e| wrong(number, e.to_string()))?;
        let mut numbers = lesson.ranked.iter().map(|(number, _)| *number).chain([lesson.input]);
        match numbers.find(|&number| number as usize >= size) {
            Some(beyond) => Err(wrong(number, format!("demonstration {beyond} is beyond the {size} of the pool"))),
            None if lesson.ranked.len() < 2 => Err(wrong(number, "it ranks fewer than two candidates".into())),
            None if lesson.ranked.iter().any(|(_, worth)| !(0.0..=1.0).contains(worth)) => {
                Err(wrong(number, "a candidate's worth is not between 0 and 1".into()))
            }
            None => Ok(lesson),
        }
    };
    lines.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worth_is_the_share_of_a_choice_or_the_mean_probability() {
        let of = |values: &[(f64, u32)]| -> Vec<Likelihood> {
            values.iter().map(|&(loglik, tokens)| Likelihood { loglik, tokens }).collect()
        };
        assert!((worth(&of(&[(-4.0, 2)]), 0) - (-2f64).exp()).abs() < 1e-12);
        // Means -1 and -2: the second completion has the higher sum, but the first the higher mean.
        let choice = of(&[(-4.0, 4), (-2.0, 1)]);
        assert!((worth(&choice, 0) - 1.0 / (1.0 + (-1f64).exp())).abs() < 1e-12);
        assert!((worth(&choice, 1) - 1.0 / (1.0 + 1f64.exp())).abs() < 1e-12);
        assert!(is_first(&choice, 0) && !is_first(&choice, 1));
        assert!(!is_first(&of(&[(-1.0, 1), (-1.0, 1)]), 0), "a tie is no choice");
    }

    #[test]
    fn lessons_of_two_runs_are_joined_by_input() {
        let lesson = |input, ranked: &[(u32, f64)]| Lesson { input, ranked: ranked.to_vec() };
        let before = vec![lesson(4, &[(1, 0.9), (2, 0.1)]), lesson(3, &[(5, 0.5), (6, 0.4)])];
        let after = vec![lesson(9, &[(7, 0.3), (8, 0.2)]), lesson(4, &[(3, 0.5), (1, 0.4)])];
        let expected = [
            lesson(3, &[(5, 0.5), (6, 0.4)]),
            lesson(4, &[(3, 0.5), (1, 0.4), (2, 0.1)]),
            lesson(9, &[(7, 0.3), (8, 0.2)]),
        ];
        assert_eq!(merge_lessons(before, after), expected);
    }
}
