//! What a build answers, over every way to build and to read.

use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

use bigrain::build::build;
use bigrain::dense::Store;
use bigrain::index::{Index, OpenOptions};
use bigrain::search::{Hit, SearchParams, Searcher};
use bigrain::simd::{CodeBits, Kernels};
use bigrain::train::Silent;
use bigrain::types::{Element, Metric};

use crate::common::{Data, OnDisk, assert_best, everything, in_memory, recall, scores, search};

const METRICS: [Metric; 3] = [Metric::Ip, Metric::Cosine, Metric::L2];

#[test]
fn searching_everything_is_exact_search_for_every_way_to_build() {
    let data = Data::clustered(400, 20, 1);
    let ways: Vec<(Metric, CodeBits, Element, bool)> = METRICS
        .into_iter()
        .flat_map(|metric| [CodeBits::Four, CodeBits::Eight].map(|bits| (metric, bits)))
        .flat_map(|(metric, bits)| [Element::F32, Element::F16, Element::I8].map(|dense| (metric, bits, dense)))
        .flat_map(|(metric, bits, dense)| [true, false].map(|opq| (metric, bits, dense, opq)))
        .collect();
    ways.par_iter().for_each(|&(metric, bits, dense, opq)| {
        let searcher = in_memory(&data, |spec| {
            (spec.metric, spec.code_bits, spec.dense, spec.opq) = (metric, bits, dense, Some(opq));
        });
        check_exactness(&data, &searcher, dense, &format!("{metric} {bits:?} {dense} opq {opq}"));
    });
}

/// Searching all lists with all candidates, and exact search, are brute force over what is stored.
fn check_exactness(data: &Data, searcher: &Searcher, dense: Element, what: &str) {
    let metric = searcher.metric();
    let stored: Vec<f32> = (0..searcher.rows()).flat_map(|key| searcher.vector(key).unwrap().unwrap()).collect();
    let largest = stored.iter().fold(0f32, |m, v| m.max(v.abs()));
    let given: Vec<f32> = data.rows.chunks(data.dim).flat_map(|row| unit(row, metric)).collect();
    let rounding = match dense {
        Element::F32 => 0.0,
        Element::F16 => largest / 1024.0,
        Element::I8 => largest / 127.0,
    };
    assert!(given.iter().zip(&stored).all(|(a, b)| (a - b).abs() <= rounding), "{what}: vectors changed");
    for query in data.queries().take(6) {
        let query = unit(query, metric);
        let truth = match metric {
            // Stored vectors are compared as they are: rounding has changed their norms a little.
            Metric::Cosine => scores(Metric::Ip, &stored, &query),
            _ => scores(metric, &stored, &query),
        };
        let bound = 1e-5 * (1.0 + truth.iter().fold(0f64, |m, s| m.max(s.abs())));
        let hits = search(searcher, &query, &everything(searcher, 10)).unwrap();
        assert_best(&hits, &truth, 10, bound, what);
        let exact = SearchParams { k: 10, exact: true, ..SearchParams::default() };
        assert_eq!(search(searcher, &query, &exact).unwrap(), hits, "{what}: exact");
    }
}

fn unit(vector: &[f32], metric: Metric) -> Vec<f32> {
    let mut vector = vector.to_vec();
    if metric == Metric::Cosine {
        bigrain::linalg::normalise(&mut vector);
    }
    vector
}

#[test]
fn few_candidates_find_nearly_all() {
    let data = Data::clustered(4_000, 32, 2);
    for metric in METRICS {
        for bits in [CodeBits::Four, CodeBits::Eight] {
            let searcher = in_memory(&data, |spec| {
                (spec.metric, spec.code_bits, spec.lists, spec.code_bytes) = (metric, bits, Some(32), Some(16));
            });
            let params = SearchParams { k: 10, nprobe: 16, candidates: 60, ..SearchParams::default() };
            let of = |query: &[f32]| {
                recall(&search(&searcher, query, &params).unwrap(), &scores(metric, &data.rows, query), 10)
            };
            let mean = data.queries().map(of).sum::<f64>() / 20.0;
            assert!(mean >= 0.95, "{metric} {bits:?}: {mean}");
            // And codes matter: with as many candidates as hits, what they rank first is found.
            let few = SearchParams { candidates: 10, ..params.clone() };
            let of = |query: &[f32]| {
                recall(&search(&searcher, query, &few).unwrap(), &scores(metric, &data.rows, query), 10)
            };
            let mean = data.queries().map(of).sum::<f64>() / 20.0;
            assert!(mean >= 0.6, "{metric} {bits:?} without spare candidates: {mean}");
        }
    }
}

