//! The stages one after the other, on a made source.

use super::testing::{Words, made_pool};
use super::*;
use crate::train::Silent;

fn lessons_of(index: &PromptIndex, spec: &PlanSpec) -> (Vec<Lesson>, ScoreReport) {
    let mut ledger = Ledger::open(&index.dir().join("scores.jsonl")).unwrap();
    let mut model = Words::default();
    let plan = plan(index.pool(), spec).unwrap();
    score(index.pool(), &plan, &mut KeptScorer::new(&mut model, &mut ledger), &Silent).unwrap()
}

#[test]
fn the_best_stands_next_to_the_input() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let input = "red shoe number 3 imdb_a ?";
    let hits = index.retrieve(input, 3).unwrap();
    assert!(hits.is_sorted_by(|a, b| a.score >= b.score) && hits.len() == 3);
    let chosen: Vec<&Demonstration> = hits.iter().map(|hit| hit.demonstration).collect();
    let prompt = assemble(&chosen, input);
    let expected = format!("{}\n\n{}\n\n{}\n\n{input}\n", chosen[2].text(), chosen[1].text(), chosen[0].text());
    assert_eq!(prompt, expected);
    assert_eq!(assemble(&[], input), format!("{input}\n"));
    assert!(index.retrieve(" ", 3).unwrap_err().to_string().contains("empty"));
    assert!(index.retrieve(input, 0).unwrap_err().to_string().contains("at least 1"));
}

#[test]
fn retrieval_is_by_inner_product_of_the_encoder() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let input = "blue hat hat number 9 ?";
    let query = index.encoder().encode_one(input).unwrap();
    let score = |d: &Demonstration| -> f32 {
        index.encoder().encode_one(&d.text()).unwrap().iter().zip(&query).map(|(a, b)| a * b).sum()
    };
    let mut scores: Vec<f32> = index.pool().demonstrations.iter().map(score).collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    for (hit, expected) in index.retrieve(input, 3).unwrap().iter().zip(&scores) {
        assert!((hit.score - expected).abs() < 1e-5 && (score(hit.demonstration) - expected).abs() < 1e-5);
    }
}

#[test]
fn a_plan_keeps_to_the_task_and_never_tries_a_twin() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let spec = PlanSpec { inputs: 50, candidates: 5, share: 4, seed: 3 };
    let made = plan(index.pool(), &spec).unwrap();
    assert_eq!((made.inputs(), made.pairs()), (50, 250));
    let of = |number: u32| &index.pool().demonstrations[number as usize];
    let mut inputs = Vec::new();
    for trial in made.blocks.iter().flatten() {
        inputs.push(trial.input);
        for &candidate in &trial.candidates {
            assert_eq!(of(candidate).task, of(trial.input).task);
            assert!(!of(candidate).is_twin(of(trial.input)) && of(candidate).example != of(trial.input).example);
        }
    }
    inputs.sort_unstable();
    inputs.dedup();
    assert_eq!(inputs.len(), 50, "no input twice");
    assert_eq!(made, plan(index.pool(), &spec).unwrap());
    assert_ne!(made, plan(index.pool(), &PlanSpec { seed: 4, ..spec.clone() }).unwrap());
    let error = plan(index.pool(), &PlanSpec { candidates: 500, ..spec.clone() }).unwrap_err().to_string();
    assert!(error.contains("500"), "{error}");
    assert!(plan(index.pool(), &PlanSpec { share: 0, ..spec }).is_err());
}

#[test]
fn a_cluster_that_is_left_out_is_in_no_pool_no_training_and_no_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    assert!(index.note().left_out.contains("paraphrase"));
    assert!(index.pool().demonstrations.iter().all(|d| d.cluster != "paraphrase"));
    let (lessons, _) = lessons_of(&index, &PlanSpec { inputs: 40, candidates: 4, share: 4, seed: 1 });
    let numbers = lessons.iter().flat_map(|l| l.ranked.iter().map(|(number, _)| *number).chain([l.input]));
    assert!(numbers.map(|n| &index.pool().demonstrations[n as usize]).all(|d| d.cluster != "paraphrase"));
    // Inputs of the cluster are measured; inputs of one that the pool knows are refused.
    let read = |only: &str| {
        let spec = PoolSpec { only: [only.to_string()].into(), ..PoolSpec::default() };
        Pool::from_tsv(&dir.path().join("source.tsv"), &Clusters::default_table(), &spec).unwrap().demonstrations
    };
    let mut ledger = Ledger::open(&index.dir().join("scores.jsonl")).unwrap();
    let mut model = Words::default();
    let mut kept = KeptScorer::new(&mut model, &mut ledger);
    let lexical = Lexical::new(index.pool().demonstrations.iter().map(|d| d.input.as_str()));
    let methods = [Method::Alone, Method::Random(1), Method::Lexical(&lexical), Method::Index(&index)];
    let reports = measure(&methods, index.pool(), &read("paraphrase"), 3, &mut kept, &Silent).unwrap();
    assert!(reports.iter().all(|r| r.worths.len() == 40 && !r.chosen.contains_key("paraphrase")));
    assert!(reports[0].chosen.is_empty() && reports[3].chosen.values().sum::<u64>() == 120);
    assert_eq!(reports[3].against(&reports[3]), (0.0, 0.0));
    let error = measure(&methods, index.pool(), &read("sentiment"), 3, &mut kept, &Silent).unwrap_err().to_string();
    assert!(error.contains("\"sentiment\"; index it without"), "{error}");
}

