//! The file of columns.
//!
//! ```text
//! META   JSON: rows, the columns by name with what their ordinals stand for, the names of text columns
//! DICT   for each column with a dictionary: u32 x values ends of its strings, of a set u64 x values numbers of rows, the text
//! A000   the first column: an ordinal of its width a row; of a set u32 rows, ascending, value after value
//! A001   the second column, and so on
//! ```

use serde::{Deserialize, Serialize};

use super::columns::{Column, Data, Postings};
use super::dictionary::Dictionary;
use super::encoding::{Encoding, OrdinalMap, Width};
use super::{Attribute, Schema};
use crate::error::{Error, Result};
use crate::format::{FileReader, FileWriter, as_bytes, from_bytes};
use crate::types::Row;

const META: [u8; 4] = *b"META";
const DICT: [u8; 4] = *b"DICT";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    rows: u64,
    columns: Vec<MetaColumn>,
    text: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaColumn {
    attribute: Attribute,
    /// Of numbers and truths.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    numbers: Option<(u64, u64)>,
    /// Of strings: how many.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    values: Option<u32>,
}

/// Tag of the section of a column.
pub(super) fn tag(column: usize) -> [u8; 4] {
    let digit = |unit: usize| b'0' + (column / unit % 10) as u8;
    [b'A', digit(100), digit(10), digit(1)]
}

/// Writes META and DICT; `counts` are the numbers of rows of each value of each column that is a set.
pub(super) fn write_head(
    file: &mut FileWriter,
    rows: u64,
    encodings: &[Encoding],
    text: &[String],
    counts: &[Vec<u64>],
) -> Result<()> {
    let column = |encoding: &Encoding| {
        let (numbers, values) = match &encoding.ordinals {
            OrdinalMap::Numbers { base, span } => (Some((*base, *span)), None),
            OrdinalMap::Words(words) => (None, Some(words.len() as u32)),
        };
        MetaColumn { attribute: encoding.attribute.clone(), numbers, values }
    };
    let meta = Meta { rows, columns: encodings.iter().map(column).collect(), text: text.to_vec() };
    file.write_array(META, &serde_json::to_vec(&meta).expect("plain values"))?;
    file.begin(DICT)?;
    for (encoding, counts) in encodings.iter().zip(counts) {
        if let OrdinalMap::Words(words) = &encoding.ordinals {
            file.write(as_bytes(words.ends()))?;
            file.write(as_bytes(counts))?;
            file.write(words.text().as_bytes())?;
        }
    }
    file.end()
}

/// Reads and checks everything but the summaries of lists.
pub(super) fn read(file: &FileReader, rows: u64) -> Result<(Schema, Vec<Column>)> {
    let wrong = |section: &str, reason: String| Error::corrupt(file.path(), section, reason);
    let meta: Meta = serde_json::from_slice(&file.read_section(META)?)
        .map_err(|e| wrong("META", format!("not what it should be: {e}")))?;
    if meta.rows != rows {
        return Err(wrong("META", format!("it has {} rows, the index {rows}", meta.rows)));
    }
    let schema =
        Schema { attributes: meta.columns.iter().map(|column| column.attribute.clone()).collect(), text: meta.text };
    schema.check().map_err(|reason| wrong("META", reason))?;
    let dictionaries = file.read_section(DICT)?;
    let mut rest = &dictionaries[..];
    let mut columns = Vec::with_capacity(meta.columns.len());
    for (at, column) in meta.columns.into_iter().enumerate() {
        let name = String::from_utf8_lossy(&tag(at)).into_owned();
        let damaged = |reason: String| wrong(&name, format!("attribute {:?}: {reason}", column.attribute.name));
        let (ordinals, counts) = match (column.numbers, column.values) {
            (Some((base, span)), None) if base.checked_add(span).is_some() => {
                (OrdinalMap::Numbers { base, span }, Vec::new())
            }
            (None, Some(values)) => {
                let is_set = column.attribute.kind == super::AttributeType::Keywords;
                let (words, counts) = take_dictionary(&mut rest, values as usize, is_set)
                    .map_err(|reason| wrong("DICT", format!("attribute {:?}: {reason}", column.attribute.name)))?;
                (OrdinalMap::Words(words), counts)
            }
            _ => return Err(damaged("its ordinals stand for nothing".into())),
        };
        let encoding = Encoding { attribute: column.attribute.clone(), ordinals };
        encoding.check().map_err(&damaged)?;
        let data = read_data(file, tag(at), &encoding, rows, &counts, &damaged)?;
        columns.push(Column::new(encoding, data));
    }
    match rest {
        [] => Ok((schema, columns)),
        _ => Err(wrong("DICT", format!("{} bytes are too many", rest.len()))),
    }
}

/// The dictionary at the front of `rest`, and the numbers of rows of its values where they are sets'.
fn take_dictionary(rest: &mut &[u8], values: usize, is_set: bool) -> Result<(Dictionary, Vec<u64>), String> {
    let mut take = |length: usize| {
        let (front, behind) = rest.split_at_checked(length).ok_or("it ends too early")?;
        *rest = behind;
        Ok::<&[u8], String>(front)
    };
    let ends: Vec<u32> = from_bytes(take(values.saturating_mul(4))?);
    let counts = if is_set { from_bytes(take(values.saturating_mul(8))?) } else { Vec::new() };
    let text = take(ends.last().map_or(0, |&end| end as usize))?;
    Ok((Dictionary::from_parts(ends, text.to_vec())?, counts))
}

/// The ordinals or postings of a column, within their bounds.
fn read_data(
    file: &FileReader,
    tag: [u8; 4],
    encoding: &Encoding,
    rows: u64,
    counts: &[u64],
    damaged: &dyn Fn(String) -> Error,
) -> Result<Data> {
    if encoding.is_set() {
        let found: Vec<Row> = file.read_array(tag)?;
        return Postings::from_parts(counts, found, rows).map(Data::Postings).map_err(damaged);
    }
    let width = encoding.width();
    let length = file.section(tag)?.length;
    if Some(length) != rows.checked_mul(width.bytes() as u64) {
        return Err(damaged(format!("{length} bytes are not {rows} ordinals of {} bytes", width.bytes())));
    }
    let data = match width {
        Width::U8 => Data::U8(file.read_array(tag)?),
        Width::U16 => Data::U16(file.read_array(tag)?),
        Width::U32 => Data::U32(file.read_array(tag)?),
        Width::U64 => Data::U64(file.read_array(tag)?),
    };
    let (largest, null) = (encoding.largest(), width.null());
    match (0..rows as usize).map(|row| data.ordinal(row)).position(|ordinal| ordinal != null && Some(ordinal) > largest)
    {
        Some(row) => Err(damaged(format!("the ordinal of row {row} is too large"))),
        None => Ok(data),
    }
}
