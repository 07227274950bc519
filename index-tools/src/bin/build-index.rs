//! `build-index`: from a file of vectors to an index directory, in bounded memory.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use index_tools::{out, outln};
use std::path::PathBuf;
use std::process::ExitCode;

use bigrain::attributes::parse_declared;
#[cfg(feature = "text")]
use bigrain::build::TextInput;
use bigrain::build::{AttributeReport, BuildReport, BuildSpec, Plan, build, plan};
use bigrain::calibrate::{calibrate_index, open_queries};
use bigrain::error::Result;
use bigrain::index::Calibration;
use clap::Parser;
use index_tools::progress::Progress;
use index_tools::recipe::Recipe;
use index_tools::shell::{Failure, finish};
use index_tools::size::Size;
use index_tools::table::{columns, duration, grouped, pairs};
use serde::Serialize;

/// Gives freed memory back to the system, which the memory limit counts on.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Build an index from a file of vectors.
///
/// The input may be several times larger than memory: it is read twice, in pieces, and sorted by list on disk. The new
/// version replaces an old one in the output directory at the very end, in one step: stopped or killed before that,
/// the old one is still there. The same input, settings and seed make the same bytes on any number of threads.
///
/// Vectors are read from .npy, .fbin, .u8bin, .i8bin, .fvecs, .bvecs, .ivecs, .parquet and IDX images (-ubyte, -ubyte.gz), and
/// from raw f32 values whose file has their dimension in its name: passages.768.memmap or .bin.
///
/// Examples:
///
///     build-index --input vectors.npy --output index
///     build-index --texts products.tsv --text-columns title,description --encoder models/minilm --output index
///     build-index --input vectors.fbin --output index --metric l2 --dense f16 --memory-limit 2GiB --dry-run
///
/// Settings are taken from flags, then the environment (BIGRAIN_BUILD_...), then the file given by --config, then
/// the defaults; config/build.toml lists them.
#[derive(Debug, Parser)]
#[command(name = "build-index", version, verbatim_doc_comment)]
struct Arguments {
    /// The vectors, one document a row
    #[arg(long, value_name = "VECTORS")]
    #[cfg_attr(feature = "text", arg(required_unless_present = "texts"))]
    #[cfg_attr(not(feature = "text"), arg(required = true))]
    input: Option<PathBuf>,
    #[cfg(feature = "text")]
    #[command(flatten)]
    from_texts: Texts,
    /// The index directory: empty, new, or an index that is to be replaced
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// One key a line, an integer from 0 to 2^64 - 1 [default: the row number]
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Rows with the same key are views of one document: it is found by its best view, and hits are documents. Rows of a document
    /// need the same record
    #[arg(long, requires = "keys")]
    views: bool,
    /// One record a row, returned with hits and filtered by: .jsonl, .tsv or .csv with a header line, or .parquet
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,
    /// Types of some attributes (keyword, integer, float, boolean, keywords for a set, text for what is only returned); the
    /// others are inferred
    #[arg(long, value_name = "NAME:TYPE,...", requires = "attributes")]
    attribute_types: Option<String>,
    /// Column of a .parquet input [default: its only list column]
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// A trained quantizer to use instead of training one on a sample; its heads are applied
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lists", "code_bits", "code_bytes", "opq"])]
    quantizer: Option<PathBuf>,
    /// Sample queries to calibrate with: search then takes a recall to aim for (--recall-target) in place of lists and candidates
    #[arg(long, value_name = "VECTORS")]
    queries: Option<PathBuf>,
    /// A file of settings, as config/build.toml
    #[arg(long, value_name = "FILE", env = "BIGRAIN_BUILD_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    recipe: Recipe,
    /// Print what would be done, in what memory, disk space and time, and stop
    #[arg(long)]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Texts in place of vectors.
#[cfg(feature = "text")]
#[derive(Debug, clap::Args)]
struct Texts {
    /// Texts to encode in place of vectors, one document a row: .txt (a text a line), .tsv, .csv, .jsonl or .parquet
    #[arg(long, value_name = "FILE", conflicts_with_all = ["input", "column"], requires = "encoder")]
    texts: Option<PathBuf>,
    /// Columns of --texts that are joined to a text [default: text]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', requires = "texts")]
    text_columns: Vec<String>,
    /// Folder of the encoder: model.safetensors and tokenizer.json of a BERT or of a static encoder
    #[arg(long, value_name = "DIR", requires = "texts")]
    encoder: Option<PathBuf>,
    /// Tokens of a text that are read at most [default: what the encoder takes]
    #[arg(long, value_name = "N", requires = "texts")]
    max_tokens: Option<usize>,
}

#[cfg(feature = "text")]
impl Texts {
    fn input(self) -> Option<TextInput> {
        let Texts { texts, text_columns: columns, encoder, max_tokens } = self;
        Some(TextInput { texts: texts?, columns, encoder: encoder?, max_tokens })
    }
}

fn main() -> ExitCode {
    finish("build-index", run(Arguments::parse()))
}

fn run(arguments: Arguments) -> Result<(), Failure> {
    // The buffers of every thread would become resident by huge pages, whatever is used of them: with many threads that alone
    // breaks the memory limit. A system without huge pages has none to do without.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let file = arguments.config.as_deref().map(Recipe::read).transpose().map_err(Failure::Usage)?;
    let recipe = arguments.recipe.or(file.unwrap_or_default());
    recipe.start_threads().map_err(Failure::Usage)?;
    let mut spec = BuildSpec {
        keys: arguments.keys,
        views: arguments.views,
        attributes: arguments.attributes,
        attribute_types: parse_declared(arguments.attribute_types.as_deref().unwrap_or_default())?,
        column: arguments.column,
        quantizer: arguments.quantizer,
        #[cfg(feature = "text")]
        texts: arguments.from_texts.input(),
        ..BuildSpec::new(arguments.input.unwrap_or_default(), arguments.output)
    };
    recipe.apply(&mut spec);
    if arguments.dry_run {
        let plan = plan(&spec)?;
        show(arguments.json, &plan, |plan| describe_plan(plan, &spec));
    } else {
        if let Some(queries) = &arguments.queries {
            // A wrong file should not be found out after a long build.
            open_queries(queries, plan(&spec)?.dim)?;
        }
        let progress = Progress::start("build-index", "rows", &spec.output)?;
        let report = build(&spec, &progress)?;
        let calibration = match &arguments.queries {
            Some(queries) => calibrate_index(&spec.output, queries, spec.seed, &progress)?,
            None => Vec::new(),
        };
        drop(progress);
        let built = Built { report: &report, calibration: &calibration };
        show(arguments.json, &built, |_| describe_report(&report, &spec) + &reliability(&calibration));
    }
    Ok(())
}

/// What was made.
#[derive(Serialize)]
struct Built<'a> {
    #[serde(flatten)]
    report: &'a BuildReport,
    calibration: &'a [Calibration],
}

