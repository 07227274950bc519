//! The first pass over the records: what the columns will be, and how the cells of a table are to be read.

use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

use super::spec::BuildSpec;
use crate::attributes::{AttributeType, Declared, Layout, Survey};
use crate::dataset::{Cells, FieldFile};
use crate::error::{Error, Result};
use crate::train::Watch;

/// Share of the memory limit that distinct strings may take while they are gathered.
const SHARE: u64 = 4;
/// Records between two reports of progress.
const STEP: u64 = 4096;

/// Records that have been looked through.
pub(super) struct Surveyed {
    pub(super) layout: Layout,
    /// How the cells of a table are read.
    pub(super) cells: BTreeMap<String, Cells>,
    left_out: Vec<String>,
    /// Bytes of all records as text.
    pub(super) text_bytes: u64,
}

/// What has become of one attribute of the records.
#[derive(Clone, Debug, Serialize)]
pub struct AttributeReport {
    /// Its name.
    pub name: String,
    /// Its type; None: it is returned (or, of some columns of Parquet, left out), not filtered by.
    #[serde(rename = "type")]
    pub kind: Option<AttributeType>,
    /// Bytes a row in memory; None for sets, whose rows differ.
    pub bytes_per_row: Option<usize>,
    /// Distinct strings.
    pub distinct: Option<usize>,
    /// Why it cannot be filtered by.
    pub reason: Option<String>,
}

/// Looks through the records of a build, if it has any.
pub(super) fn survey(spec: &BuildSpec, rows: u64, watch: &dyn Watch) -> Result<Option<Surveyed>> {
    let Some(path) = &spec.attributes else {
        return match spec.attribute_types.is_empty() {
            true => Ok(None),
            false => {
                Err(Error::params("attribute_types", "there are no attributes to declare types of; give --attributes"))
            }
        };
    };
    let how = |declared: &Declared| match declared {
        Declared::Type(AttributeType::Keyword) => Some(Cells::Strings),
        Declared::Type(AttributeType::Keywords) => Some(Cells::Lists),
        _ => None,
    };
    let declared = spec.attribute_types.iter();
    let mut cells: BTreeMap<String, Cells> =
        declared.filter_map(|(name, declared)| how(declared).map(|how| (name.clone(), how))).collect();
    let (mut survey, file, mut text_bytes) = pass(spec, path, rows, &cells, watch)?;
    let mixed = if file.is_table() { survey.mixed_with_strings() } else { Vec::new() };
    if !mixed.is_empty() {
        cells.extend(mixed.into_iter().map(|name| (name, Cells::Strings)));
        (survey, _, text_bytes) = pass(spec, path, rows, &cells, watch)?;
    }
    Ok(Some(Surveyed { layout: survey.finish()?, cells, left_out: file.left_out().to_vec(), text_bytes }))
}

/// One pass over all records; also returns the bytes of their text.
fn pass(
    spec: &BuildSpec,
    path: &Path,
    rows: u64,
    cells: &BTreeMap<String, Cells>,
    watch: &dyn Watch,
) -> Result<(Survey, FieldFile, u64)> {
    watch.begin("survey attributes", rows);
    let mut file = FieldFile::open(path, rows)?;
    file.set_cells(cells);
    let mut survey = Survey::new(path, &spec.attribute_types, spec.memory_limit / SHARE);
    let (mut text, mut text_bytes) = (String::new(), 0);
    for row in 0..rows {
        file.read(&mut text)?;
        text_bytes += text.len() as u64;
        survey.add(&parse_object(path, row, text.as_bytes())?)?;
        if row % STEP == STEP - 1 || row == rows - 1 {
            watch.check()?;
            watch.advance(row % STEP + 1);
        }
    }
    Ok((survey, file, text_bytes))
}

/// The object that a record is.
pub(super) fn parse_object(path: &Path, row: u64, text: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(text)
        .map_err(|e| Error::input(path, format!("row {row}"), format!("not a JSON object ({e})")))
}

impl Surveyed {
    /// For the report, by name.
    pub(super) fn report(&self) -> Vec<AttributeReport> {
        let column = |(at, attribute): (usize, &crate::attributes::Attribute)| AttributeReport {
            name: attribute.name.clone(),
            kind: Some(attribute.kind),
            bytes_per_row: self.layout.bytes_per_row(at),
            distinct: self.layout.distinct(at),
            reason: None,
        };
        let unfiltered = |name: &str, reason: &str| AttributeReport {
            name: name.into(),
            kind: None,
            bytes_per_row: None,
            distinct: None,
            reason: Some(reason.into()),
        };
        let text = self.layout.text().iter().map(|text| unfiltered(&text.name, &text.reason));
        let left_out = self.left_out.iter().map(|name| unfiltered(name, "left out: of no type that records hold"));
        let columns = self.layout.schema().attributes().iter().enumerate().map(column);
        let mut report: Vec<AttributeReport> = columns.chain(text).chain(left_out).collect();
        report.sort_by(|a, b| a.name.cmp(&b.name));
        report
    }
}
