//! Parquet files made by the Arrow writer.

use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::file::properties::WriterProperties;
use arrow_array::builder::{
    FixedSizeListBuilder, Float32Builder, Float64Builder, Int8Builder, LargeListBuilder, ListBuilder, StringBuilder,
};
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use rayon::prelude::*;

use super::*;

/// A file of the given columns with row groups of `group` rows.
fn file(columns: Vec<(&str, ArrayRef)>, group: usize) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap()
}

/// A list column of `f32`; `None` is a null row.
fn lists(rows: &[Option<Vec<Option<f32>>>]) -> ArrayRef {
    let mut builder = ListBuilder::new(Float32Builder::new());
    rows.iter().for_each(|row| builder.append_option(row.clone()));
    Arc::new(builder.finish())
}

fn full(values: &[f32], dim: usize) -> Vec<Option<Vec<Option<f32>>>> {
    values.chunks(dim).map(|row| Some(row.iter().map(|&v| Some(v)).collect())).collect()
}

/// A small good file, for tests that damage it.
pub(super) fn sample_file() -> Vec<u8> {
    file(vec![("vector", lists(&full(&matrix(4, 3), 3)))], 2)
}

#[test]
fn every_kind_of_list_reads_back() {
    let folder = folder();
    let (rows, dim) = (120, 4);
    let values = matrix(rows, dim);
    let mut large = LargeListBuilder::new(Float64Builder::new());
    let mut fixed = FixedSizeListBuilder::new(Int8Builder::new(), dim as i32);
    for row in values.chunks(dim) {
        large.append_value(row.iter().map(|&v| Some(f64::from(v))));
        row.iter().for_each(|&v| fixed.values().append_value(v as i8));
        fixed.append(true);
    }
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let columns: [ArrayRef; 3] = [lists(&full(&values, dim)), Arc::new(large.finish()), Arc::new(fixed.finish())];
    for (number, column) in columns.into_iter().enumerate() {
        // Row groups of 50: reads cross two limits and the last group is shorter.
        let bytes = file(vec![("id", ids.clone()), ("vector", column)], 50);
        check_access(&write(&folder, &format!("{number}.parquet"), &bytes), &values, dim);
    }
}

#[test]
fn batches_smaller_than_a_row_group_are_crossed() {
    let folder = folder();
    // 600 dimensions: batches of 436 rows in a row group of 1000.
    let values = matrix(1000, 600);
    check_access(&write(&folder, "a.parquet", &file(vec![("v", lists(&full(&values, 600)))], 1000)), &values, 600);
}

#[test]
fn the_column_is_chosen_by_name() {
    let folder = folder();
    let (a, b) = (lists(&full(&matrix(3, 2), 2)), lists(&full(&matrix(3, 5), 5)));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3));
    let path = write(&folder, "a.parquet", &file(vec![("id", ids.clone()), ("a", a), ("b", b)], 10));
    assert_eq!(VectorFile::open(&path, Some("b")).unwrap().dim(), 5);
    assert_eq!(VectorFile::open(&path, Some("b")).unwrap().reopen().unwrap().dim(), 5);
    refused(open(&path), &["column", "several", "a, b"]);
    refused(VectorFile::open(&path, Some("id")), &["no list column \"id\"", "a, b"]);
    let path = write(&folder, "b.parquet", &file(vec![("id", ids)], 10));
    refused(open(&path), &["no list or fixed-size-list column"]);
}

#[test]
fn bad_rows_are_named() {
    let folder = folder();
    let with = |row: Option<Vec<Option<f32>>>| {
        let mut rows = full(&matrix(30, 2), 2);
        rows[17] = row;
        read_all(&write(&folder, "a.parquet", &file(vec![("v", lists(&rows))], 8)))
    };
    refused(with(None), &["row 17", "null"]);
    refused(with(Some(vec![Some(1.0), None])), &["row 17", "position 1 is null"]);
    refused(with(Some(vec![Some(1.0)])), &["row 17", "ragged", "1 values", "row 0 has 2"]);
    refused(with(Some(vec![])), &["row 17", "ragged"]);
    let mut words = ListBuilder::new(StringBuilder::new());
    words.append_value([Some("x")]);
    let bytes = file(vec![("v", Arc::new(words.finish()))], 8);
    refused(read_all(&write(&folder, "b.parquet", &bytes)), &["row 0", "Utf8", "numbers are needed"]);
    refused(open(&write(&folder, "c.parquet", &file(vec![("v", lists(&[]))], 8))), &["0 rows"]);
    refused(open(&write(&folder, "d.parquet", &file(vec![("v", lists(&[Some(vec![])]))], 8))), &["0 dimensions"]);
}

#[test]
fn an_error_does_not_spoil_the_rows_after_it() {
    let folder = folder();
    let mut rows = full(&matrix(30, 2), 2);
    rows[17] = None;
    let path = write(&folder, "a.parquet", &file(vec![("v", lists(&rows))], 8));
    let mut file = open(&path).unwrap();
    let mut row = [0.0; 2];
    file.read(16, &mut row).unwrap();
    refused(file.read(17, &mut row), &["row 17"]);
    file.read(18, &mut row).unwrap();
    assert_eq!(row, matrix(30, 2)[36..38]);
}

