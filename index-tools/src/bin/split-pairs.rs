//! `split-pairs`: pairs to train on, to tune on, to test on, without leaks between them.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use index_tools::{out, outln};
use std::path::PathBuf;
use std::process::ExitCode;

use bigrain::dataset::read_pairs;
use bigrain::dataset::split::{Components, Fractions, Side, Split};
use bigrain::vfs::RealVfs;
use clap::Parser;
use index_tools::shell::{Failure, finish};
use index_tools::table::{columns, grouped};

/// A component with a larger share of all pairs makes the fractions rough and a test of it one-sided.
const LARGE: f64 = 0.1;

/// Divide labelled pairs of queries and documents into train, valid and test parts.
///
/// Rows that belong together stay in one part: those of a pair, and those with an equal label in a file of groups (one
/// label a line, line i for row i - 1, empty for none), such as the product, the site or the source that rows are of.
/// So no document of the test was trained on, nor a near-copy of it where groups say what is one.
///
/// Writes train.pairs.tsv, valid.pairs.tsv and test.pairs.tsv. The same pairs, groups and seed give the same parts.
///
/// Example:
///
///     split-pairs --pairs pairs.tsv --document-groups sources.txt --output split
#[derive(Debug, Parser)]
#[command(name = "split-pairs", version, verbatim_doc_comment)]
struct Arguments {
    /// A pair a line: query row, tab, document row; a grade may follow, and 0 or less is no pair
    #[arg(long, value_name = "FILE")]
    pairs: PathBuf,
    /// The folder for the three parts
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Labels of the queries, one a line; may be given several times
    #[arg(long, value_name = "FILE")]
    query_groups: Vec<PathBuf>,
    /// Labels of the documents, one a line; may be given several times
    #[arg(long, value_name = "FILE")]
    document_groups: Vec<PathBuf>,
    /// Share of the pairs to choose settings by
    #[arg(long, value_name = "SHARE", default_value_t = 0.05)]
    valid: f64,
    /// Share of the pairs to report figures of
    #[arg(long, value_name = "SHARE", default_value_t = 0.15)]
    test: f64,
    /// Other seeds draw other parts
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    finish("split-pairs", run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let fractions = Fractions { valid: arguments.valid, test: arguments.test };
    fractions.check().map_err(Failure::Usage)?;
    // How many rows there are is not known here; files of groups are compared with the pairs.
    let mut components = Components::new(read_pairs(&arguments.pairs, u64::MAX, u64::MAX)?);
    for (side, files) in [(Side::Queries, &arguments.query_groups), (Side::Documents, &arguments.document_groups)] {
        for path in files {
            components.connect_groups(side, path)?;
        }
    }
    let split = components.split(fractions, arguments.seed)?;
    split.write(&RealVfs, &arguments.output)?;
    report(&split, arguments);
    Ok(())
}

fn report(split: &Split, arguments: &Arguments) {
    let share = |pairs: usize| pairs as f64 / split.pairs() as f64;
    if arguments.json {
        let mut result = serde_json::json!({
            "pairs": split.pairs(),
            "components": split.components,
            "largest_component": split.largest,
            "seed": arguments.seed,
        });
        for (part, pairs) in split.parts() {
            result[part] = pairs.len().into();
        }
        outln!("{result:#}");
    } else {
        let row = |name: &str, pairs: usize| {
            vec![name.to_string(), grouped(pairs as u64), format!("{:.2} %", 100.0 * share(pairs))]
        };
        let mut rows: Vec<_> = split.parts().iter().map(|(part, pairs)| row(part, pairs.len())).collect();
        rows.push(row("all", split.pairs()));
        rows.push(row("largest component", split.largest));
        out!("{}", columns(&["part", "pairs", "share"], &rows));
        outln!("{} components", grouped(split.components as u64));
    }
    if share(split.largest) > LARGE {
        eprintln!(
            "warning: one component has {} of {} pairs: labels that many rows share connect strangers; clear those",
            grouped(split.largest as u64),
            grouped(split.pairs() as u64)
        );
    }
}
