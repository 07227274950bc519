//! `bigrain demo`: a first answer from a clean checkout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bigrain::ads::Collection;
use bigrain::build::{BuildSpec, build};
use bigrain::error::{Error, Result};
use bigrain::search::{SearchParams, Searcher};
use bigrain::server::{KnownQueries, Service};
use bigrain::train::Watch;
use bigrain::types::{Element, Metric};
use clap::Args;
use serde_json::Value;

use super::demo_ads;
use super::search::line;
use super::serve::{log_to_stderr, serve_until_signal};
use super::table::{Line, table};
use super::{SettingsOptions, say};

/// A search by expected revenue.
const ECPM: &str = r#"{"text": "laptop", "rank": "ecpm", "min_relevance": 0.4, "diversity": {"key": "advertiser", "max": 2}, "filter": {"must": [{"attribute": "price_cents", "range": {"lt": 100000}}]}, "limit": 5, "with_fields": true}"#;
/// A patch of the control table.
const PAUSE: &str = r#"{"level": "advertiser", "id": 2, "status": "paused"}"#;

/// The query that is answered at once.
const FIRST_QUERY: &str = "bluetooth speaker";

/// Build the bundled product index, answer a query, serve it and print what to try
#[derive(Args)]
pub(super) struct Options {
    /// Where the index is built [default: bigrain-demo in the folder for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The bundled products [default: testdata/products here or in a folder above]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Stop after the first answer
    #[arg(long)]
    no_serve: bool,
    #[command(flatten)]
    settings: SettingsOptions,
}

pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let data = options.data.clone().map_or_else(bundled_products, Ok)?;
    let dir = options.dir.clone().unwrap_or_else(|| std::env::temp_dir().join("bigrain-demo"));
    let mut config = options.settings.load()?.config()?;
    config.known_queries.texts = data.join("queries.tsv");
    config.known_queries.vectors = data.join("query_vectors.npy");
    let encoder = data.with_file_name("encoder");
    if config.encoder.path.as_os_str().is_empty() && encoder.is_dir() {
        config.encoder.path = encoder;
    }
    let suppliers = build_products(&data, &dir)?;
    let searcher = Arc::new(Searcher::open(&dir, &config.index.options())?);
    let known = KnownQueries::load(&config.known_queries.texts, &config.known_queries.vectors, searcher.dim())?;
    let key = first_answer(&searcher, &known)?;
    if options.no_serve {
        return Ok(ExitCode::SUCCESS);
    }
    log_to_stderr(config.log.format);
    config.ads.state = beside(&dir, "state");
    if config.ads.state.exists() {
        std::fs::remove_dir_all(&config.ads.state).map_err(Error::io(&config.ads.state))?;
    }
    let collection = Collection::open(&dir, config.ads.options(config.index.options()))?;
    demo_ads::describe(&collection, &suppliers)?;
    let texts = known.texts().to_vec();
    serve_until_signal(Service::over(config, collection)?, |address| print_what_to_try(address, key, &texts))
}

/// A path beside the index directory, which holds nothing but the index.
fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_os_string();
    name.push(format!("-{what}"));
    dir.with_file_name(name)
}

fn bundled_products() -> Result<PathBuf> {
    let here = std::env::current_dir().map_err(Error::io("current folder"))?;
    let bundled = here.ancestors().map(|folder| folder.join("testdata/products")).find(|folder| folder.is_dir());
    bundled
        .ok_or_else(|| Error::params("data", "no testdata/products here or above; run in the checkout or give --data"))
}