#[test]
fn instruction_sets_and_stores_give_the_same_hits() {
    let data = Data::clustered(900, 24, 4);
    for metric in METRICS {
        let mut disk = OnDisk::new(&data);
        disk.spec.metric = metric;
        disk.build().unwrap();
        let params = SearchParams { k: 10, nprobe: 4, candidates: 30, ..SearchParams::default() };
        let answers = |store, direct, kernels| -> Vec<Vec<Hit>> {
            let index =
                Index::open(&disk.spec.output, &OpenOptions { store, direct, ..OpenOptions::default() }).unwrap();
            let searcher = Searcher::new(index, kernels);
            data.queries().map(|query| search(&searcher, query, &params).unwrap()).collect()
        };
        let expected = answers(Store::Mmap, false, Kernels::detect());
        for store in [Store::Pread, Store::Uring, Store::Memory] {
            assert_eq!(answers(store, false, Kernels::detect()), expected, "{metric} {store}");
            assert_eq!(answers(store, true, Kernels::detect()), expected, "{metric} {store} direct");
        }
        for kernels in Kernels::all() {
            for (hits, expected) in answers(Store::Mmap, false, kernels).iter().zip(&expected) {
                let keys = |hits: &[Hit]| hits.iter().map(|hit| hit.key).collect::<Vec<_>>();
                assert_eq!(keys(hits), keys(expected), "{metric} {}", kernels.name);
                let close = |(a, b): (&Hit, &Hit)| (a.score - b.score).abs() <= 1e-5 * (1.0 + b.score.abs());
                assert!(hits.iter().zip(expected).all(close), "{metric} {}", kernels.name);
            }
        }
    }
}

/// Every file below `dir` but the lock, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else if name != ".lock" {
            found.insert(name, std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn the_number_of_threads_and_the_memory_change_no_byte() {
    let data = Data::clustered(3_000, 24, 5);
    let build_with = |threads, memory_limit| {
        let mut disk = OnDisk::new(&data);
        disk.spec.metric = Metric::L2;
        disk.spec.memory_limit = memory_limit;
        let records = disk.folder.path().join("r.jsonl");
        let record = |row: u64| format!("{{\"n\":{},\"tags\":[\"a{}\",\"b{}\"]}}\n", row * row, row % 7, row % 300);
        std::fs::write(&records, (0..3_000).map(record).collect::<String>()).unwrap();
        disk.spec.attributes = Some(records);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| disk.build()).unwrap();
        files(&disk.spec.output)
    };
    let one = build_with(1, 1 << 30);
    assert_eq!(one.len(), 7, "manifest, quantizer, codes, keys, dense, fields, attributes: {:?}", one.keys());
    assert_eq!(build_with(3, 1 << 30), one);
    // Less memory means more buckets and smaller chunks, but trains on the same sample here.
    assert_eq!(build_with(2, 64 << 20), one);
}

#[test]
fn thousands_of_lists_are_built_and_searched_in_groups() {
    let data = Data::clustered(24_000, 12, 6);
    let build_with = |threads| {
        let mut disk = OnDisk::new(&data);
        (disk.spec.metric, disk.spec.lists) = (Metric::L2, Some(4_200));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| disk.build()).unwrap();
        disk
    };
    let disk = build_with(2);
    assert!(files(&build_with(1).spec.output) == files(&disk.spec.output), "threads change no byte");
    let searcher = disk.open().unwrap();
    assert!(searcher.index().quantizer().coarse().group_starts().len() > 50);
    searcher.index().check(&Silent).unwrap();
    let params = SearchParams { k: 10, nprobe: 200, candidates: 100, ..SearchParams::default() };
    let of =
        |query: &[f32]| recall(&search(&searcher, query, &params).unwrap(), &scores(Metric::L2, &data.rows, query), 10);
    let mean = data.queries().map(of).sum::<f64>() / 20.0;
    assert!(mean >= 0.95, "{mean}");
    // All lists are more than any group has: nothing is left out then.
    let query = data.queries().next().unwrap();
    let hits = search(&searcher, query, &everything(&searcher, 10)).unwrap();
    let exact = SearchParams { k: 10, exact: true, ..SearchParams::default() };
    assert_eq!(search(&searcher, query, &exact).unwrap(), hits);
}

#[test]
fn keys_and_attributes_come_back() {
    let data = Data::clustered(300, 12, 6);
    let mut disk = OnDisk::new(&data);
    let key = |row: u64| row * 7919 + 5;
    let (keys, records) = (disk.folder.path().join("keys.txt"), disk.folder.path().join("records.jsonl"));
    std::fs::write(&keys, (0..300).map(|row| format!("{}\n", key(row))).collect::<String>()).unwrap();
    let record = |row: u64| format!("{{\"title\":\"item {row}\",\"price\":{row}.50}}");
    std::fs::write(&records, (0..300).map(|row| record(row) + "\n").collect::<String>()).unwrap();
    (disk.spec.keys, disk.spec.attributes) = (Some(keys), Some(records));
    disk.build().unwrap();
    let searcher = disk.open().unwrap();
    for row in 0..300 {
        let found = searcher.index().row(key(row)).unwrap().expect("every key is there");
        assert_eq!(searcher.fields(found).unwrap().unwrap(), record(row));
        let vector = searcher.vector(key(row)).unwrap().unwrap();
        let hits = search(&searcher, &vector, &everything(&searcher, 1)).unwrap();
        assert_eq!((hits[0].key, hits[0].row), (key(row), found));
    }
    assert_eq!(searcher.index().row(4).unwrap(), None);
    assert_eq!(searcher.vector(4).unwrap(), None);
    searcher.index().check(&Silent).unwrap();
}

