//! Which demonstrations are tried for which inputs.
//!
//! Inputs are drawn from all tasks in turn, so that a large one does not crowd out a small; the seed decides the turns, so that no
//! task is left out because of its name. Some inputs of a task share their candidates: a language model then reads each candidate
//! once for all of them. They are fewer where else some task would have no input.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::pool::Pool;
use crate::error::{Error, Result};
use crate::sample::Rng;

/// How much is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSpec {
    /// Inputs of training.
    pub inputs: usize,
    /// Candidates of each, of its own task (50 in the paper).
    pub candidates: usize,
    /// Candidates of other tasks besides (none in the paper): one of each task in turn. An input of a task that the pool does not know
    /// has no others, and what serves those cannot be learned from candidates of the own task.
    pub elsewhere: usize,
    /// Inputs that share their candidates, at most.
    pub share: usize,
    /// Of the draws.
    pub seed: u64,
}

impl Default for PlanSpec {
    fn default() -> Self {
        PlanSpec { inputs: 240, candidates: 12, elsewhere: 0, share: 6, seed: 1 }
    }
}

/// An input and the demonstrations that are tried for it; numbers in the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The demonstration whose input it is.
    pub input: u32,
    /// Others, none of them another wording of the input.
    pub candidates: Vec<u32>,
}

/// All trials; those of a block have the same candidates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Blocks of trials.
    pub blocks: Vec<Vec<Trial>>,
}

impl Plan {
    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.blocks.iter().map(Vec::len).sum()
    }

    /// Number of pairs of an input and a candidate.
    pub fn pairs(&self) -> u64 {
        self.blocks.iter().flatten().map(|trial| trial.candidates.len() as u64).sum()
    }
}

/// Draws inputs and candidates from `pool`. Tasks with too few demonstrations are left out.
///
/// # Errors
/// `InvalidParams` for sizes of zero or one, and where no task has enough demonstrations.
pub fn plan(pool: &Pool, spec: &PlanSpec) -> Result<Plan> {
    let candidates = spec.candidates.saturating_add(spec.elsewhere);
    if spec.inputs == 0 || spec.share == 0 || candidates < 2 {
        let reason = format!("{} inputs, {} sharing, {candidates} candidates", spec.inputs, spec.share);
        return Err(Error::params("inputs", format!("{reason}; give at least 1, 1 and 2")));
    }
    let mut tasks: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (demonstration, number) in pool.demonstrations.iter().zip(0u32..) {
        tasks.entry(&demonstration.task).or_default().push(number);
    }
    let mut rng = Rng::stream(spec.seed, 0x91a9);
    let mut tasks: Vec<Vec<u32>> = tasks.into_values().collect();
    tasks.iter_mut().for_each(|all| rng.shuffle(all));
    rng.shuffle(&mut tasks);
    let share = spec.share.min(spec.inputs.div_ceil(tasks.len().max(1)));
    let mut used = vec![0; tasks.len()];
    let mut plan = Plan::default();
    let mut left = spec.inputs;
    while left > 0 {
        let before = left;
        for (own, all) in tasks.iter().enumerate() {
            let inputs = &all[used[own]..(used[own] + share.min(left)).min(all.len())];
            used[own] += inputs.len();
            let block = block(pool, inputs, (&tasks, own), spec, &mut rng);
            left -= block.len();
            if !block.is_empty() {
                plan.blocks.push(block);
            }
            if left == 0 {
                break;
            }
        }
        let exhausted = tasks.iter().zip(&used).all(|(all, used)| *used == all.len());
        if left == before && exhausted {
            break;
        }
    }
    if plan.blocks.is_empty() {
        let elsewhere = if spec.elsewhere > 0 { format!(" and {} elsewhere", spec.elsewhere) } else { String::new() };
        let reason = format!("no task of the pool has {} demonstrations besides an input{elsewhere}", spec.candidates);
        return Err(Error::params("candidates", format!("{reason}; index more")));
    }
    Ok(plan)
}

/// The trials of some inputs of the task `own`; none where there are too few candidates.
fn block(
    pool: &Pool,
    inputs: &[u32],
    (tasks, own): (&[Vec<u32>], usize),
    spec: &PlanSpec,
    rng: &mut Rng,
) -> Vec<Trial> {
    let of = |number: u32| &pool.demonstrations[number as usize];
    let is_candidate = |&number: &u32| !inputs.iter().any(|&input| of(number).is_twin(of(input)));
    let mut candidates: Vec<u32> = tasks[own].iter().copied().filter(is_candidate).collect();
    if candidates.len() < spec.candidates {
        return Vec::new();
    }
    rng.shuffle(&mut candidates);
    candidates.truncate(spec.candidates);
    candidates.extend(elsewhere(tasks, own, spec.elsewhere, rng));
    if candidates.len() < spec.candidates + spec.elsewhere {
        return Vec::new();
    }
    // Those of a template follow each other: their prompts begin alike.
    let inputs: BTreeSet<u32> = inputs.iter().copied().collect();
    inputs.into_iter().map(|input| Trial { input, candidates: candidates.clone() }).collect()
}

/// `count` demonstrations of other tasks than `own`, or all there are: one of each in turn.
fn elsewhere(tasks: &[Vec<u32>], own: usize, count: usize, rng: &mut Rng) -> Vec<u32> {
    let mut others: Vec<Vec<u32>> = Vec::new();
    if count > 0 {
        others.extend(tasks.iter().enumerate().filter(|(task, _)| *task != own).map(|(_, all)| all.clone()));
    }
    rng.shuffle(&mut others);
    others.iter_mut().for_each(|all| rng.shuffle(all));
    in_turn(&others, count)
}

/// One of each list in turn, `count` in all or as many as there are.
pub(super) fn in_turn(lists: &[Vec<u32>], count: usize) -> Vec<u32> {
    let rounds = 0..lists.iter().map(Vec::len).max().unwrap_or(0);
    rounds.flat_map(|round| lists.iter().filter_map(move |all| all.get(round).copied())).take(count).collect()
}
