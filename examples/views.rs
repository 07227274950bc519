//! Documents of several vectors: each sentence and the whole text are rows of one document, which is found by its best one.
//!
//! `cargo run --release --example views`

use std::path::Path;

use bigrain::build::{BuildSpec, build};
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::encoder::{Encoder, ViewLimits, text_views};
use bigrain::error::{Error, Result};
use bigrain::index::OpenOptions;
use bigrain::search::{SearchParams, Searcher};
use bigrain::train::Silent;

const DOCUMENTS: [(&str, &str); 5] = [
    (
        "Travel kit",
        "A charger for the car comes with two USB ports. The headphones keep engine noise out. A bag holds all of it.",
    ),
    (
        "Home office set",
        "The wireless keyboard has a number pad. A webcam shows you in full HD. The laser printer prints 30 pages a minute.",
    ),
    (
        "Photo studio",
        "Two lamps stand on tripods. The camera takes interchangeable lenses. A memory card of 64 GB is in the box.",
    ),
    (
        "Kitchen bundle",
        "The coffee machine grinds its own beans. A toaster takes four slices. The kettle boils a litre in two minutes.",
    ),
    (
        "Gaming corner",
        "The monitor has a curved screen of 32 inch. The mouse has eight buttons. A graphics card with 12 GB drives it.",
    ),
];

fn main() -> Result<()> {
    let encoder = Encoder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/encoder"))?;
    let dir = std::env::temp_dir().join(format!("bigrain-views-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(Error::io(&dir))?;

    // One row a view; rows with the same key are one document.
    let (mut texts, mut keys) = (Vec::new(), String::new());
    for (key, (title, text)) in DOCUMENTS.iter().enumerate() {
        let views = text_views(title, text, ViewLimits::default())?;
        for view in views.local.into_iter().chain([views.global]) {
            texts.push((key, view));
            keys += &format!("{key}\n");
        }
    }
    let (vectors, key_file) = (dir.join("vectors.npy"), dir.join("keys.txt"));
    let mut writer = VectorWriter::create(&vectors, Scalar::F32, encoder.dim())?;
    let encoded = encoder.encode(&texts.iter().map(|(_, text)| text).collect::<Vec<_>>())?;
    writer.write(encoded.as_slice().expect("C order"))?;
    writer.finish()?;
    std::fs::write(&key_file, keys).map_err(Error::io(&key_file))?;
    build(&BuildSpec { keys: Some(key_file), views: true, ..BuildSpec::new(vectors, dir.join("index")) }, &Silent)?;

    let searcher = Searcher::open(&dir.join("index"), &OpenOptions::default())?;
    let (mut scratch, mut hits) = (searcher.scratch(), Vec::new());
    for query in ["laser printer", "headphones against noise", "camera with lenses"] {
        println!("{query}");
        let vector = encoder.encode_one(query)?;
        searcher.search(&vector, &SearchParams { k: 2, ..SearchParams::default() }, &mut scratch, &mut hits)?;
        for hit in &hits {
            let score = |row: usize| encoded.row(row).iter().zip(&vector).map(|(a, b)| a * b).sum::<f32>();
            let own = (0..texts.len()).filter(|&row| texts[row].0 as u64 == hit.key);
            let best = own.max_by(|&a, &b| score(a).total_cmp(&score(b))).expect("every document has a view");
            println!("  {:.3}  {}, by its view \"{}\"", hit.score, DOCUMENTS[texts[best].0].0, texts[best].1);
        }
    }
    std::fs::remove_dir_all(&dir).map_err(Error::io(&dir))
}
