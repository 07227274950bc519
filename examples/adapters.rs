//! Two kinds of query over one index, each with a small adapter (MTL-LoRA) of the query encoder; documents stay as they are.
//!
//! Products are looked for by three words of their title, and by the name of their supplier. `cargo run --release --example adapters`

use std::path::Path;

use bigrain::adapters::{QueryTask, QueryTraining, recall_at_ten, train_query_adapters};
use bigrain::encoder::Encoder;
use bigrain::error::Result;
use bigrain::train::{Example, Silent};
use ndarray::Array2;

/// One product in so many is looked at: an example should take seconds.
const EVERY: usize = 4;

struct Product {
    title: String,
    supplier: String,
}

fn products(path: &Path) -> Vec<Product> {
    let text = std::fs::read_to_string(path).expect("the bundled products");
    let product = |line: &str| {
        let mut cells = line.split('\t').skip(1);
        Some(Product { title: cells.next()?.to_string(), supplier: cells.next()?.to_string() })
    };
    text.lines().skip(1).step_by(EVERY).filter_map(product).collect()
}

/// Three words of a title, from its second one on: what somebody might remember.
fn words(title: &str) -> String {
    title.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" ")
}

/// The pairs of queries `part` of every five.
fn part(pairs: &[Example], part: impl Fn(u32) -> bool) -> Vec<Example> {
    pairs.iter().filter(|pair| part(pair.query % 5)).copied().collect()
}

fn main() -> Result<()> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let products = products(&testdata.join("products/products.tsv"));
    let encoder = Encoder::open(&testdata.join("encoder"))?;
    let documents = encoder.encode(&products.iter().map(|p| p.title.as_str()).collect::<Vec<_>>())?;

    let mut suppliers: Vec<&str> = products.iter().map(|p| p.supplier.as_str()).collect();
    suppliers.sort_unstable();
    suppliers.dedup();
    let of_supplier = |p: &Product| suppliers.binary_search(&p.supplier.as_str()).expect("it is one of them") as u32;
    let by_words: Vec<Example> =
        (0..products.len() as u32).map(|product| Example { query: product, document: product }).collect();
    let by_supplier: Vec<Example> =
        (0u32..).zip(&products).map(|(document, p)| Example { query: of_supplier(p), document }).collect();
    let queries = [
        ("words", encoder.encode(&products.iter().map(|p| words(&p.title)).collect::<Vec<_>>())?, by_words),
        ("supplier", encoder.encode(&suppliers)?, by_supplier),
    ];

    // Three of five queries are learned from, one chooses the best epoch, one is held out.
    let tasks: Vec<QueryTask> = queries
        .iter()
        .map(|(name, queries, pairs)| QueryTask {
            name: name.to_string(),
            queries: queries.clone(),
            train: part(pairs, |fifth| fifth < 3),
            valid: part(pairs, |fifth| fifth == 3),
        })
        .collect();
    let (adapters, epochs) = train_query_adapters(documents.view(), &tasks, &QueryTraining::default(), &Silent)?;
    println!(
        "{} products, {} epochs, {} trained values",
        products.len(),
        epochs.len() - 1,
        adapters.adapter().trainable()
    );
    println!("recall of the 10 best, held-out queries:");
    for (place, (name, queries, pairs)) in queries.iter().enumerate() {
        let mut relevant = vec![Vec::new(); queries.nrows()];
        part(pairs, |fifth| fifth == 4).iter().for_each(|pair| relevant[pair.query as usize].push(pair.document));
        let recall = |queries: &Array2<f32>| recall_at_ten(queries.view(), documents.view(), &relevant);
        let mapped = adapters.apply(queries.view(), &vec![place; queries.nrows()])?;
        println!("  {name:<9} encoder as it is {:.3}, with its adapter {:.3}", recall(queries)?, recall(&mapped)?);
    }
    Ok(())
}
