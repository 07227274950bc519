//! Every format, good and bad. The oracle is the matrix that was written.

mod flat;
mod formats;
mod pairs;
#[cfg(feature = "parquet")]
mod parquet;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// A folder for one test's files.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(folder: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn open(path: &Path) -> Result<VectorFile> {
    VectorFile::open(path, None)
}

/// Opens and reads everything in one go.
fn read_all(path: &Path) -> Result<Vec<f32>> {
    let mut file = open(path)?;
    let mut out = vec![0.0; file.rows() as usize * file.dim()];
    file.read(0, &mut out)?;
    Ok(out)
}

/// The message of the error that `result` must be.
#[track_caller]
fn message<T>(result: Result<T>) -> String {
    match result {
        Ok(_) => panic!("an error was expected"),
        Err(error) => error.to_string(),
    }
}

/// Asserts that the message of an error has all of `parts`.
#[track_caller]
fn refused<T>(result: Result<T>, parts: &[&str]) {
    let message = message(result);
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// `rows` x `dim` small distinct integers: exact in every element type.
fn matrix(rows: usize, dim: usize) -> Vec<f32> {
    (0..rows * dim).map(|i| (i % 121) as f32).collect()
}

/// Reads single rows in ascending, descending and repeated order, and pieces across chunk limits.
#[track_caller]
fn check_access(path: &Path, expected: &[f32], dim: usize) {
    let mut file = open(path).unwrap();
    let rows = expected.len() / dim;
    assert_eq!((file.rows(), file.dim(), file.path()), (rows as u64, dim, path));
    let ascending = (0..rows).step_by(3);
    let mut row = vec![f32::NAN; dim];
    for at in ascending.chain((0..rows).rev()).chain([0, 0, rows - 1, rows - 1]) {
        file.read(at as u64, &mut row).unwrap();
        assert_eq!(row, expected[at * dim..][..dim], "row {at}");
    }
    for (start, count) in [(0, rows), (rows / 3, rows - rows / 3), (rows / 2, rows / 4)] {
        let mut piece = vec![f32::NAN; count * dim];
        file.reopen().unwrap().read(start as u64, &mut piece).unwrap();
        assert_eq!(piece, expected[start * dim..][..count * dim], "{count} rows from {start}");
    }
    refused(file.read(rows as u64, &mut row), &["1 rows from row", &format!("has {rows}")]);
    refused(file.read(u64::MAX, &mut row), &["rows"]);
    if dim > 1 {
        refused(file.read(0, &mut vec![0.0; dim + 1]), &["multiple of"]);
    }
}

#[test]
fn unknown_endings_and_missing_files_are_named() {
    let folder = folder();
    refused(open(&write(&folder, "a.txt", b"1 2 3")), &["a.txt", "not supported", ".npy"]);
    refused(open(&write(&folder, "npy", b"")), &["not supported"]);
    refused(open(&folder.path().join("absent.npy")), &["absent.npy", "No such file"]);
    refused(VectorFile::open(&write(&folder, "b.npy", b""), Some("vector")), &["column", "not a .parquet"]);
}

#[test]
fn bad_values_are_found_and_named() {
    check_row(&[0.0, -1.0, f32::MAX, f32::MIN_POSITIVE]).unwrap();
    check_row(&[]).unwrap();
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let mut row = [1.0; 40];
        row[37] = value;
        let bad = check_row(&row).unwrap_err();
        assert_eq!(bad.position, 37);
        let message = bad.into_error(Path::new("x.npy"), 12).to_string();
        assert!(message.contains("x.npy: row 12") && message.contains(name), "{message}");
    }
}

#[test]
fn a_replaced_file_is_not_reopened() {
    let folder = folder();
    let path = write(&folder, "a.fbin", &flat::bin(&matrix(4, 2), 2));
    let file = open(&path).unwrap();
    fs::write(&path, flat::bin(&matrix(5, 2), 2)).unwrap();
    refused(file.reopen(), &["changed since it was opened", "4 x 2", "5 x 2"]);
}