#[test]
fn truncated_files_are_refused() {
    let folder = folder();
    let good = sample_file();
    for length in 0..good.len() {
        let result = read_all(&write(&folder, "a.parquet", &good[..length]));
        assert!(matches!(result, Err(Error::InvalidInput { .. })), "{length} of {}: {result:?}", good.len());
    }
}

/// Among these are files on which the decoder itself panics.
#[test]
fn every_damaged_byte_is_an_error_or_another_value() {
    let good = sample_file();
    let damages: Vec<(usize, u8)> = (0..good.len()).flat_map(|at| [(at, 2), (at, 0xff)]).collect();
    let refused = damages.par_iter().filter(|&&(at, value)| {
        let folder = folder();
        let mut bytes = good.clone();
        bytes[at] = value;
        let path = write(&folder, "a.parquet", &bytes);
        let Ok(mut file) = open(&path) else { return true };
        let mut row = vec![0.0; file.dim()];
        (0..file.rows().min(9)).any(|row_number| file.read(row_number, &mut row).is_err())
    });
    assert!(refused.count() > good.len() / 2, "most damage is noticed");
}

/// All records of a file.
fn records(path: &Path, rows: u64) -> Result<Vec<String>> {
    let mut file = FieldFile::open(path, rows)?;
    (0..rows)
        .map(|_| {
            let mut record = String::new();
            file.read(&mut record).map(|()| record)
        })
        .collect()
}

#[test]
fn records_are_the_columns_of_scalars_and_strings() {
    use arrow_array::{
        BooleanArray, Float32Array, Float64Array, LargeStringArray, TimestampMillisecondArray, UInt64Array,
    };
    let folder = folder();
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("a"), Some("b \"c\"")]);
    tags.append_null();
    tags.append_value(Vec::<Option<&str>>::new());
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("vector", lists(&full(&[1.0, 2.0, 3.0], 1))),
        ("n", Arc::new(Int64Array::from(vec![Some(-5), None, Some(7)]))),
        ("u", Arc::new(UInt64Array::from(vec![u64::MAX, 0, 1]))),
        ("x", Arc::new(Float32Array::from(vec![0.1, f32::NAN, 3.0]))),
        ("y", Arc::new(Float64Array::from(vec![1e300, 2.0, 0.25]))),
        ("b", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ("s", Arc::new(LargeStringArray::from(vec!["q\"", "", "z"]))),
        ("at", Arc::new(TimestampMillisecondArray::from(vec![1, 2, 3]))),
        ("tags", Arc::new(tags.finish())),
    ];
    let path = write(&folder, "a.parquet", &file(columns, 2));
    let due = [
        r#"{"n":-5,"u":18446744073709551615,"x":0.1,"y":1e300,"b":true,"s":"q\"","at":1,"tags":["a","b \"c\""]}"#,
        r#"{"n":null,"u":0,"x":null,"y":2.0,"b":false,"s":"","at":2,"tags":null}"#,
        r#"{"n":7,"u":1,"x":3.0,"y":0.25,"b":true,"s":"z","at":3,"tags":[]}"#,
    ];
    assert_eq!(records(&path, 3).unwrap(), due);
    let opened = FieldFile::open(&path, 3).unwrap();
    assert_eq!((opened.left_out(), opened.is_table()), (&["vector".to_string()][..], false));
    refused(FieldFile::open(&path, 4), &["3 lines for 4 vectors"]);
    let mut all = FieldFile::open(&path, 3).unwrap();
    let mut record = String::new();
    (0..3).for_each(|_| all.read(&mut record).unwrap());
    refused(all.read(&mut record), &["row 3", "fewer rows"]);
}

#[test]
fn bad_records_of_a_parquet_file_are_named() {
    let folder = folder();
    let infinite: ArrayRef = Arc::new(arrow_array::Float64Array::from(vec![1.0, f64::INFINITY]));
    let path = write(&folder, "a.parquet", &file(vec![("x", infinite)], 2));
    refused(records(&path, 2), &["row 1", "\"x\"", "inf"]);
    let mut holed = ListBuilder::new(StringBuilder::new());
    holed.append_value([Some("a"), None]);
    let path = write(&folder, "b.parquet", &file(vec![("t", Arc::new(holed.finish()) as ArrayRef)], 1));
    refused(records(&path, 1), &["row 0", "\"t\"", "position 1", "null"]);
    refused(records(&write(&folder, "c.parquet", b"PAR1"), 1), &["c.parquet", "not a readable Parquet file"]);
}

#[test]
fn changed_bytes_of_records_never_panic() {
    let folder = folder();
    let words: ArrayRef =
        Arc::new(arrow_array::StringArray::from((0..50).map(|i| format!("word {i}")).collect::<Vec<_>>()));
    let bytes = file(vec![("n", Arc::new(Int64Array::from_iter_values(0..50)) as ArrayRef), ("w", words)], 20);
    (0..bytes.len()).into_par_iter().for_each(|at| {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        // Some changes go unnoticed: the file has no checksums. None may end the program.
        let _ = records(&write(&folder, &format!("{at}.parquet"), &bad), 50);
        std::fs::remove_file(folder.path().join(format!("{at}.parquet"))).unwrap();
    });
}
