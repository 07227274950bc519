//! Two kinds of query over one index, each with a small adapter (MTL-LoRA) of the query encoder; documents stay as they are.
//!
//! The same words of a title may ask for that product, or for others of its maker, whose name they leave out: a request says which by
//! its task. `cargo run --release --example adapters`

use std::collections::BTreeMap;
use std::path::Path;

use bigrain::adapters::{QueryTask, QueryTraining, recall_at_ten, train_query_adapters};
use bigrain::encoder::Encoder;
use bigrain::error::Result;
use bigrain::train::{Example, Silent};
use ndarray::Array2;

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
    text.lines().skip(1).filter_map(product).collect()
}

/// Three words of a title, from its second one on, the first being the maker: what somebody might remember.
fn words(title: &str) -> String {
    title.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" ")
}

/// For each product the others of its supplier, beginning with the next one.
fn of_one_supplier(products: &[Product]) -> Vec<Vec<u32>> {
    let mut groups: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
    (0u32..).zip(products).for_each(|(number, p)| groups.entry(&p.supplier).or_default().push(number));
    let mut relevant = vec![Vec::new(); products.len()];
    for group in groups.values() {
        for (place, &query) in group.iter().enumerate() {
            relevant[query as usize] = group[place + 1..].iter().chain(&group[..place]).copied().collect();
        }
    }
    relevant
}

/// Pairs of the queries `part` of every five, at most three a query.
fn pairs(relevant: &[Vec<u32>], part: impl Fn(u32) -> bool) -> Vec<Example> {
    let queries = (0u32..).zip(relevant).filter(|(query, _)| part(query % 5));
    queries.flat_map(|(query, r)| r.iter().take(3).map(move |&document| Example { query, document })).collect()
}

fn main() -> Result<()> {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let products = products(&testdata.join("products/products.tsv"));
    let encoder = Encoder::open(&testdata.join("encoder"))?;
    let documents = encoder.encode(&products.iter().map(|p| p.title.as_str()).collect::<Vec<_>>())?;

    let queries = encoder.encode(&products.iter().map(|p| words(&p.title)).collect::<Vec<_>>())?;
    let itself: Vec<Vec<u32>> = (0..products.len() as u32).map(|product| vec![product]).collect();
    let tasks = [("product", itself), ("maker", of_one_supplier(&products))];

    // Three of five queries are learned from, one chooses the best epoch, one is held out.
    let given = |(name, relevant): &(&str, Vec<Vec<u32>>)| QueryTask {
        name: name.to_string(),
        queries: queries.clone(),
        train: pairs(relevant, |fifth| fifth < 3),
        valid: pairs(relevant, |fifth| fifth == 3),
    };
    let given: Vec<QueryTask> = tasks.iter().map(given).collect();
    let (adapters, epochs) = train_query_adapters(documents.view(), &given, &QueryTraining::default(), &Silent)?;
    let trained = adapters.adapter().trainable();
    println!("{} products, {} epochs, {trained} trained values", products.len(), epochs.len() - 1);
    println!("recall of the 10 best, held-out queries:");
    for (place, (name, relevant)) in tasks.iter().enumerate() {
        let held_out = |query: usize| if query % 5 == 4 { relevant[query].clone() } else { Vec::new() };
        let relevant: Vec<Vec<u32>> = (0..products.len()).map(held_out).collect();
        let recall = |queries: &Array2<f32>| recall_at_ten(queries.view(), documents.view(), &relevant);
        let mapped = adapters.apply(queries.view(), &vec![place; products.len()])?;
        println!("  {name:<8} encoder as it is {:.3}, with its adapter {:.3}", recall(&queries)?, recall(&mapped)?);
    }
    Ok(())
}
