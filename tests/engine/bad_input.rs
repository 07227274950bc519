//! Bad input and odd but legal input: a clear error that names the value, or the right answer.

use std::fs;
use std::path::Path;

use bigrain::build::{OnBad, build};
use bigrain::error::Error;
use bigrain::search::{SearchParams, Searcher};
use bigrain::simd::CodeBits;
use bigrain::train::Silent;
use bigrain::types::Metric;

use crate::common::{Data, OnDisk, assert_best, everything, in_memory, scores, search, write_vectors};

/// Fails unless the error has this text in it.
fn assert_says(result: Result<impl Sized, Error>, expected: &str) {
    let message = match result {
        Ok(_) => panic!("no error, but one with {expected:?} is due"),
        Err(error) => error.to_string(),
    };
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
}

/// Builds `rows` x `dim` values; whatever comes of it.
fn built(rows: &[f32], dim: usize, change: impl FnOnce(&mut bigrain::build::BuildSpec)) -> Result<Searcher, Error> {
    let mut disk = OnDisk::new(&Data { dim, rows: rows.to_vec(), queries: Vec::new() });
    disk.spec.lists = None;
    change(&mut disk.spec);
    disk.build()?;
    let searcher = disk.open()?;
    // The folder goes, but what is open stays readable: maps outlive names.
    searcher.index().check(&Silent)?;
    Ok(searcher)
}

#[test]
fn queries_of_another_shape_or_value_are_refused() {
    let data = Data::clustered(100, 8, 1);
    let searcher = in_memory(&data, |spec| spec.metric = Metric::Cosine);
    let params = SearchParams::default();
    assert_says(search(&searcher, &[1.0; 7], &params), "expected 8, found 7");
    assert_says(search(&searcher, &[0.0; 8], &params), "zero");
    assert_says(search(&searcher, &[1e20; 8], &params), "norm");
    let mut query = [1.0; 8];
    query[3] = f32::NAN;
    assert_says(search(&searcher, &query, &params), "value 3 is NaN");
}

#[test]
fn more_hits_than_rows_are_all_rows() {
    let data = Data::clustered(30, 8, 2);
    let searcher = in_memory(&data, |spec| spec.metric = Metric::L2);
    let query = data.queries().next().unwrap();
    let truth = scores(Metric::L2, &data.rows, query);
    for exact in [false, true] {
        let params = SearchParams { exact, ..everything(&searcher, 100_000) };
        assert_best(&search(&searcher, query, &params).unwrap(), &truth, 100_000, 1e-3, "k beyond rows");
    }
    let none = SearchParams { nprobe: usize::MAX, candidates: usize::MAX / 8, ..everything(&searcher, 3) };
    assert_best(&search(&searcher, query, &none).unwrap(), &truth, 3, 1e-3, "huge effort");
}

#[test]
fn a_quantizer_for_other_vectors_is_refused() {
    let data = Data::clustered(200, 8, 3);
    let trained = OnDisk::new(&data);
    trained.build().unwrap();
    let folder = fs::read_dir(&trained.spec.output).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    let quantizer = Some(folder.join("quantizer.bg"));
    let mut disk = OnDisk::new(&data);
    (disk.spec.quantizer, disk.spec.metric) = (quantizer.clone(), Metric::L2);
    assert_says(disk.build(), "expected l2, found cosine");
    disk.spec.metric = Metric::Cosine;
    disk.build().unwrap();
    let query = data.queries().next().unwrap();
    let searcher = disk.open().unwrap();
    let hits = search(&searcher, query, &everything(&searcher, 5)).unwrap();
    assert_best(&hits, &scores(Metric::Cosine, &data.rows, query), 5, 1e-5, "given quantizer");
    let mut wider = OnDisk::new(&Data::clustered(200, 9, 3));
    wider.spec.quantizer = quantizer;
    assert_says(wider.build(), "expected 8, found 9");
    // A given quantizer may have more lists than the input has rows.
    let mut fewer = OnDisk::new(&Data { dim: 8, rows: data.rows[..24].to_vec(), queries: Vec::new() });
    fewer.spec.quantizer = wider.spec.quantizer;
    fewer.build().unwrap();
    assert_eq!(fewer.open().unwrap().rows(), 3);
}

