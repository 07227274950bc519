//! The stages one after the other, on a made source.

use super::testing::{WORDS, Words, made_pool};
use super::*;
use crate::encoder::testing::write_static;
use crate::error::Result;
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
    let spec = PlanSpec { inputs: 50, candidates: 5, elsewhere: 0, share: 4, seed: 3 };
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
    assert!(plan(index.pool(), &PlanSpec { share: 0, ..spec.clone() }).is_err());

    let wider = PlanSpec { elsewhere: 3, ..spec.clone() };
    for trial in plan(index.pool(), &wider).unwrap().blocks.iter().flatten() {
        let own = |&&candidate: &&u32| of(candidate).task == of(trial.input).task;
        assert_eq!((trial.candidates.len(), trial.candidates.iter().filter(own).count()), (8, 5));
    }
    let error = plan(index.pool(), &PlanSpec { elsewhere: 500, ..spec.clone() }).unwrap_err().to_string();
    assert!(error.contains("5 demonstrations besides an input and 500 elsewhere"), "{error}");
    assert_eq!(plan(index.pool(), &PlanSpec { candidates: 0, elsewhere: 2, ..spec.clone() }).unwrap().pairs(), 100);
    assert!(plan(index.pool(), &PlanSpec { candidates: 0, elsewhere: 1, ..spec }).is_err());
}

#[test]
fn a_cluster_that_is_left_out_is_in_no_pool_no_training_and_no_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    assert!(index.note().left_out.contains("paraphrase"));
    assert!(index.pool().demonstrations.iter().all(|d| d.cluster != "paraphrase"));
    let (lessons, _) = lessons_of(&index, &PlanSpec { inputs: 40, candidates: 4, elsewhere: 0, share: 4, seed: 1 });
    let numbers = lessons.iter().flat_map(|l| l.ranked.iter().map(|(number, _)| *number).chain([l.input]));
    assert!(numbers.map(|n| &index.pool().demonstrations[n as usize]).all(|d| d.cluster != "paraphrase"));
    // Inputs of the cluster are measured; inputs of one that the pool knows are refused.
    let read = |only: &str| {
        let spec = PoolSpec { only: [only.to_string()].into(), ..PoolSpec::default() };
        Pool::from_tsv(&dir.path().join("source.tsv"), &Clusters::default_table(), &spec).unwrap().demonstrations
    };
    let mut ledger = Ledger::open(&index.dir().join("scores.jsonl")).unwrap();
    let mut model = Moody;
    let mut kept = KeptScorer::new(&mut model, &mut ledger);
    let lexical = Lexical::new(index.pool().demonstrations.iter().map(Demonstration::text));
    let methods = [Method::Alone, Method::Random(1), Method::Lexical(&lexical), Method::Index(&index)];
    let reports = measure(&methods, index.pool(), &read("paraphrase"), 3, &mut kept, &Silent).unwrap();
    assert!(reports.iter().all(|r| r.worths.len() == 40 && !r.chosen.contains_key("paraphrase")));
    assert!(reports[0].chosen.is_empty() && reports[3].chosen.values().sum::<u64>() == 120);
    // Differences are of the same input: the mean of the differences is the difference of the means.
    let (difference, _) = reports[3].against(&reports[1]);
    assert!((difference - (reports[3].worth - reports[1].worth)).abs() < 1e-12 && difference != 0.0);
    let error = measure(&methods, index.pool(), &read("sentiment"), 3, &mut kept, &Silent).unwrap_err().to_string();
    assert!(error.contains("of \"sentiment\" or of its data set"), "{error}");
    // A table of clusters that calls the same data set otherwise does not open the door.
    let mut renamed = read("sentiment");
    renamed.iter_mut().for_each(|d| d.cluster = "opinions".into());
    let error = measure(&methods, index.pool(), &renamed, 3, &mut kept, &Silent).unwrap_err().to_string();
    assert!(error.contains("data set \"imdb\""), "{error}");
}