/// What each recall costs, from queries that did not choose it.
fn reliability(calibration: &[Calibration]) -> String {
    let rows: Vec<Vec<String>> = calibration
        .iter()
        .flat_map(|of_k| of_k.efforts.iter().map(|effort| (of_k.k, effort)))
        .map(|(k, e)| {
            vec![
                k.to_string(),
                format!("{:.3}", e.recall),
                format!("{:.3}", e.held_out),
                format!("{:.1}", e.lists),
                format!("{:.0}", e.rows),
                format!("{:.1}", e.vectors),
            ]
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!(
            "\n{}",
            columns(
                &["calibrated for k", "recall", "on other queries", "lists", "rows scanned", "vectors read"],
                &rows
            )
        ),
    }
}

/// Prints a result for machines or for people.
fn show<T: serde::Serialize>(json: bool, result: &T, describe: impl FnOnce(&T) -> String) {
    if json {
        outln!("{}", serde_json::to_string_pretty(result).expect("plain values"));
    } else {
        out!("{}", describe(result));
    }
}

fn describe_plan(plan: &Plan, spec: &BuildSpec) -> String {
    let training = match plan.sample_rows {
        0 => "none: the quantizer is given".to_string(),
        rows => format!("lists on {} rows, codes on {}", grouped(rows), grouped(plan.code_rows)),
    };
    pairs(&[
        ("rows", format!("{} of {} dimensions", grouped(plan.rows), plan.dim)),
        ("metric", spec.metric.to_string()),
        ("lists", grouped(plan.lists as u64)),
        ("codes", codes(plan.code_bytes, plan.code_bits, plan.opq)),
        ("dense", format!("{} of {} dimensions", spec.dense, plan.dense_dim)),
        ("learned", learned(&plan.heads, plan.router)),
        ("training", training),
        ("memory to build", format!("{} of {}", Size(plan.peak_memory), Size(spec.memory_limit))),
        ("memory to serve", Size(plan.memory_bytes).to_string()),
        ("disk", format!("{}, and {} while building", Size(plan.disk_bytes), Size(plan.spill_bytes))),
        ("time", format!("about {}", duration(plan.seconds()))),
    ])
}

fn describe_report(report: &BuildReport, spec: &BuildSpec) -> String {
    let bytes = |per_row: f64| Size((per_row * report.rows as f64) as u64);
    let documents = match report.views {
        None => "one a row".to_string(),
        Some(views) => format!("{}, of {} views at most", grouped(views.parents), grouped(views.most)),
    };
    let facts = pairs(&[
        ("rows", format!("{} of {} dimensions", grouped(report.rows), report.dim)),
        ("skipped", grouped(report.skipped_rows)),
        ("documents", documents),
        ("lists", format!("{}, the largest of {} rows", grouped(report.lists as u64), grouped(report.largest_list))),
        ("codes", codes(report.code_bytes, report.code_bits, report.opq)),
        ("dense", format!("{} of {} dimensions", spec.dense, report.dense_dim)),
        ("learned", learned(&report.heads, report.router)),
        (
            "in memory",
            format!("{:.1} bytes a row, {}", report.memory_bytes_per_row, bytes(report.memory_bytes_per_row)),
        ),
        ("on disk", format!("{:.1} bytes a row, {}", report.disk_bytes_per_row, Size(report.disk_bytes))),
        ("time", duration(report.seconds)),
        ("peak memory", format!("{} of {}", Size(report.peak_memory), Size(spec.memory_limit))),
    ]);
    let phases: Vec<Vec<String>> = report
        .phases
        .iter()
        .map(|phase| {
            let rate = phase.rows as f64 / phase.seconds.max(1e-9);
            vec![phase.name.to_string(), grouped(phase.rows), format!("{:.2}", phase.seconds), grouped(rate as u64)]
        })
        .collect();
    let attributes = describe_attributes(&report.attributes);
    format!("{facts}\n{attributes}{}", columns(&["phase", "rows", "seconds", "rows/s"], &phases))
}

/// What can be filtered by, and what cannot and why.
fn describe_attributes(attributes: &[AttributeReport]) -> String {
    let rows: Vec<Vec<String>> = attributes
        .iter()
        .map(|attribute| {
            let number = |number: Option<usize>| number.map_or(String::new(), |number| grouped(number as u64));
            let note = attribute.reason.as_ref().map_or(String::new(), |reason| format!("not filterable: {reason}"));
            vec![
                attribute.name.clone(),
                attribute.kind.map_or("text".into(), |kind| kind.to_string()),
                number(attribute.bytes_per_row),
                number(attribute.distinct),
                note,
            ]
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!("{}\n", columns(&["attribute", "type", "bytes/row", "distinct", ""], &rows)),
    }
}

fn codes(bytes: usize, bits: u8, opq: bool) -> String {
    let rotation = if opq { "rotated (OPQ)" } else { "not rotated" };
    format!("{bytes} bytes a row, {bits} bits a subspace, {rotation}")
}

/// What the quantizer brings beside lists and codes. Document heads are applied by the build, query heads by search.
fn learned(heads: &[String], router: bool) -> String {
    let router = if router { "a router" } else { "no router" };
    match heads {
        [] => format!("no heads, {router}"),
        heads => format!("heads {}; {router}", heads.join(", ")),
    }
}