#[test]
fn empty_and_missing_inputs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.fbin");
    fs::write(&path, [0, 0, 0, 0, 8, 0, 0, 0]).unwrap();
    let mut disk = OnDisk::new(&Data::clustered(10, 4, 1));
    disk.spec.input = path;
    assert_says(disk.build(), "0 rows");
    disk.spec.input = folder.path().join("absent.npy");
    assert_says(disk.build(), "absent.npy");
    disk.spec.input = folder.path().join("vectors.dat");
    assert_says(disk.build(), "vectors are read from");
    assert!(!disk.spec.output.exists(), "nothing was begun");
}

#[test]
fn one_row_and_fewer_rows_than_lists() {
    let one = built(&[3.0, 4.0], 2, |spec| spec.metric = Metric::Cosine).unwrap();
    let hits = search(&one, &[1.0, 0.0], &SearchParams::default()).unwrap();
    assert_eq!(hits.len(), 1);
    assert!((hits[0].score - 0.6).abs() < 1e-6);
    assert_says(built(&[1.0; 20], 2, |spec| spec.lists = Some(11)), "11 lists are more than the 10 rows");
    let as_many = built(&(0..20).map(|v| v as f32).collect::<Vec<_>>(), 2, |spec| {
        (spec.lists, spec.metric) = (Some(10), Metric::L2);
    });
    let searcher = as_many.unwrap();
    assert_eq!(search(&searcher, &[6.0, 7.0], &everything(&searcher, 1)).unwrap()[0].key, 3);
}

#[test]
fn duplicate_rows_and_constant_dimensions_are_no_trouble() {
    for metric in [Metric::Ip, Metric::Cosine, Metric::L2] {
        let same = built(&[0.5; 300 * 6], 6, |spec| (spec.metric, spec.lists) = (metric, Some(5))).unwrap();
        let hits = search(&same, &[1.0; 6], &everything(&same, 4)).unwrap();
        assert_eq!(hits.iter().map(|hit| hit.key).collect::<Vec<_>>(), [0, 1, 2, 3], "{metric}: ties go by key");
        // Two dimensions of six vary.
        let rows: Vec<f32> = (0..300).flat_map(|i| [1.0, 0.0, (i % 17) as f32, 1.0, -(i as f32) / 9.0, 0.0]).collect();
        for bits in [CodeBits::Four, CodeBits::Eight] {
            let searcher = built(&rows, 6, |spec| (spec.metric, spec.code_bits) = (metric, bits)).unwrap();
            let query = [1.0, 0.5, 3.0, 0.0, -20.0, 1.0];
            let hits = search(&searcher, &query, &everything(&searcher, 10)).unwrap();
            assert_best(&hits, &scores(metric, &rows, &query), 10, 1e-2, "constant dimensions");
        }
    }
}

#[test]
fn any_dimension_goes_with_any_number_of_subspaces() {
    for (dim, bytes) in [(1, 4), (3, 8), (7, 4), (13, 12), (33, 16)] {
        let data = Data::clustered(150, dim, 4);
        for bits in [CodeBits::Four, CodeBits::Eight] {
            let searcher = built(&data.rows, dim, |spec| {
                (spec.metric, spec.code_bits, spec.code_bytes) = (Metric::L2, bits, Some(bytes));
            });
            let searcher = searcher.unwrap();
            let query = data.queries().next().unwrap();
            let hits = search(&searcher, query, &everything(&searcher, 10)).unwrap();
            assert_best(&hits, &scores(Metric::L2, &data.rows, query), 10, 1e-3, &format!("{dim} {bytes} {bits:?}"));
        }
    }
    assert_says(built(&[1.0; 8], 4, |spec| spec.code_bytes = Some(3)), "between 4 and 128");
    let odd = built(&[1.0; 8], 4, |spec| (spec.code_bits, spec.code_bytes) = (CodeBits::Four, Some(10)));
    assert_says(odd, "use 8 or 12");
}

#[test]
fn bad_rows_fail_or_are_skipped_and_counted() {
    let mut rows = Data::clustered(100, 4, 5).rows;
    rows[17 * 4 + 2] = f32::NAN;
    rows[40 * 4..41 * 4].fill(0.0);
    rows[63 * 4] = f32::INFINITY;
    assert_says(built(&rows, 4, |_| {}), "row 17");
    for (metric, skipped) in [(Metric::Cosine, 3), (Metric::L2, 2)] {
        let searcher = built(&rows, 4, |spec| (spec.on_bad, spec.metric) = (OnBad::Skip, metric)).unwrap();
        assert_eq!(searcher.rows(), 100 - skipped);
        assert_eq!(searcher.index().manifest().build.skipped_rows, skipped);
        let hits = search(&searcher, &[1.0; 4], &everything(&searcher, 100)).unwrap();
        assert_eq!(hits.len() as u64, 100 - skipped);
        assert!(hits.iter().all(|hit| hit.key != 17 && hit.key != 63 && (hit.key != 40 || metric == Metric::L2)));
    }
    assert_says(built(&[0.0; 40], 4, |spec| spec.on_bad = OnBad::Skip), "bad");
}

