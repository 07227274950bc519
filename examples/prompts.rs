//! Demonstrations for a language model: scored by what they are worth to it, and a retriever tuned on that.
//!
//! The model here is a toy behind [`Scorer`] that thinks an answer the likelier the more often the prompt has it; `bigrain prompts` takes a
//! real one, as a process or by HTTP. `cargo run --release --example prompts`

use std::fmt::Write;
use std::path::Path;

use bigrain::error::{Error, Result};
use bigrain::prompts::{
    Clusters, KeptScorer, Ledger, Likelihood, PlanSpec, Pool, PoolSpec, PromptIndex, Scorer, TuneSpec, assemble, plan,
    score, tune,
};
use bigrain::train::Silent;

const MAKERS: [&str; 6] = ["HP", "Samsung", "Canon", "Epson", "Sony", "Logitech"];

/// A model that repeats what it has read.
struct Parrot;

impl Scorer for Parrot {
    fn name(&self) -> &str {
        "parrot"
    }

    fn score(&mut self, prompt: &str, completions: &[String]) -> Result<Vec<Likelihood>> {
        let count = |answer: &String| prompt.split_whitespace().filter(|word| word == answer).count();
        let of = |answer| Likelihood { loglik: -5.0 / (1.0 + count(answer) as f64), tokens: 1 };
        Ok(completions.iter().map(of).collect())
    }
}

/// Questions about products of some makers, whose names are left out, and the answers.
fn questions(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).expect("the bundled products");
    let question = |line: &str| {
        let cells: Vec<&str> = line.split('\t').collect();
        let words = cells[1].split_whitespace().filter(|word| !word.eq_ignore_ascii_case(cells[2]));
        let asked = format!("Who makes this? {}", words.take(8).collect::<Vec<_>>().join(" "));
        MAKERS.contains(&cells[2]).then(|| (asked, cells[2].to_string()))
    };
    text.lines().skip(1).filter_map(question).collect()
}

/// How often the best demonstration has the right answer.
fn right(index: &PromptIndex, asked: &[(String, String)]) -> Result<f64> {
    let mut right = 0;
    for (question, answer) in asked {
        right += usize::from(index.retrieve(question, 1)?[0].demonstration.answer == *answer);
    }
    Ok(right as f64 / asked.len() as f64)
}

fn main() -> Result<()> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let dir = std::env::temp_dir().join(format!("bigrain-prompts-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;
    let questions = questions(&testdata.join("products/products.tsv"));
    let (known, held_out) = questions.split_at(questions.len() - 300);

    // A source: template, question, answer; and the cluster that the task belongs to.
    let mut source = String::from("template\tprompt\tcompletion\n");
    for (question, answer) in known.iter().take(2_000) {
        writeln!(source, "maker\t{question}\t{answer}").expect("a string takes all");
    }
    let (source_file, cluster_file) = (dir.join("source.tsv"), dir.join("clusters.tsv"));
    std::fs::write(&source_file, source).map_err(Error::io(&source_file))?;
    std::fs::write(&cluster_file, "maker\tknowledge\n").map_err(Error::io(&cluster_file))?;

    let spec = PoolSpec::default();
    let pool = Pool::from_tsv(&source_file, &Clusters::read(&cluster_file)?, &spec)?;
    let folder = dir.join("pool");
    PromptIndex::create(&folder, &pool, &spec, (&testdata.join("encoder"), None), &Silent)?;
    let untuned = PromptIndex::open(&folder, "untuned", None)?;

    let trials = plan(untuned.pool(), &PlanSpec { inputs: 1_600, candidates: 24, elsewhere: 0, share: 4, seed: 1 })?;
    let (mut model, mut ledger) = (Parrot, Ledger::open(&dir.join("scores.jsonl"))?);
    let (lessons, report) = score(untuned.pool(), &trials, &mut KeptScorer::new(&mut model, &mut ledger), &Silent)?;
    let [best, mean, worst] = report.best_mean_worst;
    println!(
        "{} lessons; the best demonstration is worth {best:.2}, a usual one {mean:.2}, the worst {worst:.2}",
        lessons.len()
    );
    tune(&untuned, &lessons, &TuneSpec::new("tuned", 1), &Silent)?;
    let tuned = untuned.open_beside("tuned")?;

    let (before, after) = (right(&untuned, held_out)?, right(&tuned, held_out)?);
    println!(
        "the first demonstration has the right maker: untuned {before:.2}, tuned {after:.2} of {} inputs",
        held_out.len()
    );
    let input = &held_out[0].0;
    let best: Vec<_> = tuned.retrieve(input, 3)?.into_iter().map(|found| found.demonstration).collect();
    println!("\n{}", assemble(&best, input));
    std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))
}
