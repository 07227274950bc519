//! `train-views`: heads for documents of several views, and what views are worth in a real index.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use index_tools::{out, outln};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use bigrain::encoder::Encoder;
use bigrain::error::{Error, Result};
use bigrain::heads::Head;
use bigrain::quantizer::CODE_BYTES;
use bigrain::train::{Silent, ViewEpoch, ViewHeads, ViewTraining, Watch, train_views};
use clap::Parser;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use index_tools::table::columns;
use index_tools::views::{
    Answers, Encode, Encoded, Entities, EntityVectors, Measured, Moved, Searched, VARIANTS, Variant, measure, moved,
    read_entities, read_mentions,
};
use serde::Serialize;

/// Train heads that find an entity by the best of its views, and measure them on groups of entities that training never saw.
///
/// Entities are a table with the columns synset, lexfile (the group), lemmas, definition, examples and hypernyms (values between
/// " | "); mentions one with left, mention, right and gold. Both come with a header line, tab-separated.
///
/// For every seed: heads are trained on whole entities (one view), on local views, and on local and global views, the latter two also with
/// a teacher; each epoch is judged by the validation groups. Then indexes of the test groups are built: with one view an entity, with local
/// views, with both (but for global views that repeat an only local one); and with one view and codes of as many bytes as those of all
/// views together. Each is asked with the same number of dense vectors read, and with that number for each view of a mean entity; lists
/// that this leaves short stay short. At last, exact scores say what a number would do that is added to the scores of global views: it is
/// chosen by the validation groups.
///
/// Example:
///
///     train-views --entities entities.tsv --mentions mentions.tsv --encoder minilm --train noun.act,noun.state \
///         --validate noun.event --test noun.artifact --work views
#[derive(Debug, Parser)]
#[command(name = "train-views", version, verbatim_doc_comment)]
struct Arguments {
    /// The table of entities
    #[arg(long, value_name = "TSV")]
    entities: PathBuf,
    /// The table of mentions
    #[arg(long, value_name = "TSV")]
    mentions: PathBuf,
    /// The folder of the text encoder
    #[arg(long, value_name = "DIR")]
    encoder: PathBuf,
    /// Texts that were encoded before, a line each: those are not encoded again
    #[arg(long, value_name = "TXT", requires = "known_vectors")]
    known_texts: Option<PathBuf>,
    /// What encode-texts made of them
    #[arg(long, value_name = "VECTORS", requires = "known_texts")]
    known_vectors: Option<PathBuf>,
    /// Groups to train on
    #[arg(long, value_delimiter = ',', required = true, value_name = "GROUP")]
    train: Vec<String>,
    /// Groups to choose the epoch by
    #[arg(long, value_delimiter = ',', required = true, value_name = "GROUP")]
    validate: Vec<String>,
    /// Groups to report figures of
    #[arg(long, value_delimiter = ',', required = true, value_name = "GROUP")]
    test: Vec<String>,
    /// A folder for indexes
    #[arg(long, value_name = "DIR")]
    work: PathBuf,
    /// Seeds of all draws: mentions, batches, codes
    #[arg(long, value_delimiter = ',', default_value = "1,2,3", value_name = "N")]
    seeds: Vec<u64>,
    /// Mentions to train on
    #[arg(long, default_value_t = 8000, value_name = "N")]
    train_mentions: usize,
    /// Mentions to choose the epoch by, and as many to report
    #[arg(long, default_value_t = 2000, value_name = "N")]
    test_mentions: usize,
    /// Passes over the mentions
    #[arg(long, default_value_t = 4, value_name = "N")]
    epochs: usize,
    /// Highest learning rate of the heads
    #[arg(long, default_value_t = 2e-4, value_name = "R")]
    rate: f32,
    /// What inner products are divided by in training
    #[arg(long, default_value_t = 0.05, value_name = "T")]
    temperature: f32,
    /// Hidden units of the heads; 0: linear
    #[arg(long, default_value_t = 0, value_name = "N")]
    hidden: usize,
    /// Hidden units of the teacher
    #[arg(long, default_value_t = 64, value_name = "N")]
    teacher: usize,
    /// Rotate residuals before they are coded
    #[arg(long)]
    opq: bool,
    /// Code bytes a view
    #[arg(long, default_value_t = 16, value_name = "N")]
    code_bytes: usize,
    /// Dense vectors read for a mention
    #[arg(long, default_value_t = 128, value_name = "N")]
    candidates: usize,
    /// Entities of an answer
    #[arg(short, default_value_t = 64, value_name = "K")]
    k: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// One index, measured.
#[derive(Clone, Debug, Serialize)]
struct Row {
    seed: u64,
    heads: &'static str,
    variant: Variant,
    /// Whether codes have as many bytes as those of all views together.
    equal_bytes: bool,
    #[serde(flatten)]
    measured: Measured,
}

/// Exact scores with those of global views moved.
#[derive(Clone, Debug, Serialize)]
struct Offset {
    seed: u64,
    heads: &'static str,
    /// By how much the mentions of the validation groups want them moved.
    chosen: Moved,
    /// Mentions of the test groups, with global views where they are, moved so, and left out.
    unmoved: Moved,
    moved: Moved,
    without: Moved,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    k: usize,
    candidates: usize,
    test_entities: usize,
    /// Entities whose global view repeats their only local one.
    repeated: usize,
    offsets: Vec<Offset>,
    training: BTreeMap<String, Vec<ViewEpoch>>,
    rows: Vec<Row>,
}

fn main() -> ExitCode {
    finish("train-views", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    check(arguments).map_err(Failure::Usage)?;
    let progress = Progress::start("train-views", "units", &arguments.work)?;
    let mut report = Report {
        k: arguments.k,
        candidates: arguments.candidates,
        test_entities: 0,
        repeated: 0,
        offsets: Vec::new(),
        training: BTreeMap::new(),
        rows: Vec::new(),
    };
    let encoder = Encoder::open(&arguments.encoder)?;
    let mut encode = Encode::new(&encoder);
    if let (Some(texts), Some(vectors)) = (&arguments.known_texts, &arguments.known_vectors) {
        encode = encode.with_known(texts, vectors)?;
    }
    let groups: [&[String]; 3] = [&arguments.train, &arguments.validate, &arguments.test];
    let entities = read_entities(&arguments.entities, &groups)?;
    let vectors = entities
        .iter()
        .map(|entities| EntityVectors::new(&encode, entities))
        .collect::<Result<Vec<EntityVectors>>>()?;
    report.test_entities = entities[2].ids.len();
    report.repeated = (0..report.test_entities).filter(|&entity| entities[2].repeats(entity)).count();
    for &seed in &arguments.seeds {
        one_seed(arguments, &encode, (&entities, &vectors), seed, &progress, &mut report)?;
    }
    drop(progress);
    match arguments.json {
        true => outln!("{}", serde_json::to_string_pretty(&report).expect("plain values")),
        false => out!("{}", table(&report)),
    }
    Ok(())
}

fn check(arguments: &Arguments) -> Result<()> {
    let Arguments { train, validate, test, .. } = arguments;
    for (a, b) in [(train, validate), (train, test), (validate, test)] {
        if let Some(group) = a.iter().find(|group| b.contains(group)) {
            return Err(Error::params("groups", format!("{group} is named twice; parts must have nothing in common")));
        }
    }
    match arguments.k == 0
        || arguments.seeds.is_empty()
        || arguments.test_mentions == 0
        || arguments.train_mentions == 0
    {
        true => Err(Error::params("k", "k, seeds and mentions must be 1 or more")),
        false => Ok(()),
    }
}

fn one_seed(
    arguments: &Arguments,
    encode: &Encode<'_>,
    (entities, vectors): (&[Entities], &[EntityVectors]),
    seed: u64,
    watch: &Progress,
    report: &mut Report,
) -> Result<()> {
    let wanted = [arguments.train_mentions, arguments.test_mentions, arguments.test_mentions];
    let sets: Vec<_> = entities.iter().zip(wanted).collect();
    let mentions = read_mentions(&arguments.mentions, &sets, seed)?;
    let parts = entities.iter().zip(vectors).zip(&mentions);
    let encoded = parts
        .map(|((entities, vectors), mentions)| Encoded::new(encode, entities, vectors, mentions))
        .collect::<Result<Vec<_>>>()?;
    let [train, valid, test] = &encoded[..] else { unreachable!("three parts") };
    let all_bytes = equal_bytes(arguments.code_bytes, test);
    if all_bytes.1 {
        watch.note(&format!("codes of equal bytes would take more than a code may: they have {}", all_bytes.0));
    }
    watch.note(&format!("seed {seed}: {} mentions of {} entities to train on", train.gold.len(), train.entities()));
    let train_heads = |variant: Variant, teacher: Option<usize>| -> Result<ViewHeads> {
        let settings = ViewTraining {
            epochs: arguments.epochs,
            rate: arguments.rate,
            temperature: arguments.temperature,
            hidden: Some(arguments.hidden).filter(|&hidden| hidden > 0),
            teacher,
            seed,
            ..ViewTraining::default()
        };
        train.with_examples(variant, |train| {
            valid.with_examples(variant, |valid| train_views(train, valid, &settings, watch))
        })
    };
    let trained = [
        ("none", None),
        ("single", Some(train_heads(Variant::Single, None)?)),
        ("local", Some(train_heads(Variant::Local, None)?)),
        ("both", Some(train_heads(Variant::Both, None)?)),
        ("local+teacher", Some(train_heads(Variant::Local, Some(arguments.teacher))?)),
        ("both+teacher", Some(train_heads(Variant::Both, Some(arguments.teacher))?)),
    ];
    let mut ask = |name: &'static str, heads: Option<&ViewHeads>, variant: Variant, code_bytes: usize| -> Result<()> {
        let Arguments { candidates, k, opq, .. } = *arguments;
        let searched = Searched { code_bytes, opq, candidates, k, seed };
        let heads = heads.map(|heads| (&heads.query, &heads.document));
        let measured = measure(&arguments.work, test, variant, heads, searched, &Silent)?;
        watch.note(&format!(
            "seed {seed}, heads {name}, {variant:?}, {code_bytes} bytes: R@1 {:.4}, R@{} {:.4}",
            measured.equal.recall_at_1, arguments.k, measured.equal.recall_at_k
        ));
        report.rows.push(Row { seed, heads: name, variant, equal_bytes: code_bytes != arguments.code_bytes, measured });
        Ok(())
    };
    for (name, heads) in &trained {
        // Heads of whole entities are for whole entities; codes of more bytes are what views compete with.
        let single = *name == "single";
        for variant in VARIANTS.into_iter().filter(|&variant| !single || variant == Variant::Single) {
            ask(name, heads.as_ref(), variant, arguments.code_bytes)?;
        }
        if single || heads.is_none() {
            ask(name, heads.as_ref(), Variant::Single, all_bytes.0)?;
        }
    }
    for (name, heads) in trained.iter().filter(|(name, _)| *name != "single") {
        let heads = heads.as_ref().map(|heads| (&heads.query, &heads.document));
        report.offsets.push(offset(name, seed, (valid, test), heads, arguments.k));
    }
    for (name, heads) in trained {
        report.training.extend(heads.map(|heads| (format!("{name}, seed {seed}"), heads.epochs)));
    }
    Ok(())
}

/// Code bytes with which one view an entity takes what all views take together, and whether there are no codes of so many.
fn equal_bytes(code_bytes: usize, test: &Encoded) -> (usize, bool) {
    let rows = test.views(Variant::Both).vectors.nrows();
    let bytes = ((code_bytes * rows) as f64 / test.entities() as f64).round() as usize;
    let most = *CODE_BYTES.end();
    (bytes.min(most), bytes > most)
}

/// What moving the scores of global views does, by as much as the mentions to choose by want.
fn offset(
    heads: &'static str,
    seed: u64,
    (valid, test): (&Encoded, &Encoded),
    trained: Option<(&Head, &Head)>,
    k: usize,
) -> Offset {
    let steps: Vec<f32> = (-15..=15).map(|step| step as f32 * 0.02).collect();
    let chosen = moved(valid, trained, &steps, k).into_iter().fold(None::<Moved>, |best, one| {
        let better = |best: &Moved| {
            let (a, b) = (one.recall_at_1, best.recall_at_1);
            a > b || a == b && one.by.abs() < best.by.abs()
        };
        if best.as_ref().is_none_or(better) { Some(one) } else { best }
    });
    let chosen = chosen.expect("there are steps");
    let [unmoved, moved, without] = moved(test, trained, &[0.0, chosen.by, f32::NEG_INFINITY], k)[..] else {
        unreachable!("three offsets")
    };
    Offset { seed, heads, chosen, unmoved, moved, without }
}

/// Means over seeds, and their spread.
fn table(report: &Report) -> String {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in &report.rows {
        let same = |group: &&mut Vec<&Row>| {
            (group[0].heads, group[0].variant, group[0].equal_bytes) == (row.heads, row.variant, row.equal_bytes)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    let line = |group: &Vec<&Row>| {
        let first = group[0];
        let spread = |of: &dyn Fn(&Measured) -> f64| {
            let n = group.len() as f64;
            let mean = group.iter().map(|row| of(&row.measured)).sum::<f64>() / n;
            let square = group.iter().map(|row| (of(&row.measured) - mean).powi(2)).sum::<f64>();
            format!("{:.2} ± {:.2}", 100.0 * mean, 100.0 * (square / (n - 1.0).max(1.0)).sqrt())
        };
        let number = |of: &dyn Fn(&Answers) -> f64| {
            let mean = |of: &dyn Fn(&Measured) -> f64| {
                group.iter().map(|row| of(&row.measured)).sum::<f64>() / group.len() as f64
            };
            format!("{:.0}, {:.0}", mean(&|m| of(&m.equal)), mean(&|m| of(&m.by_views)))
        };
        vec![
            first.heads.to_string(),
            format!("{:?}", first.variant).to_lowercase(),
            spread(&|m| m.equal.recall_at_1),
            spread(&|m| m.equal.recall_at_k),
            spread(&|m| m.by_views.recall_at_1),
            spread(&|m| m.by_views.recall_at_k),
            format!("{}", first.measured.rows),
            format!("{}", first.measured.code_bytes),
            format!("{:.1}", first.measured.code_bytes_per_entity),
            format!("{:.0}", first.measured.disk_per_entity),
            number(&|a| a.vectors_read),
            number(&|a| a.microseconds),
            number(&|a| 100.0 * a.global_where_right),
            number(&|a| 100.0 * a.global_where_wrong),
        ]
    };
    let rows: Vec<Vec<String>> = groups.iter().map(line).collect();
    let at_k = format!("R@{}", report.k);
    let (by_views_1, by_views_k) = ("R@1 by views", format!("{at_k} by views"));
    let header = [
        "heads",
        "index",
        "R@1",
        at_k.as_str(),
        by_views_1,
        by_views_k.as_str(),
        "rows",
        "bytes a row",
        "bytes an entity",
        "on disk",
        "vectors",
        "us",
        "global where right, %",
        "where wrong, %",
    ];
    columns(&header, &rows) + "\n" + &offsets(report)
}

/// What moving global views did, seed by seed.
fn offsets(report: &Report) -> String {
    let percent = |moved: &Moved| format!("{:.2} {:.2}", 100.0 * moved.recall_at_1, 100.0 * moved.recall_at_k);
    let line = |o: &Offset| {
        let by = format!("{:+.2}", o.chosen.by);
        vec![o.heads.to_string(), o.seed.to_string(), by, percent(&o.unmoved), percent(&o.moved), percent(&o.without)]
    };
    let rows: Vec<Vec<String>> = report.offsets.iter().map(line).collect();
    columns(&["heads", "seed", "global moved by", "exact, unmoved", "moved", "without global"], &rows)
}
