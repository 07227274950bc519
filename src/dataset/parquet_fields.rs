//! Records of a Parquet file: its columns of numbers, booleans, strings and lists of strings as one JSON object a row.
//!
//! Other columns (a vector, most likely) are left out. Dates and times are the integers that the file stores. As with vectors,
//! panics of the decoder on damaged files become errors.

use std::fmt::Write;
use std::fs::File;
use std::path::{Path, PathBuf};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde_json::Value;

use super::lines::check_count;
use super::parquet::without_panic;
use crate::error::{Error, Result};

/// Rows decoded at once.
const BATCH: usize = 1024;

/// A forward reader of records.
pub(super) struct ParquetRecords {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    batch: Option<RecordBatch>,
    /// Names of the columns as JSON strings.
    names: Vec<String>,
    left_out: Vec<String>,
    /// Next row of the batch, and of the file.
    next: usize,
    row: u64,
}

impl std::fmt::Debug for ParquetRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetRecords").field("names", &self.names).field("row", &self.row).finish_non_exhaustive()
    }
}

impl ParquetRecords {
    /// Opens a file that must have `rows` rows.
    pub(super) fn open(path: &Path, rows: u64) -> Result<ParquetRecords> {
        without_panic(path, "footer", || {
            let wrong =
                |e: &dyn std::fmt::Display| Error::input(path, "footer", format!("not a readable Parquet file ({e})"));
            let file = File::open(path).map_err(Error::io(path))?;
            // By the file's own types, not by those of the program that wrote it: strings are then plain ones.
            let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
            let builder =
                ParquetRecordBatchReaderBuilder::try_new_with_options(file, options).map_err(|e| wrong(&e))?;
            let held = builder.metadata().file_metadata().num_rows();
            check_count(path, u64::try_from(held).unwrap_or(0), rows)?;
            let fields = builder.schema().fields().clone();
            let (taken, left): (Vec<usize>, Vec<usize>) =
                (0..fields.len()).partition(|&at| is_known(fields[at].data_type()));
            let names = taken.iter().map(|&at| Value::from(fields[at].name().as_str()).to_string()).collect();
            let left_out = left.iter().map(|&at| fields[at].name().clone()).collect();
            let mask = ProjectionMask::roots(builder.parquet_schema(), taken);
            let reader = builder.with_projection(mask).with_batch_size(BATCH).build().map_err(|e| wrong(&e))?;
            Ok(ParquetRecords { path: path.into(), reader, batch: None, names, left_out, next: 0, row: 0 })
        })
    }

    /// The rows of a file, as its footer says.
    pub(super) fn count(path: &Path) -> Result<u64> {
        without_panic(path, "footer", || {
            let wrong = |e| Error::input(path, "footer", format!("not a readable Parquet file ({e})"));
            let file = File::open(path).map_err(Error::io(path))?;
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(wrong)?;
            Ok(u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0))
        })
    }

    pub(super) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Puts the next record into `out`.
    pub(super) fn read(&mut self, out: &mut String) -> Result<()> {
        let path = self.path.clone();
        without_panic(&path, &format!("row {} or after", self.row), || self.read_unguarded(out))
    }

    fn read_unguarded(&mut self, out: &mut String) -> Result<()> {
        let wrong = |row: u64, reason: String| Error::input(&self.path, format!("row {row}"), reason);
        let batch = match self.batch.take().filter(|batch| self.next < batch.num_rows()) {
            Some(batch) => batch,
            None => {
                self.next = 0;
                match self.reader.next() {
                    Some(Ok(batch)) if batch.num_rows() > 0 => batch,
                    Some(Err(e)) => return Err(wrong(self.row, format!("cannot be decoded ({e})"))),
                    _ => return Err(wrong(self.row, "the file has fewer rows than its footer says".into())),
                }
            }
        };
        out.push('{');
        for (at, (name, column)) in self.names.iter().zip(batch.columns()).enumerate() {
            let separator = if at == 0 { "" } else { "," };
            let written = write!(out, "{separator}{name}:");
            written
                .map_err(|e| e.to_string())
                .and_then(|()| write_value(column, self.next, out))
                .map_err(|reason| wrong(self.row, format!("column {name}: {reason}")))?;
        }
        out.push('}');
        self.batch = Some(batch);
        self.next += 1;
        self.row += 1;
        Ok(())
    }
}

