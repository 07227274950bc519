//! `train-encoder`: from pairs of texts, or from a larger encoder's vectors, to a static encoder and the codes of its vectors.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use std::path::PathBuf;
use std::process::ExitCode;

use bigrain::encoder::TableElement;
use bigrain::error::{Error, Result};
use bigrain::learn::{Quality, TextReport, TextSpec, learn_text};
use bigrain::quantizer::CodeShape;
use bigrain::simd::CodeBits;
use bigrain::train::{CodeTraining, Distillation, Method, Sampling, TextTraining};
use bigrain::types::Metric;
use clap::Parser;
use index_tools::progress::Progress;
use index_tools::shell::{Failure, finish};
use index_tools::size::Size;
use index_tools::table::{columns, duration, grouped, pairs};
use index_tools::{out, outln};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Train a static text encoder, and the codes of its vectors with it.
///
/// A static encoder is a table of token vectors, summed and mapped: tens of thousands of texts a second on a core. The result
/// is a folder that everything here takes as an encoder; with --code-bytes it also holds quantizer.bg for build-index.
///
/// It learns from
///
///     --pairs    query <tab> document, perhaps <tab> group: a group is never split between training and test
///     --texts    one a line, with --vectors (a row a line) or --teacher (an encoder's folder) saying what each should become
///
/// Stages: the encoder alone (--epochs); lists and codes (--code-bytes), by OPQ or, with --with-codes, together with the encoder;
/// with --candidates an encoder of its own for the dense grain, trained on what the codes return for every query.
///
/// Examples:
///
///     train-encoder --pairs clicks.tsv --output encoder --code-bytes 8 --with-codes --candidates 200
///     train-encoder --texts titles.txt --teacher minilm --width 96 --output encoder
#[derive(Debug, Parser)]
#[command(name = "train-encoder", version, verbatim_doc_comment)]
struct Arguments {
    /// Pairs to learn from: query, tab, document, perhaps a tab and a group
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Texts to be taught, one a line
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Their vectors, a row a line
    #[arg(long, value_name = "VECTORS")]
    vectors: Option<PathBuf>,
    /// An encoder that makes their vectors
    #[arg(long, value_name = "DIR")]
    teacher: Option<PathBuf>,
    /// A static encoder to go on from
    #[arg(long, value_name = "DIR")]
    start: Option<PathBuf>,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Take the tokenizer of this encoder, or train one
    #[arg(long, value_name = "DIR|train", default_value = "train")]
    tokenizer: String,
    /// Most tokens of a trained vocabulary
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    vocabulary: usize,
    /// Width of the table
    #[arg(long, value_name = "N", default_value_t = 128)]
    width: usize,
    /// Dimension of the vectors (a teacher's decides) [default: the width]
    #[arg(long, value_name = "N")]
    dim: Option<usize>,
    /// Elements of the written table
    #[arg(long, value_name = "f16|i8", default_value = "f16")]
    table: String,
    /// Passes of the encoder alone
    #[arg(long, value_name = "N", default_value_t = 10)]
    epochs: usize,
    /// Queries, or texts, of a batch
    #[arg(long, value_name = "N", default_value_t = 1_024)]
    batch: usize,
    /// Learning rate of the table, in units of its root mean square
    #[arg(long, value_name = "X", default_value_t = TextTraining::default().table_rate)]
    rate: f32,
    /// Learning rate of the projection, in units of its root mean square
    #[arg(long, value_name = "X", default_value_t = TextTraining::default().projection_rate)]
    projection_rate: f32,
    /// Scores are divided by it
    #[arg(long, value_name = "X", default_value_t = TextTraining::default().temperature)]
    temperature: f32,
    /// Share of the tokens of a text that a step leaves out
    #[arg(long, value_name = "X", default_value_t = TextTraining::default().dropout)]
    dropout: f32,
    /// Random documents added to a batch as negatives
    #[arg(long, value_name = "N", default_value_t = 0)]
    negatives: usize,
    /// Weight of the order of a batch's vectors beside their cosines, with a teacher
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    order: f32,
    /// Code bytes a document; without it there are no codes
    #[arg(long, value_name = "N")]
    code_bytes: Option<usize>,
    /// Bits of a code
    #[arg(long, value_name = "4|8", default_value_t = 8)]
    code_bits: u8,
    /// Inverted lists; 0 is about twice the square root of the documents
    #[arg(long, value_name = "N", default_value_t = 0)]
    lists: usize,
    /// Train codes and encoder together
    #[arg(long)]
    with_codes: bool,
    /// Passes of codes and encoder together
    #[arg(long, value_name = "N", default_value_t = 6)]
    code_epochs: usize,
    /// Weight of the full-precision scores while codes and encoder train together
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    dense_weight: f32,
    /// Train an encoder for the dense grain on so many candidates a query; 0: none
    #[arg(long, value_name = "N", default_value_t = 0)]
    candidates: usize,
    /// Where its negatives come from
    #[arg(long, value_name = "ann-in-batch|walk|snowball", default_value = "snowball")]
    sampling: String,
    /// Its passes
    #[arg(long, value_name = "N", default_value_t = 5)]
    dense_epochs: usize,
    /// Lists probed for candidates and in measuring; 0: the index's default
    #[arg(long, value_name = "N", default_value_t = 0)]
    nprobe: usize,
    /// Share of the groups of pairs that epochs are chosen by
    #[arg(long, value_name = "X", default_value_t = 0.05)]
    valid_share: f64,
    /// Share of the groups of pairs that is measured on at the end
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    test_share: f64,
    /// Seed of every random choice
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Threads; 0: all that the machine has
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn spec(self) -> Result<TextSpec> {
        let text = TextTraining {
            epochs: self.epochs,
            batch: self.batch,
            negatives: self.negatives,
            temperature: self.temperature,
            table_rate: self.rate,
            projection_rate: self.projection_rate,
            dropout: self.dropout,
            distillation: Distillation { order: self.order, ..Distillation::default() },
            seed: self.seed,
            ..TextTraining::default()
        };
        text.check()?;
        let codes = self.code_bytes.map(|bytes| self.codes(bytes)).transpose()?;
        if codes.is_none() && self.with_codes {
            return Err(Error::params("with_codes", "there are no codes; give --code-bytes"));
        }
        let sampling: Sampling = self.sampling.parse()?;
        if matches!(sampling, Sampling::Random | Sampling::Ann) {
            return Err(Error::params("sampling", format!("{sampling}; give ann-in-batch, walk or snowball")));
        }
        let dense = (self.candidates > 0).then(|| TextTraining { sampling, epochs: self.dense_epochs, ..text.clone() });
        Ok(TextSpec {
            pairs: self.pairs,
            texts: self.texts,
            vectors: self.vectors,
            teacher: self.teacher,
            start: self.start,
            tokenizer: (self.tokenizer != "train").then(|| PathBuf::from(self.tokenizer)),
            vocabulary: self.vocabulary,
            width: self.width,
            dim: self.dim.unwrap_or(self.width),
            text,
            codes,
            together: self.with_codes,
            dense_weight: self.dense_weight,
            dense,
            candidates: self.candidates,
            nprobe: self.nprobe,
            valid_share: self.valid_share,
            test_share: self.test_share,
            output: self.output,
            element: self.table.parse::<TableElement>()?,
            seed: self.seed,
        })
    }