#[test]
fn keys_must_be_one_a_row_and_distinct() {
    let mut disk = OnDisk::new(&Data::clustered(50, 4, 6));
    let path = disk.folder.path().join("keys.txt");
    disk.spec.keys = Some(path.clone());
    let lines = |keys: &mut dyn Iterator<Item = u64>| keys.map(|key| format!("{key}\n")).collect::<String>();
    for (text, expected) in [
        (lines(&mut (0..49)), "49"),
        (lines(&mut (0..51)), "51"),
        (lines(&mut (0..50).map(|i| i.min(48))), "key 48 comes more than once"),
        (lines(&mut (0..49)) + "minus one\n", "minus one"),
    ] {
        fs::write(&path, text).unwrap();
        assert_says(disk.build(), expected);
        assert!(disk.open().is_err(), "no version was made");
    }
    let left: Vec<_> = fs::read_dir(&disk.spec.output).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"], "a failed build leaves nothing behind");
}

#[test]
fn a_failed_build_leaves_the_old_version() {
    let data = Data::clustered(50, 4, 7);
    let disk = OnDisk::new(&data);
    let id = disk.build().unwrap().id;
    let mut rows = data.rows;
    rows[3] = f32::NAN;
    write_vectors(disk.folder.path(), "input.fbin", 4, &rows);
    assert_says(disk.build(), "row 0");
    let searcher = disk.open().unwrap();
    assert_eq!(searcher.version(), id);
    searcher.index().check(&Silent).unwrap();
}

#[test]
fn directories_with_other_things_in_them_are_refused() {
    let disk = OnDisk::new(&Data::clustered(50, 4, 8));
    fs::create_dir(&disk.spec.output).unwrap();
    fs::write(disk.spec.output.join("thesis.tex"), "years of work").unwrap();
    assert_says(disk.build(), "thesis.tex");
    assert!(disk.spec.output.join("thesis.tex").exists());
    assert_says(disk.open(), "there is no manifest.json");
}

/// Files of the only version in an index directory.
fn version_folder(dir: &Path) -> std::path::PathBuf {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap()
}

#[test]
fn missing_foreign_and_newer_files_are_refused() {
    let (one, other) = (OnDisk::new(&Data::clustered(80, 4, 9)), OnDisk::new(&Data::clustered(80, 4, 10)));
    one.build().unwrap();
    other.build().unwrap();
    let (folder, foreign) = (version_folder(&one.spec.output), version_folder(&other.spec.output));
    for name in ["codes.bg", "dense-000.bg", "keys.bg", "quantizer.bg"] {
        let path = folder.join(name);
        let healthy = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert_says(one.open(), "it is not there");
        fs::copy(foreign.join(name), &path).unwrap();
        let error = one.open().unwrap_err();
        assert!(matches!(&error, Error::Mismatch { .. }) && error.to_string().contains(name), "{error}");
        let mut newer = healthy.clone();
        newer[12] = 2;
        fs::write(&path, newer).unwrap();
        let error = one.open().unwrap_err();
        assert!(matches!(&error, Error::Unsupported { .. }) && error.to_string().contains("version 2"), "{error}");
        fs::copy(folder.join(if name == "keys.bg" { "codes.bg" } else { "keys.bg" }), &path).unwrap();
        assert_says(one.open(), name);
        fs::write(&path, healthy).unwrap();
    }
    one.open().unwrap();
    let manifest = one.spec.output.join("manifest.json");
    fs::copy(other.spec.output.join("manifest.json"), &manifest).unwrap();
    assert!(one.open().is_err());
    fs::remove_file(&manifest).unwrap();
    assert_says(one.open(), "build one with build-index");
}

#[test]
fn two_builds_in_one_directory_do_not_mix() {
    let disk = OnDisk::new(&Data::clustered(50, 4, 11));
    disk.build().unwrap();
    let lock = fs::File::create(disk.spec.output.join(".lock")).unwrap();
    lock.try_lock().unwrap();
    assert_says(build(&disk.spec, &Silent), "another build is at work");
    drop(lock);
    disk.build().unwrap();
}
