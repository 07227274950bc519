//! A list column of a Parquet file.
//!
//! Parquet is decoded forwards in batches of about a mebibyte. The reader keeps the batch that it is in; a row further on
//! in the same row group is reached by decoding on, any other by starting at its row group. So one ascending pass costs one
//! pass over the file, and row groups that hold no wanted row are not touched.
//!
//! On some damaged files the decoder panics rather than returning an error (an unknown encoding, a negative offset). Those
//! panics are caught here and become errors, for a file must not end the program.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type,
};
use arrow_array::{Array, ArrayRef, FixedSizeListArray, LargeListArray, ListArray, PrimitiveArray};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};

use crate::error::{Error, Result};

/// Bytes of `f32` that a batch should come to.
const BATCH: usize = 1 << 20;

/// One list column, and the batch where its reader is.
#[derive(Debug)]
pub(super) struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    file: File,
    /// Index of the column among the file's roots.
    column: usize,
    /// First row of each row group, then the number of rows.
    groups: Vec<u64>,
    dim: usize,
    position: Option<Position>,
}

/// A reader within one row group.
struct Position {
    reader: ParquetRecordBatchReader,
    /// The rows of the batch last decoded.
    batch: Option<ArrayRef>,
    /// Row number of the batch's first row; of the next batch's where there is none.
    first: u64,
    /// Row after the row group's last.
    end: u64,
}

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Position").field("first", &self.first).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Position {
    /// Decodes on to the batch that holds `row`; an error names the row before which decoding failed.
    fn advance(&mut self, row: u64) -> Result<ArrayRef, (u64, String)> {
        loop {
            if let Some(batch) = &self.batch {
                if row < self.first + batch.len() as u64 {
                    return Ok(batch.clone());
                }
                self.first += batch.len() as u64;
            }
            self.batch = match self.reader.next() {
                Some(Ok(decoded)) if decoded.num_columns() == 1 && decoded.num_rows() > 0 => {
                    Some(decoded.column(0).clone())
                }
                Some(Err(e)) => return Err((self.first, format!("cannot be decoded ({e})"))),
                _ => return Err((self.first, "the row group has fewer rows than the footer says".into())),
            };
        }
    }
}

impl ParquetFile {
    /// Reads the file's footer, finds the column and its dimension.
    pub(super) fn open(path: &Path, column: Option<&str>) -> Result<ParquetFile> {
        without_panic(path, "footer", || ParquetFile::open_unguarded(path, column))
    }

    fn open_unguarded(path: &Path, column: Option<&str>) -> Result<ParquetFile> {
        let file = File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() == 0 {
            return Err(Error::input(path, "header", "the file is empty"));
        }
        let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
            .map_err(|e| Error::input(path, "footer", format!("not a readable Parquet file ({e})")))?;
        let column = choose_column(path, &metadata, column)?;
        let groups = group_starts(path, &metadata)?;
        if groups.last() == Some(&0) {
            return Err(Error::input(path, "footer", "0 rows: there is nothing to read"));
        }
        let mut opened = ParquetFile { path: path.into(), metadata, file, column, groups, dim: BATCH, position: None };
        // Of a dimension not yet known, batches of one row; then the reader is dropped and made anew.
        opened.dim = opened.first_dim()?;
        if opened.dim == 0 {
            return Err(Error::input(path, "row 0", "0 dimensions: there is nothing to read"));
        }
        opened.position = None;
        Ok(opened)
    }

    pub(super) fn rows(&self) -> u64 {
        self.groups.last().copied().unwrap_or(0)
    }

    pub(super) fn dim(&self) -> usize {
        self.dim
    }

    /// Reads whole rows; the caller has checked the range.
    pub(super) fn read(&mut self, start: u64, out: &mut [f32]) -> Result<()> {
        let path = self.path.clone();
        without_panic(&path, &format!("row {start} or after"), || self.read_unguarded(start, out))
    }

    fn read_unguarded(&mut self, start: u64, out: &mut [f32]) -> Result<()> {
        let dim = self.dim;
        let (mut row, mut out) = (start, out);
        while !out.is_empty() {
            let (batch, first) = self.batch_with(row)?;
            let skip = (row - first) as usize;
            let count = (batch.len() - skip).min(out.len() / dim);
            let (now, later) = out.split_at_mut(count * dim);
            copy_rows(&batch, skip, now, dim)
                .map_err(|(index, reason)| Error::input(&self.path, format!("row {}", first + index as u64), reason))?;
            row += count as u64;
            out = later;
        }
        Ok(())
    }

    /// The decoded batch that holds `row`, and the number of the batch's first row.
    fn batch_with(&mut self, row: u64) -> Result<(ArrayRef, u64)> {
        let mut position = match self.position.take() {
            Some(position) if (position.first..position.end).contains(&row) => position,
            _ => self.seek(row)?,
        };
        // After an error the reader's place is unknown: it is dropped, and the next call starts anew.
        let batch =
            position.advance(row).map_err(|(row, reason)| Error::input(&self.path, format!("row {row}"), reason))?;
        let first = position.first;
        self.position = Some(position);
        Ok((batch, first))
    }

    /// A reader that begins at `row`, within its row group.
    fn seek(&self, row: u64) -> Result<Position> {
        let group = self.groups.partition_point(|&first| first <= row) - 1;
        let damaged =
            |e: &dyn std::fmt::Display| Error::input(&self.path, format!("row group {group}"), format!("{e}"));
        let file = self.file.try_clone().map_err(Error::io(&self.path))?;
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(ProjectionMask::roots(self.metadata.parquet_schema(), [self.column]))
            .with_row_groups(vec![group])
            .with_offset((row - self.groups[group]) as usize)
            .with_batch_size((BATCH / 4 / self.dim).clamp(1, 8192))
            .build()
            .map_err(|e| damaged(&e))?;
        Ok(Position { reader, batch: None, first: row, end: self.groups[group + 1] })
    }

