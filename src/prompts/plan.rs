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
    /// Inputs that share their candidates, at most.
    pub share: usize,
    /// Of the draws.
    pub seed: u64,
}

impl Default for PlanSpec {
    fn default() -> Self {
        PlanSpec { inputs: 240, candidates: 12, share: 6, seed: 1 }
    }
}

/// An input and the demonstrations that are tried for it; numbers in the pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The demonstration whose input it is.
    pub input: u32,
    /// Others of its task, none of them another wording of the input.
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
    if spec.inputs == 0 || spec.share == 0 || spec.candidates < 2 {
        let reason = format!("{} inputs, {} sharing, {} candidates", spec.inputs, spec.share, spec.candidates);
        return Err(Error::params("inputs", format!("{reason}; give at least 1, 1 and 2")));
    }
    let mut tasks: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    for (demonstration, number) in pool.demonstrations.iter().zip(0u32..) {
        tasks.entry(&demonstration.task).or_default().push(number);
    }
    let mut rng = Rng::stream(spec.seed, 0x91a9);
    let mut tasks: Vec<(Vec<u32>, usize)> = tasks.into_values().map(|all| (all, 0)).collect();
    tasks.iter_mut().for_each(|(all, _)| rng.shuffle(all));
    rng.shuffle(&mut tasks);
    let share = spec.share.min(spec.inputs.div_ceil(tasks.len().max(1)));
    let mut plan = Plan::default();
    let mut left = spec.inputs;
    while left > 0 {
        let before = left;
        for (all, used) in &mut tasks {
            let inputs = &all[*used..(*used + share.min(left)).min(all.len())];
            let block = block(pool, inputs, all, spec.candidates, &mut rng);
            *used += inputs.len();
            left -= block.len();
            if !block.is_empty() {
                plan.blocks.push(block);
            }
            if left == 0 {
                break;
            }
        }
        let exhausted = tasks.iter().all(|(all, used)| *used == all.len());
        if left == before && exhausted {
            break;
        }
    }
    if plan.blocks.is_empty() {
        let reason = format!("no task of the pool has {} demonstrations besides an input; index more", spec.candidates);
        return Err(Error::params("candidates", reason));
    }
    Ok(plan)
}

/// The trials of some inputs of a task; none where it has too few candidates.
fn block(pool: &Pool, inputs: &[u32], all: &[u32], candidates: usize, rng: &mut Rng) -> Vec<Trial> {
    let of = |number: u32| &pool.demonstrations[number as usize];
    let is_candidate = |&number: &u32| !inputs.iter().any(|&input| of(number).is_twin(of(input)));
    let mut others: Vec<u32> = all.iter().copied().filter(is_candidate).collect();
    if others.len() < candidates {
        return Vec::new();
    }
    rng.shuffle(&mut others);
    others.truncate(candidates);
    // Those of a template follow each other: their prompts begin alike.
    let inputs: BTreeSet<u32> = inputs.iter().copied().collect();
    inputs.into_iter().map(|input| Trial { input, candidates: others.clone() }).collect()
}
