//! `load-test`: what a running server answers, and how fast, under a load of searches.

// What --help shows is indented, not fenced.
#![allow(rustdoc::invalid_rust_codeblocks)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bigrain::error::{Error, Result};
use clap::{ArgGroup, Parser};
use index_tools::load::{
    Background, Encoding, Load, Outcome, Plan, Queries, Target, body, probe, run, saturation, table, warnings,
};
use index_tools::shell::{Failure, finish};
use index_tools::{out, outln};
use serde_json::{Map, Value, json};

/// Share of what is offered that must come back good for a rate to be held.
const HELD: f64 = 0.97;

/// Put a load of searches on a running server and report what it answers.
///
/// --rates offers requests at these rates, as a Poisson process, whatever becomes
/// of earlier ones (open loop). Latency counts from the moment at which a request
/// should have been sent, so that waiting counts. --closed keeps so many
/// connections busy, each with one request at a time (closed loop): the peak, but
/// blind to stalls. --find-saturation looks for the largest rate at which 97 % of
/// the requests are answered within --good-ms, in open loops.
///
/// Answers of 429 and 503 are sheds, with latencies of their own. "good" counts
/// answers of 200 within --good-ms, a second; "failed" counts everything that is
/// neither 200 nor shed.
///
/// The client may share its machine with the server: it is one thread and one that
/// paces it, its requests are made before the start, and answers are not parsed.
/// "client" is its processor time as a share of one core; near 100 % the figures
/// are its own. Give both cores of their own (taskset) where there are enough.
///
/// Examples, the bundled products (`bigrain demo`): rates, then overload with
/// changing bids and clients that are slow on purpose:
///
///     load-test --queries testdata/products/query_vectors.npy --rates 100,200,400
///     load-test --queries queries.npy --find-saturation --limit 100
///     load-test --queries queries.npy --rates 2000 --updates 1000 --slow-clients 500 \
///         --filter '{"must": [{"attribute": "price_cents", "range": {"lt": 5000}}]}'
#[derive(Debug, Parser)]
#[command(name = "load-test", version, verbatim_doc_comment, group(ArgGroup::new("load").required(true).args(["rates", "closed", "find_saturation"])))]
struct Arguments {
    /// Where the server listens
    #[arg(long, default_value = "http://127.0.0.1:7700")]
    url: String,
    /// The collection that is asked
    #[arg(long, default_value = "default")]
    collection: String,
    /// API key, sent as a Bearer token
    #[arg(long, env = "BIGRAIN_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Query vectors, in any format that build-index reads
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// Column of a .parquet file of queries
    #[arg(long, value_name = "NAME")]
    column: Option<String>,
    /// Vectors used, from the first on, in turn
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    most_queries: usize,
    /// How vectors are sent
    #[arg(long, value_enum, default_value_t = Encoding::Base64)]
    encoding: Encoding,
    /// What all bodies share: a JSON object, or @FILE with one; the options below are put over it
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}")]
    body: String,
    /// Hits a query
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Lists to probe
    #[arg(long, value_name = "N")]
    nprobe: Option<u64>,
    /// Candidates to verify
    #[arg(long, value_name = "N")]
    candidates: Option<u64>,
    /// Recall to aim for
    #[arg(long, value_name = "R")]
    recall_target: Option<f32>,
    /// Filter of every query
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// Open loops: requests a second
    #[arg(long, value_name = "R,..", value_delimiter = ',', value_parser = rate)]
    rates: Vec<f64>,
    /// Closed loops: connections
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    closed: Vec<u16>,
    /// Open loops in search of the largest rate that is held
    #[arg(long)]
    find_saturation: bool,
    /// Where that search starts
    #[arg(long, value_name = "R", default_value = "100", value_parser = rate)]
    start_rate: f64,
    /// Seconds measured, of each load
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    duration: Duration,
    /// Seconds of the same load before them
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    warm_up: Duration,
    /// Seconds after which a request is given up
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    timeout: Duration,
    /// Milliseconds within which an answer is good
    #[arg(long, value_name = "MS", default_value_t = 100)]
    good_ms: u64,
    /// Connections that an open loop has at most; further requests wait, which counts
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Other seeds give other arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Meanwhile, change the bids of ad groups so many times a second
    #[arg(long, value_name = "R", default_value = "0", value_parser = background_rate)]
    updates: f64,
    /// Ad groups whose bids are changed: 1 to this one
    #[arg(long, value_name = "N", default_value_t = 1000)]
    update_ids: u64,
    /// Meanwhile, keep so many connections that send a byte a second
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow_clients: u16,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A rate that a client of one thread may hope to send.
fn rate(text: &str) -> std::result::Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "is not a number".to_string())?;
    if (0.1..=1e6).contains(&rate) { Ok(rate) } else { Err("is not between 0.1 and 1,000,000".to_string()) }
}

fn background_rate(text: &str) -> std::result::Result<f64, String> {
    if text == "0" { Ok(0.0) } else { rate(text) }
}

