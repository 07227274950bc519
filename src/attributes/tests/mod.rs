//! Columns against records asked one by one, by an evaluation of filters that shares nothing with the product's.

mod errors;
mod oracle;
mod predicates;

use serde_json::{Map, Value as Json};
use std::path::Path;

use super::*;
use crate::types::Row;
use crate::vfs::{MemoryVfs, Vfs};

/// The id of the file of a test.
const ID: [u8; 16] = [7; 16];

fn object(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

/// Surveys records of which `declared` is known.
fn survey(records: &[Map<String, Json>], declared: &str) -> crate::error::Result<Layout> {
    let mut survey = Survey::new(Path::new("records.jsonl"), &parse_declared(declared)?, 1 << 20);
    records.iter().try_for_each(|record| survey.add(record))?;
    survey.finish()
}

/// The file of columns of records.
fn write(records: &[Map<String, Json>], layout: &Layout, budget: u64) -> MemoryVfs {
    let vfs = MemoryVfs::new();
    vfs.create_dir_all(Path::new("/temporary")).unwrap();
    let mut writer = ColumnsWriter::create(&vfs, Path::new("/temporary"), layout).unwrap();
    for record in records {
        writer.push(&parse_record(layout.schema(), record).unwrap()).unwrap();
    }
    writer.finish(Path::new("/attributes.bg"), ID, budget).unwrap();
    assert!(vfs.list(Path::new("/temporary")).unwrap().is_empty(), "temporary files are removed");
    vfs
}

fn open(vfs: &MemoryVfs, list_starts: &[Row]) -> crate::error::Result<Columns> {
    Columns::open(vfs, Path::new("/attributes.bg"), &ID, list_starts)
}

/// The columns of records in one list or several.
fn columns(records: &[Map<String, Json>], list_starts: &[Row], declared: &str) -> Columns {
    let layout = survey(records, declared).unwrap();
    open(&write(records, &layout, 100), list_starts).unwrap()
}

fn filter(json: Json) -> Filter {
    serde_json::from_value(json).unwrap()
}

/// The rows that pass, by the columns.
fn passing(columns: &Columns, json: Json) -> Vec<Row> {
    let mut rows = Vec::new();
    let predicate = columns.compile(&filter(json)).unwrap();
    assert!(predicate.rows(crate::simd::Kernels::detect(), usize::MAX, &mut rows));
    rows
}

#[test]
fn a_survey_infers_types_and_says_why_text_is_text() {
    let records = [
        serde_json::json!({"i": 3, "f": 1, "b": true, "k": "x", "s": ["b", "a", "b"], "o": {"x": 1}, "long": "a", "n": null}),
        serde_json::json!({"f": 1.5, "s": [], "o": 3, "long": "b".repeat(65), "late": -1}),
    ]
    .map(object);
    let layout = survey(&records, "").unwrap();
    let kinds: Vec<(&str, AttributeType)> =
        layout.schema().attributes().iter().map(|a| (a.name.as_str(), a.kind)).collect();
    use AttributeType::{Boolean, Float, Integer, Keyword, Keywords};
    assert_eq!(
        kinds,
        [("b", Boolean), ("f", Float), ("i", Integer), ("k", Keyword), ("late", Integer), ("s", Keywords)]
    );
    let reasons: BTreeMap<&str, &str> =
        layout.text().iter().map(|text| (text.name.as_str(), text.reason.as_str())).collect();
    assert_eq!(reasons.keys().copied().collect::<Vec<_>>(), ["long", "n", "o"]);
    assert!(reasons["long"].contains("row 1") && reasons["long"].contains("65 bytes"), "{reasons:?}");
    assert!(reasons["o"].contains("row 0") && reasons["n"].contains("no row"), "{reasons:?}");
    assert_eq!(layout.schema().text(), ["long", "n", "o"]);
    assert_eq!((layout.bytes_per_row(0), layout.bytes_per_row(1), layout.bytes_per_row(5)), (Some(1), Some(8), None));
    assert_eq!((layout.distinct(3), layout.distinct(5), layout.distinct(2)), (Some(1), Some(2), None));
}

#[test]
fn declarations_come_first() {
    let records = [
        serde_json::json!({"price": 3, "title": "short", "sku": "b".repeat(100), "x": 18446744073709551615u64}),
        serde_json::json!({"price": 4, "title": 7}),
    ]
    .map(object);
    let layout = survey(&records, "price:float, title:text,sku:keyword,x:float,new:keywords").unwrap();
    assert_eq!(layout.schema().kind("price"), Some(AttributeType::Float));
    assert_eq!(layout.schema().kind("sku"), Some(AttributeType::Keyword));
    assert_eq!(layout.schema().kind("new"), Some(AttributeType::Keywords));
    assert_eq!(layout.text(), [TextColumn { name: "title".into(), reason: "declared".into() }]);
    let columns = open(&write(&records, &layout, 100), &[0, 2]).unwrap();
    assert_eq!(columns.value("price", 1), Some(Value::Float(4.0)));
    assert_eq!(columns.value("new", 1), Some(Value::Null));
    assert_eq!(columns.value("sku", 1), Some(Value::Null));
    assert_eq!(columns.value("title", 0), None);
    let mut again = Survey::new(Path::new("records.jsonl"), &layout.schema().declared(), 1 << 20);
    records.iter().for_each(|record| again.add(record).unwrap());
    assert_eq!(again.finish().unwrap().schema(), layout.schema());
    assert_eq!(columns.value("price", 2), None, "there is no such row");
    assert!(passing(&columns, serde_json::json!({"must": [{"attribute": "new", "match": "a"}]})).is_empty());
}

#[test]
fn ordinals_are_equal_for_equal_values_and_in_their_order() {
    let values = [Some(-3.5), Some(2.0), None, Some(-0.0), Some(0.0), Some(1e300), Some(-1e300)];
    let records = values.map(|value| object(serde_json::json!({ "x": value })));
    let columns = columns(&records, &[0, 7], "");
    let column = columns.column("x").unwrap();
    let ordinals: Vec<Option<u64>> = (0..7).map(|row| column.ordinal(row)).collect();
    assert_eq!((ordinals[6], ordinals[2], ordinals[3]), (Some(0), None, ordinals[4]));
    assert!(
        ordinals[6] < ordinals[0]
            && ordinals[0] < ordinals[3]
            && ordinals[3] < ordinals[1]
            && ordinals[1] < ordinals[5]
    );
    assert_eq!(column.ordinal_of(&Value::Float(2.0)), ordinals[1]);
    assert_eq!(column.ordinal_of(&Value::Float(1e301)), None);
    assert_eq!(column.ordinal_of(&Value::Keyword("2".into())), None);
    assert_eq!(column.attribute().kind, AttributeType::Float);
    let held: Vec<Value> = (0..7).map(|row| column.value(row)).collect();
    assert_eq!(held[..3], [Value::Float(-3.5), Value::Float(2.0), Value::Null]);
}

#[test]
fn the_extremes_of_integers_have_room_for_null() {
    let records = [Some(i64::MIN + 1), None, Some(i64::MAX), Some(0)].map(|x| object(serde_json::json!({ "x": x })));
    let columns = columns(&records, &[0, 4], "");
    let all = |range: Json| passing(&columns, serde_json::json!({"must": [{"attribute": "x", "range": range}]}));
    assert_eq!(all(serde_json::json!({"gte": -9.3e18, "lte": 9.3e18})), [0, 2, 3]);
    assert_eq!(all(serde_json::json!({"gt": i64::MAX - 1})), [2]);
    assert_eq!(all(serde_json::json!({"gt": i64::MAX})), [0u32; 0]);
    assert_eq!(all(serde_json::json!({"lt": i64::MIN})), [0u32; 0]);
    assert_eq!(columns.value("x", 0), Some(Value::Integer(i64::MIN + 1)));
    assert_eq!(columns.value("x", 1), Some(Value::Null));
}

#[test]
fn every_width_is_used_and_gives_its_values_back() {
    for (largest, bytes) in
        [(254i64, 1), (255, 2), (65_534, 2), (65_535, 4), (u32::MAX as i64 - 1, 4), (u32::MAX as i64, 8)]
    {
        let records = [Some(-5), None, Some(largest - 5)].map(|x| object(serde_json::json!({ "x": x })));
        assert_eq!(survey(&records, "").unwrap().bytes_per_row(0), Some(bytes), "{largest}");
        let columns = columns(&records, &[0, 1, 3], "");
        let held: Vec<Option<Value>> = (0..3).map(|row| columns.value("x", row)).collect();
        assert_eq!(held, [Some(Value::Integer(-5)), Some(Value::Null), Some(Value::Integer(largest - 5))]);
        assert_eq!(passing(&columns, serde_json::json!({"must": [{"attribute": "x", "match": largest - 5}]})), [2]);
        assert!(columns.memory_bytes() >= 3 * bytes);
    }
}