#[test]
fn lessons_rank_by_worth_and_a_second_run_asks_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let spec = PlanSpec { inputs: 24, candidates: 6, elsewhere: 0, share: 3, seed: 1 };
    let (lessons, report) = lessons_of(&index, &spec);
    assert_eq!((report.pairs, report.asked, report.inputs), (144, 144, 24));
    assert!(lessons.len() > 10 && lessons.iter().all(|l| l.ranked.is_sorted_by(|a, b| a.1 >= b.1)));
    // The model prefers what it has just seen: the best candidate has the input's answer, if any has.
    let of = |number: u32| &index.pool().demonstrations[number as usize];
    let has = |lesson: &Lesson, number: u32| of(number).answer == of(lesson.input).answer;
    let best = |lesson: &&Lesson| has(lesson, lesson.ranked[0].0);
    assert!(lessons.iter().all(|l| best(&l) == l.ranked.iter().any(|(number, _)| has(l, *number))));
    assert!(lessons.iter().filter(best).count() > 10);
    let (again, report) = lessons_of(&index, &spec);
    assert_eq!((again, report.asked), (lessons.clone(), 0));
    let path = index.dir().join("lessons.jsonl");
    let (pool, size) = (index.note().pool.as_str(), index.pool().demonstrations.len());
    write_lessons(&path, pool, &lessons).unwrap();
    assert_eq!(read_lessons(&path, pool, size).unwrap(), lessons);
    let error = read_lessons(&path, "another", size).unwrap_err().to_string();
    assert!(error.contains("remove it and score the pool again"), "{error}");
    for (line, message) in [
        ("{\"input\": 9999, \"ranked\": [[1, 0.5], [2, 0.25]]}", "demonstration 9999 is beyond"),
        ("{\"input\": 1, \"ranked\": [[1, 0.5]]}", "fewer than two"),
        ("{\"input\": 1, \"ranked\": [[1, 1.5], [2, 0.25]]}", "not between 0 and 1"),
    ] {
        std::fs::write(&path, format!("{{\"pool\": \"{pool}\"}}\n{line}\n")).unwrap();
        let error = read_lessons(&path, pool, size).unwrap_err().to_string();
        assert!(error.contains(message) && error.contains("line 2"), "{error}");
    }
}

#[test]
fn every_task_is_trained_on_where_there_are_enough_blocks() {
    let demonstration = |task: usize, example: usize| Demonstration {
        template: format!("task{task}_a"),
        task: format!("task{task:02}"),
        cluster: "any".into(),
        example: example as u32,
        options: Vec::new(),
        input: format!("input {example} of {task}"),
        answer: "yes".into(),
    };
    let demonstrations = (0..30).flat_map(|task| (0..20).map(move |example| (task, example)));
    let demonstrations = demonstrations.map(|(task, example)| demonstration(task, example)).collect();
    let pool = Pool { demonstrations, origin: Origin::default() };
    let tasks_of = |inputs, share, seed| {
        let made = plan(&pool, &PlanSpec { inputs, candidates: 4, elsewhere: 0, share, seed }).unwrap();
        assert_eq!(made.inputs(), inputs);
        let tasks = made.blocks.iter().map(|block| pool.demonstrations[block[0].input as usize].task.clone());
        (tasks.collect::<std::collections::BTreeSet<_>>(), made.blocks.len())
    };
    for (inputs, share) in [(60, 6), (30, 6), (120, 3), (7, 6)] {
        let (tasks, blocks) = tasks_of(inputs, share, 1);
        assert_eq!(tasks.len(), blocks.min(30), "{inputs} inputs, {share} share");
    }
    assert_ne!(tasks_of(7, 6, 1).0, tasks_of(7, 6, 2).0, "the seed decides which, not the name");
}