/// Builds the index; the number of each supplier.
fn build_products(data: &Path, dir: &Path) -> Result<BTreeMap<String, u64>> {
    let records = beside(dir, "ads.jsonl");
    let suppliers = demo_ads::write_records(&data.join("products.tsv"), &records)?;
    let spec = BuildSpec {
        keys: Some(data.join("keys.txt")),
        attributes: Some(records),
        metric: Metric::Cosine,
        dense: Element::I8, // What the bundled vectors are.
        ..BuildSpec::new(data.join("vectors.npy"), dir)
    };
    eprintln!("building the product index in {}", dir.display());
    let report = build(&spec, &PhaseNames)?;
    eprintln!(
        "{} products, {} dimensions, {:.0} bytes each in memory and {:.0} on disk, built in {:.1} s\n",
        report.rows, report.dim, report.memory_bytes_per_row, report.disk_bytes_per_row, report.seconds
    );
    Ok(suppliers)
}

/// Names the phases of the build, which takes seconds.
struct PhaseNames;

impl Watch for PhaseNames {
    fn begin(&self, phase: &'static str, total: u64) {
        eprintln!("  {phase} ({total})");
    }

    fn advance(&self, _units: u64) {}
}

/// Answers [`FIRST_QUERY`] on stdout; the key of the best hit.
fn first_answer(searcher: &Searcher, known: &KnownQueries) -> Result<u64> {
    let vector = known.vector(FIRST_QUERY).ok_or_else(|| Error::params("data", format!("no query {FIRST_QUERY:?}")))?;
    let mut hits = Vec::new();
    let params = SearchParams { k: 5, ..SearchParams::default() };
    searcher.search(vector, &params, &mut searcher.scratch(), &mut hits)?;
    let lines = hits.iter().map(|hit| line(searcher, hit).map(with_price)).collect::<Result<Vec<_>>>()?;
    say(&format!("{FIRST_QUERY}:\n{}", table(&lines)))?;
    hits.first().map(|hit| hit.key).ok_or_else(|| Error::params("data", "the index has no products"))
}

/// Cents as a price, and without the ad group, which says nothing here.
fn with_price(mut line: Line) -> Line {
    if let Some(cents) = line.fields.remove("price_cents").and_then(|value| value.as_u64()) {
        line.fields.insert("price".into(), Value::String(format!("{}.{:02}", cents / 100, cents % 100)));
    }
    line.fields.remove("ad_group");
    line
}

fn print_what_to_try(address: &str, key: u64, texts: &[String]) -> Result<()> {
    let curl = |path: &str, body: &str| {
        format!("  curl -s http://{address}{path} -H 'content-type: application/json' \\\n    -d '{body}'\n")
    };
    let listed: Vec<String> = texts.iter().take(8).map(|text| format!("{text:?}")).collect();
    let (listed, more) = (listed.join(", "), texts.len().saturating_sub(8));
    let batch = r#"{"queries": [{"text": "laptop"}, {"text": "bluetooth speaker"}], "limit": 2}"#;
    say(&[
        format!("Serving on http://{address}. Try, in another terminal:\n\nby text, with vectors of a large encoder where it is a known query ({listed} and {more} more),\nof the bundled one where it is not:"),
        curl("/search", r#"{"text": "laptop", "limit": 3, "with_fields": true}"#),
        curl("/search", r#"{"text": "noise cancelling headphones for travel", "limit": 3, "with_fields": true}"#),
        "more like a product:".into(),
        curl("/search", &format!(r#"{{"key": {key}, "limit": 3, "with_fields": true, "stats": true}}"#)),
        "by what a thousand impressions are expected to earn, at most two of an advertiser, within a budget:".into(),
        curl("/search", ECPM),
        "pause an advertiser, and see that its ads are gone:".into(),
        format!("  curl -s -X PATCH http://{address}/v1/collections/default/control -H 'content-type: application/x-ndjson' \\\n    -d '{PAUSE}'\n"),
        "several at once:".into(),
        curl("/v1/collections/default/search/batch", batch),
        "what is served, and how it is doing:".into(),
        format!("  curl -s http://{address}/v1/collections/default\n  curl -s http://{address}/metrics\n"),
        format!("a page for all of it, and the documents of the API:\n\n  http://{address}/ui\n  http://{address}/docs\n"),
        "Ctrl-C ends it.".into(),
    ]
    .join("\n"))
}