/// Records in every form make the same columns, in the row order of the index.
#[test]
fn attributes_are_filtered_by_whatever_file_they_come_from() {
    use bigrain::attributes::{AttributeType, Value, parse_declared};
    let data = Data::clustered(500, 12, 6);
    let mut disk = OnDisk::new(&data);
    let brand = |row: usize| ["Acme", "Böhm, \"B\"", "2001"][row % 3];
    let long = "l".repeat(70);
    let json =
        |row: usize| serde_json::json!({"brand": brand(row), "price": row, "on": row.is_multiple_of(4), "text": long});
    let cell = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let jsonl: String = (0..500).map(|row| json(row).to_string() + "\n").collect();
    let line = |row: usize, brand: &str, by: char| format!("{brand}{by}{row}{by}{}{by}{long}\n", row.is_multiple_of(4));
    let tsv = "brand\tprice\ton\ttext\n".to_string() + &(0..500).map(|r| line(r, brand(r), '\t')).collect::<String>();
    let csv =
        "brand,price,on,text\n".to_string() + &(0..500).map(|r| line(r, &cell(brand(r)), ',')).collect::<String>();
    let mut made = Vec::new();
    for (name, text) in [("r.jsonl", jsonl), ("r.tsv", tsv), ("r.csv", csv)] {
        let path = disk.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        disk.spec.attributes = Some(path);
        let report = disk.build().unwrap();
        let kinds: Vec<_> = report.attributes.iter().map(|a| (a.name.as_str(), a.kind)).collect();
        let (boolean, integer, keyword) = (AttributeType::Boolean, AttributeType::Integer, AttributeType::Keyword);
        let due = [("brand", Some(keyword)), ("on", Some(boolean)), ("price", Some(integer)), ("text", None)];
        assert_eq!(kinds, due, "{name}");
        let searcher = disk.open().unwrap();
        let columns = searcher.index().attributes().unwrap().clone();
        let filter = serde_json::json!({"must": [{"attribute": "brand", "match": "2001"}, {"attribute": "price", "range": {"lt": 100}}]});
        let predicate = columns.compile(&serde_json::from_value(filter).unwrap()).unwrap();
        let mut rows = Vec::new();
        assert!(predicate.rows(Kernels::detect(), 500, &mut rows));
        assert_eq!(rows.len(), 33);
        for row in 0..500 {
            let record: serde_json::Value = serde_json::from_str(&searcher.fields(row).unwrap().unwrap()).unwrap();
            let given = record["price"].as_u64().unwrap() as usize;
            assert_eq!(record, json(given));
            assert_eq!(columns.value("brand", row), Some(Value::Keyword(brand(given).into())));
            assert_eq!(rows.contains(&row), brand(given) == "2001" && given < 100);
        }
        assert!(searcher.index().memory_bytes() > columns.memory_bytes() as u64);
        searcher.index().check(&Silent).unwrap();
        let files = files(&disk.spec.output);
        made.push(files.into_iter().find(|(name, _)| name.ends_with("attributes.bg")).unwrap().1[4096..].to_vec());
    }
    assert!(made.windows(2).all(|pair| pair[0] == pair[1]), "the columns do not depend on the form of the records");
    disk.spec.attribute_types = parse_declared("brand:text,price:float").unwrap();
    let report = disk.build().unwrap();
    assert_eq!(report.attributes[0].reason.as_deref(), Some("declared"));
    let searcher = disk.open().unwrap();
    let columns = searcher.index().attributes().unwrap();
    assert_eq!((columns.column("brand").is_none(), columns.schema().kind("price")), (true, Some(AttributeType::Float)));
}

#[test]
fn building_over_an_index_replaces_it_and_open_readers_go_on() {
    let (old, new) = (Data::clustered(200, 8, 7), Data::clustered(300, 8, 8));
    let disk = OnDisk::new(&old);
    disk.build().unwrap();
    let before = disk.open().unwrap();
    let hits = search(&before, &old.queries[..8], &everything(&before, 5)).unwrap();
    new.write(disk.folder.path());
    build(&disk.spec, &Silent).unwrap();
    assert_eq!(search(&before, &old.queries[..8], &everything(&before, 5)).unwrap(), hits);
    let after = disk.open().unwrap();
    assert_eq!((after.rows(), before.rows()), (300, 200));
    assert_ne!(after.version(), before.version());
    let folders = std::fs::read_dir(&disk.spec.output).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(folders, 1, "the old version is gone");
    // The same build again makes the same version.
    build(&disk.spec, &Silent).unwrap();
    assert_eq!(disk.open().unwrap().version(), after.version());
}