#[test]
fn retrieval_from_many_lists_misses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let demonstrations: Vec<Demonstration> = (0..700)
        .map(|i| Demonstration {
            template: "imdb_a".into(),
            task: "imdb".into(),
            cluster: "sentiment".into(),
            example: i,
            options: Vec::new(),
            input: (0..5).map(|j| WORDS[((i / 6u32.pow(j)) % 6) as usize]).collect::<Vec<_>>().join(" "),
            answer: WORDS[(i % 5) as usize].into(),
        })
        .collect();
    let pool = Pool { demonstrations, origin: Origin::default() };
    let encoder = dir.path().join("encoder");
    std::fs::create_dir_all(&encoder).unwrap();
    write_static(&encoder);
    PromptIndex::create(&dir.path().join("pool"), &pool, &PoolSpec::default(), (&encoder, None), &Silent).unwrap();
    let index = PromptIndex::open(&dir.path().join("pool"), "untuned", None).unwrap();
    let vectors: Vec<Vec<f32>> =
        pool.demonstrations.iter().map(|d| index.encoder().encode_one(&d.text()).unwrap()).collect();
    for input in ["red", "blue hat", "shoe a", "shoes shoes red", "hat a blue shoe red"] {
        let query = index.encoder().encode_one(input).unwrap();
        let mut scores: Vec<f32> = vectors.iter().map(|v| v.iter().zip(&query).map(|(a, b)| a * b).sum()).collect();
        scores.sort_by(|a, b| b.total_cmp(a));
        let hits = index.retrieve(input, 50).unwrap();
        assert_eq!(hits.len(), 50);
        for (hit, expected) in hits.iter().zip(&scores) {
            assert!((hit.score - expected).abs() < 1e-5, "{input}: {} {expected}", hit.score);
        }
    }
    let late = std::time::Instant::now();
    assert!(index.retrieve_until("red", 3, late + std::time::Duration::from_secs(600)).unwrap().is_some());
}

/// Says something else of every prompt.
struct Moody;

impl Scorer for Moody {
    fn name(&self) -> &str {
        "moody"
    }

    fn score(&mut self, prompt: &str, completions: &[String]) -> Result<Vec<Likelihood>> {
        let of = |completion: &String| {
            let bytes = prompt.bytes().chain(completion.bytes());
            let mixed = bytes.fold(7u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            Likelihood { loglik: -1.0 - (mixed >> 50) as f64 / 4096.0, tokens: 1 }
        };
        Ok(completions.iter().map(of).collect())
    }
}

/// A table of the made pool's paraphrases.
fn made_table(index: &PromptIndex, inputs: usize, candidates: usize) -> Table {
    let held = PoolSpec { only: ["paraphrase".to_string()].into(), ..PoolSpec::default() };
    let source = index.dir().parent().unwrap().join("source.tsv");
    let held = Pool::from_tsv(&source, &Clusters::default_table(), &held).unwrap().demonstrations;
    let inputs = draw_inputs(&held, index.pool(), 0..inputs, 1);
    let candidates = draw_candidates(index.pool(), candidates, 1);
    let mut ledger = Ledger::open(&index.dir().join("scores.jsonl")).unwrap();
    let mut model = Moody;
    Table::score(index.pool(), inputs, candidates, &mut KeptScorer::new(&mut model, &mut ledger), &Silent).unwrap()
}

#[test]
fn a_table_judges_all_ways_to_choose_by_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let table = made_table(&index, 12, 6);
    assert_eq!((table.inputs().len(), table.candidates().len()), (12, 6));
    let lexical = Lexical::new(index.pool().demonstrations.iter().map(Demonstration::text));
    let choosers = [Chooser::Lexical(&lexical), Chooser::Indexes(vec![&index]), Chooser::Indexes(vec![&index, &index])];
    let reports = table.judge(&choosers).unwrap();
    let names: Vec<&str> = reports.iter().map(|report| report.name.as_str()).collect();
    assert_eq!(names, ["alone", "random", "lexical", "untuned", "untuned+untuned", "oracle"]);
    assert!(reports[1].gain.abs() < 1e-12 && (reports[5].of_oracle - 1.0).abs() < 1e-12);
    assert!((reports[3].gain - reports[4].gain).abs() < 1e-12, "an average of equals");
    for at in 0..12 {
        // By hand: the first of the candidates in the order of the index, less the mean of the row.
        let row = table.row(at);
        let mean = row.iter().sum::<f64>() / 6.0;
        let best = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!((reports[5].gains[at] - (best - mean)).abs() < 1e-12 && best > mean);
        let hits = index.retrieve_exactly(&table.inputs()[at].input, 999).unwrap();
        let place = hits.iter().find_map(|hit| table.candidates().iter().position(|&c| c == hit.number)).unwrap();
        assert!((reports[3].gains[at] - (row[place] - mean)).abs() < 1e-12);
    }
}