    fn codes(&self, bytes: usize) -> Result<CodeTraining> {
        let bits = match self.code_bits {
            4 => CodeBits::Four,
            8 => CodeBits::Eight,
            other => return Err(Error::params("code_bits", format!("{other}; give 4 or 8"))),
        };
        Ok(CodeTraining {
            epochs: self.code_epochs,
            batch: self.batch,
            negatives: self.negatives,
            score_temperature: self.temperature,
            seed: self.seed,
            ..CodeTraining::new(Method::Contrastive, Metric::Cosine, self.lists, CodeShape::new(bits, bytes)?)
        })
    }
}

fn main() -> ExitCode {
    finish("train-encoder", run(Arguments::parse()))
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build_global();
    pool.map_err(|e| Failure::Usage(Error::params("threads", format!("{e}; give fewer"))))?;
    let json = arguments.json;
    let spec = arguments.spec().map_err(Failure::Usage)?;
    let progress = Progress::start("train-encoder", "steps", &spec.output)?;
    let report = learn_text(&spec, &progress)?;
    drop(progress);
    if json {
        outln!("{}", serde_json::to_string_pretty(&report).expect("plain values"));
    } else {
        out!("{}", describe(&report, &spec));
    }
    Ok(())
}

fn describe(report: &TextReport, spec: &TextSpec) -> String {
    let [short, long] = report.texts_a_second.map(|rate| grouped(rate as u64));
    let mut text = pairs(&[
        ("vocabulary", grouped(report.vocabulary as u64)),
        ("documents", grouped(report.documents as u64)),
        (
            "pairs",
            format!(
                "{} to learn from, {} to choose by, {} to measure on",
                grouped(report.train_pairs as u64),
                grouped(report.valid_pairs as u64),
                grouped(report.test_pairs as u64)
            ),
        ),
        ("speed", format!("{short} queries, {long} documents a second on one thread")),
        ("on disk", Size(report.bytes).to_string()),
        ("time", duration(report.seconds)),
        ("peak memory", Size(report.peak_memory).to_string()),
        ("written", spec.output.display().to_string()),
    ]);
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let mut rows = Vec::new();
    for stage in &report.stages {
        let best = stage.epochs.iter().max_by(|a, b| a.recall.total_cmp(&b.recall));
        let shown = |epoch: Option<&bigrain::train::Epoch>| epoch.map_or(String::new(), |e| percent(e.recall.into()));
        rows.push(vec![
            stage.stage.to_string(),
            format!("{:.1}", stage.seconds),
            stage.epochs.len().saturating_sub(1).to_string(),
            shown(stage.epochs.first()),
            shown(best),
        ]);
    }
    text += &format!("\n{}", columns(&["stage", "seconds", "epochs", "before", "after"], &rows));
    if let Some(quality) = &report.quality {
        let row = |what: &str, q: &Quality, codes: bool| {
            let of = |share: f64| if codes { percent(share) } else { String::new() };
            vec![
                what.to_string(),
                of(q.candidates[0]),
                of(q.candidates[1]),
                percent(q.verified[0]),
                percent(q.verified[1]),
                format!("{:.4}", q.mrr),
            ]
        };
        let mut rows = vec![row("exact", &quality.exact, false)];
        let before = report.before.as_ref().and_then(|quality| quality.index.as_ref());
        rows.extend(before.map(|q| row("before stage 2", q, true)));
        rows.extend(quality.index.as_ref().map(|q| row("index", q, true)));
        let header = ["held-out queries", "codes R@10", "codes R@100", "final R@10", "final R@100", "MRR@10"];
        text += &format!("\n{}", columns(&header, &rows));
    }
    text
}
