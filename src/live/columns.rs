//! The columns of attributes of a compacted index: those of the base, wide enough for the documents of the delta.

use serde_json::{Map, Value};
use std::path::Path;

use super::base_rows::{BaseTexts, NO_RECORD};
use super::prepare::parse_object;
use super::snapshot::Snapshot;
use crate::attributes::{Layout, Schema, Survey};
use crate::error::Result;
use crate::train::Watch;
use crate::types::Row;

/// Records between two reports of progress.
const STEP: u64 = 4_096;

/// Looks through all records that stay; none where no document has any. The schema stays that of the base (of one without columns:
/// none), so that no document can make compaction fail.
///
/// # Errors
/// `Io`, `Corrupt`, and what `watch` stops with.
pub(super) fn survey(snapshot: &Snapshot, dir: &Path, watch: &dyn Watch) -> Result<Option<Layout>> {
    let base = snapshot.base().index();
    if base.fields_near(0)?.is_none() && snapshot.delta().all(|row| row.record() == NO_RECORD) {
        return Ok(None);
    }
    let schema = base.attributes().map_or_else(Schema::default, |columns| columns.schema().clone());
    // Distinct strings may take what they take: those of the base are in memory already.
    let mut survey = Survey::new(dir, &schema.declared(), u64::MAX);
    if schema.attributes().is_empty() {
        return survey.finish().map(Some);
    }
    watch.begin("survey attributes", snapshot.rows());
    let mut add = |text: &str| survey.add(&known(&schema, parse_object(text)?));
    let mut texts = BaseTexts::new(base);
    for row in 0..base.manifest().rows {
        if !snapshot.is_dead(row as Row) {
            add(texts.get(row as Row)?)?;
        }
        if row % STEP == STEP - 1 {
            watch.check()?;
            watch.advance(STEP);
        }
    }
    snapshot.delta().try_for_each(|row| add(row.record()))?;
    survey.finish().map(Some)
}

/// What of a record is filtered by.
fn known(schema: &Schema, mut object: Map<String, Value>) -> Map<String, Value> {
    object.retain(|name, _| schema.kind(name).is_some());
    object
}