    /// The dimension: the length of the first row, decoded alone. A fixed-size column's type would say it too, but only
    /// claims it.
    fn first_dim(&mut self) -> Result<usize> {
        let (batch, _) = self.batch_with(0)?;
        let bounds = row_bounds(&batch, 0);
        bounds.map(|(_, begin, end)| end - begin).map_err(|reason| Error::input(&self.path, "row 0", reason))
    }
}

/// Turns a panic of the decoder into an error. No broken state remains: `batch_with` takes the position away before it decodes.
pub(super) fn without_panic<T>(path: &Path, place: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        Err(Error::input(path, place, "damaged: the Parquet decoder gave up; copy or write the file again"))
    })
}

/// Index of the root column to read.
fn choose_column(path: &Path, metadata: &ArrowReaderMetadata, wanted: Option<&str>) -> Result<usize> {
    let is_list =
        |t: &DataType| matches!(t, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _));
    let fields = metadata.schema().fields();
    let lists: Vec<usize> = (0..fields.len()).filter(|&i| is_list(fields[i].data_type())).collect();
    let names = lists.iter().map(|&i| fields[i].name().as_str()).collect::<Vec<_>>().join(", ");
    let problem = match wanted {
        Some(name) => match lists.iter().find(|&&i| fields[i].name() == name) {
            Some(&index) => return Ok(index),
            None => format!("{} has no list column {name:?}; its list columns are: {names}", path.display()),
        },
        None => match lists[..] {
            [only] => return Ok(only),
            [] => format!("{} has no list or fixed-size-list column", path.display()),
            _ => format!("{} has several list columns, say which: {names}", path.display()),
        },
    };
    Err(Error::params("column", problem))
}

/// First row of every row group, then the total.
fn group_starts(path: &Path, metadata: &ArrowReaderMetadata) -> Result<Vec<u64>> {
    let mut starts = vec![0u64];
    for (index, group) in metadata.metadata().row_groups().iter().enumerate() {
        let rows = u64::try_from(group.num_rows()).ok().and_then(|rows| starts[index].checked_add(rows));
        starts.push(rows.ok_or_else(|| {
            Error::input(path, "footer", format!("row group {index} claims {} rows", group.num_rows()))
        })?);
    }
    Ok(starts)
}

/// Child values of a list array and the range of them that is row `index`.
fn row_bounds(lists: &ArrayRef, index: usize) -> Result<(&ArrayRef, usize, usize), String> {
    if lists.is_null(index) {
        return Err("null; a vector is needed: drop the row or fill it".into());
    }
    let lists = lists.as_any();
    let (values, begin, end) = if let Some(lists) = lists.downcast_ref::<FixedSizeListArray>() {
        let begin = lists.value_offset_at(index);
        (lists.values(), begin, begin + lists.value_length() as usize)
    } else if let Some(lists) = lists.downcast_ref::<ListArray>() {
        (lists.values(), lists.value_offsets()[index] as usize, lists.value_offsets()[index + 1] as usize)
    } else if let Some(lists) = lists.downcast_ref::<LargeListArray>() {
        (lists.values(), lists.value_offsets()[index] as usize, lists.value_offsets()[index + 1] as usize)
    } else {
        return Err("not a list".into());
    };
    match (begin..end).find(|&at| values.is_null(at)) {
        Some(at) => Err(format!("the value at position {} is null", at - begin)),
        None => Ok((values, begin, end)),
    }
}

/// Copies rows `skip..` of a list array; an error names the index within the array.
fn copy_rows(lists: &ArrayRef, skip: usize, out: &mut [f32], dim: usize) -> Result<(), (usize, String)> {
    for (index, out) in (skip..).zip(out.chunks_exact_mut(dim)) {
        let (values, begin, end) = row_bounds(lists, index).map_err(|reason| (index, reason))?;
        if end - begin != dim {
            return Err((index, format!("ragged: it has {} values, row 0 has {dim}", end - begin)));
        }
        if !widen(values, begin, out) {
            return Err((index, format!("its values are {}; numbers are needed", values.data_type())));
        }
    }
    Ok(())
}

/// Converts `out.len()` values from `begin` on; false if they are not numbers.
fn widen(values: &ArrayRef, begin: usize, out: &mut [f32]) -> bool {
    fn copy<T: ArrowPrimitiveType>(
        values: &ArrayRef,
        begin: usize,
        out: &mut [f32],
        convert: impl Fn(T::Native) -> f32,
    ) -> bool {
        let Some(values) = values.as_any().downcast_ref::<PrimitiveArray<T>>() else { return false };
        let values = &values.values()[begin..begin + out.len()];
        out.iter_mut().zip(values).for_each(|(out, &value)| *out = convert(value));
        true
    }
    match values.data_type() {
        DataType::Float32 => copy::<Float32Type>(values, begin, out, |v| v),
        DataType::Float64 => copy::<Float64Type>(values, begin, out, |v| v as f32),
        DataType::Float16 => copy::<Float16Type>(values, begin, out, f32::from),
        DataType::Int8 => copy::<Int8Type>(values, begin, out, f32::from),
        DataType::UInt8 => copy::<UInt8Type>(values, begin, out, f32::from),
        DataType::Int16 => copy::<Int16Type>(values, begin, out, f32::from),
        DataType::UInt16 => copy::<UInt16Type>(values, begin, out, f32::from),
        DataType::Int32 => copy::<Int32Type>(values, begin, out, |v| v as f32),
        DataType::Int64 => copy::<Int64Type>(values, begin, out, |v| v as f32),
        _ => false,
    }
}