#[test]
fn lessons_rank_by_worth_and_a_second_run_asks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let spec = PlanSpec { inputs: 24, candidates: 6, share: 3, seed: 1 };
    let (lessons, report) = lessons_of(&index, &spec);
    assert_eq!((report.pairs, report.asked, report.inputs), (144, 144, 24));
    assert!(lessons.len() > 10 && lessons.iter().all(|l| l.ranked.is_sorted_by(|a, b| a.1 >= b.1)));
    // The model prefers what it has just seen: the best candidate has the input's answer.
    let of = |number: u32| &index.pool().demonstrations[number as usize];
    assert!(lessons.iter().all(|l| of(l.ranked[0].0).answer == of(l.input).answer));
    let (again, report) = lessons_of(&index, &spec);
    assert_eq!((again, report.asked), (lessons.clone(), 0));
    let path = index.dir().join("lessons.jsonl");
    write_lessons(&path, &lessons).unwrap();
    assert_eq!(read_lessons(&path, index.pool()).unwrap(), lessons);
    std::fs::write(&path, "{\"input\": 9999, \"ranked\": [[1, 0.5], [2, 0.25]]}\n").unwrap();
    assert!(read_lessons(&path, index.pool()).unwrap_err().to_string().contains("demonstration 9999 is beyond"));
}

#[test]
fn tuned_heads_prefer_what_helped_and_a_seed_decides() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let (lessons, _) = lessons_of(&index, &PlanSpec { inputs: 60, candidates: 8, share: 3, seed: 1 });
    let mut spec = TuneSpec::new("tuned", 1);
    spec.training.rate = 1e-2;
    let report = tune(&index, &lessons, &spec, &Silent).unwrap();
    assert_eq!(report.train + report.valid, lessons.len());
    let best = report.curve.iter().map(|epoch| epoch.valid).fold(f32::INFINITY, f32::min);
    assert!(best < report.curve[0].valid, "{:?}", report.curve);
    let tuned = PromptIndex::open(index.dir(), "tuned", None).unwrap();
    let found = |index: &PromptIndex| -> Vec<(u32, u32)> {
        index.retrieve("red shoe ?", 9).unwrap().iter().map(|hit| (hit.number, hit.score.to_bits())).collect()
    };
    assert_ne!(found(&tuned), found(&index));
    tune(&index, &lessons, &TuneSpec { name: "again".into(), ..spec.clone() }, &Silent).unwrap();
    assert_eq!(found(&PromptIndex::open(index.dir(), "again", None).unwrap()), found(&tuned));
    for (name, message) in [("untuned", "without heads"), ("../x", "letters, digits"), ("", "letters, digits")] {
        let error =
            tune(&index, &lessons, &TuneSpec { name: name.into(), ..spec.clone() }, &Silent).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(tune(&index, &lessons[..1], &spec, &Silent).unwrap_err().to_string().contains("score more inputs"));
}

#[test]
fn pools_that_do_not_hold_together_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let pool = index.dir().join("pool.jsonl");
    let text = std::fs::read_to_string(&pool).unwrap();
    std::fs::write(&pool, text.replacen("Yes", "yes", 1)).unwrap();
    let error = PromptIndex::open(index.dir(), "untuned", None).unwrap_err().to_string();
    assert!(error.contains("hash of") && error.contains("pool.jsonl"), "{error}");
    std::fs::write(&pool, text).unwrap();
    assert!(PromptIndex::open(index.dir(), "absent", None).is_err());
    let spec = PoolSpec::default();
    let again = PromptIndex::create(index.dir(), index.pool(), &spec, (&dir.path().join("encoder"), None), &Silent);
    assert!(again.unwrap_err().to_string().contains("holds a pool already"));
    std::fs::write(index.dir().join("prompts.json"), "{}").unwrap();
    assert!(PromptIndex::open(index.dir(), "untuned", None).unwrap_err().to_string().contains("index the pool again"));
}
