//! A base whose quantizer has heads: what is stored, coded and asked for are three different vectors.

use super::*;
use crate::heads::Heads;
use crate::heads::tests::random_head;
use crate::quantizer::Quantizer;
use crate::vfs::RealVfs;

/// Heads map one vector, and blocks of them, with other roundings.
const BOUND: f32 = 1e-5;

/// A quantizer with heads over the codes of a plain build.
fn with_heads(metric: Metric) -> Quantizer {
    let (vfs, model) = (MemoryVfs::new(), documents(60, 1));
    build(&vfs, &model, |spec| spec.metric = metric);
    let plain = open_base(&vfs, &version(0)).unwrap().index().quantizer().clone();
    let heads = Heads {
        code_query: Some(random_head(DIM, None, DIM, 1)),
        code_document: Some(random_head(DIM, Some(4), DIM, 2)),
        dense_query: Some(random_head(DIM, None, 4, 3)),
        dense_document: Some(random_head(DIM, Some(5), 4, 4)),
    };
    plain.with_heads(heads).unwrap()
}

#[test]
fn documents_pass_the_heads_of_the_base() {
    let quantizer = with_heads(Metric::Ip);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quantizer.bg");
    quantizer.write(&RealVfs, &path, [7; 16]).unwrap();
    let (vfs, live, mut model) = fresh(60, |spec| (spec.metric, spec.quantizer) = (Metric::Ip, Some(path)));
    check_within(&live, &model, BOUND, "as built");
    let mut rng = Rng::new(6);
    let changes: Vec<Change> = (0..40).map(|n| Change::Upsert(document(n * 3 + 1, &mut rng))).collect();
    changes.iter().for_each(|change| apply_to(&mut model, change));
    live.apply(changes).unwrap();
    check_within(&live, &model, BOUND, "in the delta");
    live.compact(live.snapshot().base(), &version(1), &Silent).unwrap();
    let compacted = open_base(&vfs, &version(1)).unwrap();
    compacted.index().check_on(&vfs, &Silent).unwrap();
    // The same documents, built from files with the same quantizer: the same codes in the same lists, but for roundings.
    let other = MemoryVfs::new();
    quantizer.write(&RealVfs, &folder.path().join("again.bg"), [7; 16]).unwrap();
    let again = folder.path().join("again.bg");
    build(&other, &model, |spec| (spec.metric, spec.quantizer) = (Metric::Ip, Some(again)));
    let built = open_base(&other, &version(0)).unwrap();
    let codes = |base: &Searcher| {
        let (index, mut found) = (base.index(), Vec::new());
        for (row, key) in (0..).zip(index.keys_of_rows().unwrap()) {
            let list = index.codes().list(index.codes().list_of(row));
            let shape = index.codes().shape().code;
            let mut code = vec![0; shape.bytes];
            crate::simd::unpack_row(
                shape.bits,
                shape.bytes,
                list.codes,
                list.rows,
                (row - list.first_row) as usize,
                &mut code,
            );
            found.push((key, index.codes().list_of(row), code));
        }
        found.sort();
        found
    };
    let (found, due) = (codes(&compacted), codes(&built));
    let other = found.iter().zip(&due).filter(|(a, b)| a != b).count();
    assert!(found.len() == due.len() && other <= 2, "{other} of {} codes differ", due.len());
    live.switch(compacted).unwrap();
    check_within(&live, &model, BOUND, "compacted");
}