/// Types that [`write_value`] writes.
fn is_known(kind: &DataType) -> bool {
    use DataType::{
        Boolean, Date32, Date64, Float16, Float32, Float64, Int8, Int16, Int32, Int64, List, Timestamp, Utf8,
    };
    match kind {
        Boolean | Int8 | Int16 | Int32 | Int64 | Float16 | Float32 | Float64 | Utf8 | Date32 | Date64 => true,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 | Timestamp(..) => true,
        List(item) => *item.data_type() == Utf8,
        _ => false,
    }
}

/// Writes a value as JSON. A float that is not a number is null, as many programs mean it.
fn write_value(column: &ArrayRef, row: usize, out: &mut String) -> Result<(), String> {
    if column.is_null(row) {
        out.push_str("null");
        return Ok(());
    }
    match column.data_type() {
        DataType::Boolean => write!(out, "{}", column.as_boolean().value(row)).map_err(|e| e.to_string()),
        DataType::Int8 => integer::<Int8Type>(column, row, out),
        DataType::Int16 => integer::<Int16Type>(column, row, out),
        DataType::Int32 => integer::<Int32Type>(column, row, out),
        DataType::Int64 => integer::<Int64Type>(column, row, out),
        DataType::UInt8 => integer::<UInt8Type>(column, row, out),
        DataType::UInt16 => integer::<UInt16Type>(column, row, out),
        DataType::UInt32 => integer::<UInt32Type>(column, row, out),
        DataType::UInt64 => integer::<UInt64Type>(column, row, out),
        DataType::Date32 => integer::<Date32Type>(column, row, out),
        DataType::Date64 => integer::<Date64Type>(column, row, out),
        DataType::Timestamp(TimeUnit::Second, _) => integer::<TimestampSecondType>(column, row, out),
        DataType::Timestamp(TimeUnit::Millisecond, _) => integer::<TimestampMillisecondType>(column, row, out),
        DataType::Timestamp(TimeUnit::Microsecond, _) => integer::<TimestampMicrosecondType>(column, row, out),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => integer::<TimestampNanosecondType>(column, row, out),
        DataType::Float16 => float(f64::from(column.as_primitive::<Float16Type>().value(row)), out),
        // The shortest digits that are this value in 32 bits: 0.1, not 0.10000000149.
        DataType::Float32 => float(short(column.as_primitive::<Float32Type>().value(row)), out),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row), out),
        DataType::Utf8 => {
            write!(out, "{}", Value::from(column.as_string::<i32>().value(row))).map_err(|e| e.to_string())
        }
        DataType::List(_) => strings(&column.as_list::<i32>().value(row), out),
        other => Err(format!("a value of type {other}")),
    }
}

fn integer<T: ArrowPrimitiveType>(column: &ArrayRef, row: usize, out: &mut String) -> Result<(), String>
where
    T::Native: std::fmt::Display,
{
    write!(out, "{}", column.as_primitive::<T>().value(row)).map_err(|e| e.to_string())
}

fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn float(value: f64, out: &mut String) -> Result<(), String> {
    match value {
        value if value.is_nan() => write!(out, "null").map_err(|e| e.to_string()),
        value if value.is_infinite() => Err(format!("{value} is not a finite number; make it null or finite")),
        // With a fraction or an exponent, so that it stays a float.
        value => write!(out, "{value:?}").map_err(|e| e.to_string()),
    }
}

fn strings(list: &ArrayRef, out: &mut String) -> Result<(), String> {
    let texts = list.as_string::<i32>();
    if let Some(at) = (0..texts.len()).find(|&at| texts.is_null(at)) {
        return Err(format!("the string at position {at} of the list is null; leave it out"));
    }
    let texts: Vec<Value> = (0..texts.len()).map(|at| Value::from(texts.value(at))).collect();
    write!(out, "{}", Value::from(texts)).map_err(|e| e.to_string())
}
