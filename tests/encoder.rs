//! The bundled text encoder: it opens, and its queries find products among vectors that another encoder made.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bigrain::dataset::{Naming, VectorFile, read_qrels};
use bigrain::encoder::Encoder;
use ndarray::{Array1, Array2};

/// Below the .573 that it was measured to have (`testdata/encoder/README.md`).
const LEAST_NDCG: f64 = 0.5;

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

/// Vectors of the products, of unit length.
fn products() -> Array2<f32> {
    let mut file = VectorFile::open(&testdata().join("products/vectors.npy"), None).unwrap();
    let mut all = vec![0.0; file.rows() as usize * file.dim()];
    file.read(0, &mut all).unwrap();
    let mut vectors = Array2::from_shape_vec((file.rows() as usize, file.dim()), all).unwrap();
    for mut row in vectors.rows_mut() {
        let length = row.dot(&row).sqrt();
        row /= length;
    }
    vectors
}

/// Second field of each line but the header.
fn second_fields(name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(testdata().join("products").join(name)).unwrap();
    text.lines().skip(1).map(|line| line.split('\t').nth(1).unwrap().to_string()).collect()
}

/// The rows of the ten best products, best first.
fn best(vectors: &Array2<f32>, query: Vec<f32>) -> Vec<usize> {
    let scores = vectors.dot(&Array1::from_vec(query));
    let mut rows: Vec<usize> = (0..scores.len()).collect();
    rows.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    rows.truncate(10);
    rows
}

#[test]
fn the_bundled_encoder_finds_products() {
    let encoder = Encoder::open(&testdata().join("encoder")).unwrap();
    let vectors = products();
    assert_eq!((encoder.kind(), encoder.dim()), ("static", vectors.ncols()));
    let titles = second_fields("products.tsv");
    for (query, expected) in
        [("laser printer", "printer"), ("hdmi cable", "hdmi"), ("noise cancelling headphones", "head")]
    {
        let found = best(&vectors, encoder.encode_one(query).unwrap());
        let right = found.iter().filter(|&&row| titles[row].to_lowercase().contains(expected)).count();
        let shown: Vec<&str> = found.iter().map(|&row| &*titles[row]).collect();
        assert!(right >= 5, "{query}: {shown:#?}");
    }
}

#[test]
fn the_bundled_encoder_ranks_as_its_readme_says() {
    let encoder = Encoder::open(&testdata().join("encoder")).unwrap();
    let (vectors, queries) = (products(), second_fields("queries.tsv"));
    let judgements =
        read_qrels(&testdata().join("products/qrels.tsv"), Naming { queries: None, documents: None }).unwrap();
    let mut grades: HashMap<u64, HashMap<usize, f64>> = HashMap::new();
    for j in judgements {
        grades.entry(j.query).or_default().insert(j.document as usize, f64::from(j.grade));
    }
    let gain = |grades: &[f64]| -> f64 { grades.iter().zip(2u32..).map(|(g, at)| g / f64::from(at).log2()).sum() };
    let (mut sum, mut count) = (0.0, 0);
    for (q, query) in (0u64..).zip(&queries) {
        let Some(judged) = grades.get(&q).filter(|judged| judged.values().any(|&g| g > 0.0)) else { continue };
        let mut ideal: Vec<f64> = judged.values().copied().collect();
        ideal.sort_by(|a, b| b.total_cmp(a));
        ideal.truncate(10);
        let found = best(&vectors, encoder.encode_one(query).unwrap());
        let found: Vec<f64> = found.iter().map(|row| judged.get(row).copied().unwrap_or(0.0)).collect();
        sum += gain(&found) / gain(&ideal);
        count += 1;
    }
    let ndcg = sum / f64::from(count);
    assert_eq!(count, 116);
    assert!(ndcg > LEAST_NDCG, "nDCG@10 {ndcg:.4}");
}
