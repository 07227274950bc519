//! What filters cost: `cargo bench --bench filters`.
//!
//! A million made records in lists of 500 rows. For each filter: its share, and how long it takes to compile it, to make the bits
//! of all rows list by list (as a scan asks for them) and to collect the rows that pass (which passes over lists by their
//! summaries). Medians of 31 rounds.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use bigrain::attributes::{Columns, ColumnsWriter, Filter, PredicateScratch, Survey, parse_record};
use bigrain::error::Result;
use bigrain::simd::Kernels;
use bigrain::vfs::{MemoryVfs, Vfs};

const ROWS: u32 = 1_000_000;
const LIST: u32 = 500;
const ROUNDS: usize = 31;

/// Record `row`: `region` follows the lists, the others do not.
fn record(row: u32) -> Map<String, Value> {
    let draw = |salt: u32| (u64::from(row * 8 + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    let tags = [draw(4) % 200, draw(5) % 200, draw(6) % 200].map(|tag| format!("tag {tag}"));
    let record = json!({
        "category": format!("category {}", draw(0) % 40),
        "brand": format!("brand {}", draw(1) % 2_000),
        "price": f64::from(draw(2) % 100_000) / 100.0,
        "shop": draw(3) % 100_000,
        "region": row / 20_000,
        "tags": tags,
    });
    record.as_object().cloned().unwrap_or_default()
}

fn columns() -> Result<Columns> {
    let (vfs, dir, path) = (MemoryVfs::new(), Path::new("/temporary"), Path::new("/attributes.bg"));
    vfs.create_dir_all(dir)?;
    let mut survey = Survey::new(path, &BTreeMap::new(), 1 << 30);
    (0..ROWS).try_for_each(|row| survey.add(&record(row)))?;
    let layout = survey.finish()?;
    let mut writer = ColumnsWriter::create(&vfs, dir, &layout)?;
    (0..ROWS).try_for_each(|row| writer.push(&parse_record(layout.schema(), &record(row))?))?;
    writer.finish(path, [0; 16], 1 << 30)?;
    let starts: Vec<u32> = (0..=ROWS).step_by(LIST as usize).collect();
    Columns::open(&vfs, path, &[0; 16], &starts)
}

/// Median microseconds.
fn micros(mut call: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn main() -> Result<()> {
    let columns = columns()?;
    println!("{} rows, {:.1} bytes a row in memory", ROWS, columns.memory_bytes() as f64 / f64::from(ROWS));
    println!(
        "| filter | share | compile us | set | bits of all rows us | rows that pass us |\n|---|---|---|---|---|---|"
    );
    let brands: Vec<String> = (0..20).map(|i| format!("brand {}", i * 97)).collect();
    let one = |condition: Value| json!({ "must": [condition] });
    let filters = [
        ("category, 1 byte", one(json!({"attribute": "category", "match": "category 7"}))),
        ("brand, 2 bytes", one(json!({"attribute": "brand", "match": "brand 7"}))),
        ("shop below, 4 bytes", one(json!({"attribute": "shop", "range": {"lt": 10_000}}))),
        ("price between, 8 bytes", one(json!({"attribute": "price", "range": {"gte": 10, "lt": 110}}))),
        ("20 brands", one(json!({"attribute": "brand", "any": brands}))),
        ("tag", one(json!({"attribute": "tags", "match": "tag 7"}))),
        ("region, follows lists", one(json!({"attribute": "region", "match": 7}))),
        (
            "category, price and not a tag",
            json!({"must": [{"attribute": "category", "match": "category 7"}, {"attribute": "price", "range": {"lt": 500}}],
                "must_not": [{"attribute": "tags", "match": "tag 7"}]}),
        ),
    ];
    for (name, filter) in filters {
        let filter: Filter = serde_json::from_value(filter).unwrap_or_default();
        let predicate = columns.compile(&filter)?;
        let compile = micros(|| {
            let _ = black_box(columns.compile(&filter));
        });
        for kernels in Kernels::all() {
            let (mut words, mut scratch, mut rows) = (Vec::new(), PredicateScratch::default(), Vec::new());
            let bits = micros(|| {
                for first in (0..ROWS).step_by(LIST as usize) {
                    predicate.words(kernels, first, LIST as usize, &mut words, &mut scratch);
                    black_box(&words);
                }
            });
            let collected = micros(|| {
                black_box(predicate.rows(kernels, ROWS as usize, &mut rows));
            });
            let share = 100.0 * rows.len() as f64 / f64::from(ROWS);
            let set = kernels.name;
            println!("| {name} | {share:.2} % | {compile:.1} | {set} | {bits:.0} | {collected:.0} |");
        }
    }
    Ok(())
}