fn seconds(text: &str) -> std::result::Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "is not a number".to_string())?;
    if (0.0..=86_400.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err("is not between 0 and 86,400".to_string())
    }
}

fn main() -> ExitCode {
    finish("load-test", start(&Arguments::parse()))
}

fn start(arguments: &Arguments) -> std::result::Result<(), Failure> {
    let plan = plan(arguments).map_err(Failure::Usage)?;
    probe(&plan)?;
    let mut outcomes = Vec::new();
    let mut found = None;
    if arguments.find_saturation {
        found = saturation(arguments.start_rate, &mut |rate| {
            let outcome = measure(arguments, &plan, Load::Open(rate))?;
            // Nothing asked is nothing held.
            let holds = outcome.requests > 0 && outcome.goodput_qps >= HELD * outcome.offered_qps;
            outcomes.push(outcome);
            Ok(holds)
        })?;
    } else {
        let open = arguments.rates.iter().map(|rate| Load::Open(*rate));
        let closed = arguments.closed.iter().map(|connections| Load::Closed(usize::from(*connections)));
        for load in open.chain(closed) {
            outcomes.push(measure(arguments, &plan, load)?);
        }
    }
    print(arguments, &plan, &outcomes, found);
    Ok(())
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let given = match arguments.body.strip_prefix('@') {
        Some(path) => fs::read_to_string(path).map_err(Error::io(path))?,
        None => arguments.body.clone(),
    };
    let queries = Queries {
        path: &arguments.queries,
        column: arguments.column.as_deref(),
        most: arguments.most_queries,
        encoding: arguments.encoding,
    };
    if arguments.duration.is_zero() {
        return Err(Error::params("duration", "0 s measure nothing"));
    }
    Ok(Plan {
        target: Target::new(&arguments.url, &arguments.collection, arguments.api_key.clone())?,
        bodies: Arc::new(queries.bodies(&body(&given, options(arguments)?)?)?),
        warm_up: arguments.warm_up,
        duration: arguments.duration,
        timeout: arguments.timeout,
        good_within: Duration::from_millis(arguments.good_ms),
        connections: usize::from(arguments.connections),
        seed: arguments.seed,
        background: Background {
            updates: arguments.updates,
            update_ids: arguments.update_ids,
            slow_clients: usize::from(arguments.slow_clients),
        },
    })
}

/// The members of bodies that have options.
fn options(arguments: &Arguments) -> Result<Map<String, Value>> {
    let mut params = Map::new();
    let mut add = |name: &str, value: Option<Value>| value.map(|value| params.insert(name.to_string(), value));
    add("nprobe", arguments.nprobe.map(Value::from));
    add("candidates", arguments.candidates.map(Value::from));
    add("recall_target", arguments.recall_target.map(Value::from));
    let mut all = Map::new();
    if !params.is_empty() {
        all.insert("params".to_string(), Value::Object(params));
    }
    if let Some(limit) = arguments.limit {
        all.insert("limit".to_string(), Value::from(limit));
    }
    if let Some(text) = &arguments.filter {
        let filter =
            serde_json::from_str(text).map_err(|error| Error::params("filter", format!("{text:?}: {error}")))?;
        all.insert("filter".to_string(), filter);
    }
    Ok(all)
}

/// Runs one load, and says in a line what came of it: a sweep takes minutes.
fn measure(arguments: &Arguments, plan: &Plan, load: Load) -> Result<Outcome> {
    let outcome = run(plan, load)?;
    if !arguments.json {
        let (achieved, p99) = (outcome.achieved_qps, outcome.latency.quantile_ms(0.99));
        eprintln!(
            "{load}: {achieved:.1} answers a second, p99 {p99:.2} ms, {:.1} % shed",
            100.0 * outcome.shed_share()
        );
    }
    Ok(outcome)
}

fn print(arguments: &Arguments, plan: &Plan, outcomes: &[Outcome], found: Option<f64>) {
    if arguments.json {
        let loads: Vec<Value> = outcomes.iter().map(Outcome::json).collect();
        let settings = json!({
            "url": arguments.url, "collection": arguments.collection, "queries": plan.bodies.len(),
            "bytes_a_request": plan.bodies.iter().map(Vec::len).sum::<usize>() / plan.bodies.len(),
            "duration_s": plan.duration.as_secs_f64(), "warm_up_s": plan.warm_up.as_secs_f64(),
            "good_ms": arguments.good_ms, "connections": plan.connections, "seed": plan.seed,
        });
        outln!("{:#}", json!({"settings": settings, "loads": loads, "saturation_qps": found}));
        return;
    }
    out!("\n{}", table(outcomes));
    for warning in warnings(outcomes) {
        outln!("{warning}");
    }
    match found {
        Some(rate) => outln!(
            "\nsaturation: {rate:.0} requests a second, {:.0} % good within {} ms",
            100.0 * HELD,
            arguments.good_ms
        ),
        None if arguments.find_saturation => {
            outln!("\nno rate was held: is an answer within {} ms possible?", arguments.good_ms);
        }
        None => {}
    }
}