#[test]
fn inputs_of_a_table_are_examples_that_the_pool_has_not() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let all = &index.pool().demonstrations;
    assert!(draw_inputs(all, index.pool(), 0..9, 1).is_empty());
    // Two wordings of each of 20 examples: one of each is drawn.
    let half = Pool { demonstrations: all.iter().filter(|d| d.example < 20).cloned().collect(), ..Pool::default() };
    let drawn = draw_inputs(all, &half, 0..999, 1);
    assert!(drawn.iter().all(|d| d.example >= 20) && drawn.len() == 40);
    let (first, rest) = (draw_inputs(all, &half, 0..15, 1), draw_inputs(all, &half, 15..40, 1));
    assert!(first.len() == 15 && rest.len() == 25 && first.iter().all(|d| drawn.contains(d) && !rest.contains(d)));
    // Demonstrations come from all tasks in turn.
    let tasks = draw_candidates(index.pool(), 6, 1);
    assert_eq!(tasks.iter().filter(|&&number| all[number as usize].task == "imdb").count(), 3);
    let mut ledger = Ledger::open(&index.dir().join("scores.jsonl")).unwrap();
    let mut model = Words::default();
    let mut kept = KeptScorer::new(&mut model, &mut ledger);
    let error = Table::score(index.pool(), all[..1].to_vec(), vec![1, 2], &mut kept, &Silent).unwrap_err().to_string();
    assert!(error.contains("is in the pool"), "{error}");
    let error = Table::score(&half, drawn, vec![1, 999], &mut kept, &Silent).unwrap_err().to_string();
    assert!(error.contains("demonstration 999 is beyond the 60"), "{error}");
}

/// Mean worth of the candidate that an index puts first, over lessons.
fn worth_of_first(index: &PromptIndex, lessons: &[Lesson]) -> f64 {
    let of = |lesson: &Lesson| {
        let input = &index.pool().demonstrations[lesson.input as usize].input;
        let hits = index.retrieve_exactly(input, usize::MAX).unwrap();
        let worth = |number: u32| lesson.ranked.iter().find(|(candidate, _)| *candidate == number).map(|c| c.1);
        hits.iter().find_map(|hit| worth(hit.number)).unwrap()
    };
    lessons.iter().map(of).sum::<f64>() / lessons.len() as f64
}

/// Four words in turn: that of a demonstration of [`four_words`].
fn word(number: u32) -> usize {
    number as usize % 4
}

/// A pool of four tasks of 40, whose inputs are one of four words and a number; lessons with two candidates of each word, which are worth a
/// lot where `helps` says so of the words of input and demonstration. `step` lies between the candidates: 1 stays in the task, 41 goes round
/// all of them.
fn four_words(dir: &std::path::Path, step: u32, helps: fn(usize, usize) -> bool) -> (PromptIndex, Vec<Lesson>) {
    let demonstration = |number: u32| Demonstration {
        template: format!("task{}_a", number / 40),
        task: format!("task{}", number / 40),
        cluster: "any".into(),
        example: number % 40,
        options: Vec::new(),
        input: format!("{} {number}", WORDS[word(number)]),
        answer: "ok".into(),
    };
    let pool = Pool { demonstrations: (0..160).map(demonstration).collect(), origin: Origin::default() };
    let encoder = dir.join("encoder");
    std::fs::create_dir_all(&encoder).unwrap();
    write_static(&encoder);
    PromptIndex::create(&dir.join("pool"), &pool, &PoolSpec::default(), (&encoder, None), &Silent).unwrap();
    let lesson = |input: u32| {
        let of_task = |number: u32| if step == 1 { input / 40 * 40 + number % 40 } else { number % 160 };
        let candidates = (1..9).map(|place| of_task(input + place * step));
        let worth = |number: u32| if helps(word(input), word(number)) { 0.9 } else { 0.1 };
        let mut ranked: Vec<(u32, f64)> = candidates.map(|number| (number, worth(number))).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Lesson { input, ranked }
    };
    (PromptIndex::open(&dir.join("pool"), "untuned", None).unwrap(), (0..160).map(lesson).collect())
}

#[test]
fn tuned_heads_prefer_what_helped_and_a_seed_decides() {
    let dir = tempfile::tempdir().unwrap();
    let (index, lessons) = four_words(dir.path(), 1, |input, number| number == input ^ 1);
    // The last task is in no training.
    let (lessons, held) = lessons.split_at(120);
    let mut spec = TuneSpec::new("tuned", 1);
    (spec.training.rate, spec.training.decay, spec.training.batch) = (3e-2, 0.0, 16);
    (spec.training.epochs, spec.training.patience) = (60, 60);
    let report = tune(&index, lessons, &spec, &Silent).unwrap();
    assert_eq!((report.train, report.valid), (80, 40));
    let tuned = PromptIndex::open(index.dir(), "tuned", None).unwrap();
    let found = |index: &PromptIndex| -> Vec<(u32, u32)> {
        index.retrieve("red shoe ?", 9).unwrap().iter().map(|hit| (hit.number, hit.score.to_bits())).collect()
    };
    let (before, after) = (worth_of_first(&index, held), worth_of_first(&tuned, held));
    assert!(after > before + 0.3, "{before} {after}: {:?}", report.curve);
    tune(&index, lessons, &TuneSpec { name: "again".into(), ..spec.clone() }, &Silent).unwrap();
    assert_eq!(found(&PromptIndex::open(index.dir(), "again", None).unwrap()), found(&tuned));
    for (name, message) in [("untuned", "without heads"), ("../x", "letters, digits"), ("", "letters, digits")] {
        let error =
            tune(&index, lessons, &TuneSpec { name: name.into(), ..spec.clone() }, &Silent).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert!(tune(&index, &lessons[..1], &spec, &Silent).unwrap_err().to_string().contains("score more inputs"));
}

#[test]
fn what_serves_every_task_is_learned_from_candidates_of_other_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let (index, lessons) = four_words(dir.path(), 41, |_, number| number == 0);
    let (lessons, held) = lessons.split_at(120);
    let spec = TuneSpec::unseen("tuned", 1);
    tune(&index, lessons, &spec, &Silent).unwrap();
    let tuned = PromptIndex::open(index.dir(), "tuned", None).unwrap();
    let (before, after) = (worth_of_first(&index, held), worth_of_first(&tuned, held));
    assert!(before < 0.5 && after > 0.85, "{before} {after}");
    let own_task: Vec<Lesson> = four_words(&dir.path().join("own"), 1, |_, number| number == 0).1;
    let error = tune(&index, &own_task, &spec, &Silent).unwrap_err().to_string();
    assert!(error.contains("--elsewhere"), "{error}");
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
    let error = again.unwrap_err().to_string();
    assert!(error.contains(" already; empty it or choose another folder"), "{error}");
    std::fs::write(index.dir().join("prompts.json"), "{}").unwrap();
    assert!(PromptIndex::open(index.dir(), "untuned", None).unwrap_err().to_string().contains("index the pool again"));
}

#[test]
fn heads_tuned_on_another_pool_and_what_is_left_of_it_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let index = made_pool(dir.path());
    let (lessons, _) = lessons_of(&index, &PlanSpec { inputs: 60, candidates: 8, elsewhere: 0, share: 3, seed: 1 });
    assert!(lessons.len() > 30);
    tune(&index, &lessons, &TuneSpec::new("tuned", 1), &Silent).unwrap();
    let note = index.dir().join("tuned.json");
    let text = std::fs::read_to_string(&note).unwrap();
    std::fs::write(&note, text.replace(&index.note().pool, "0123")).unwrap();
    let error = PromptIndex::open(index.dir(), "tuned", None).unwrap_err().to_string();
    assert!(error.contains("tune it again"), "{error}");
    std::fs::write(&note, text).unwrap();
    PromptIndex::open(index.dir(), "tuned", None).unwrap();
    // A folder that holds only what was scored for a pool that is gone.
    let left = dir.path().join("left");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("lessons.jsonl"), "").unwrap();
    let again =
        PromptIndex::create(&left, index.pool(), &PoolSpec::default(), (&dir.path().join("encoder"), None), &Silent);
    assert!(again.unwrap_err().to_string().contains("lessons.jsonl"));
}
