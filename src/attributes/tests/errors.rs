//! What is refused, and what the refusals say.

use serde_json::{Value as Json, json};

use super::*;

#[track_caller]
fn refused<T>(result: crate::error::Result<T>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("an error was expected: {parts:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

fn sample() -> Columns {
    let long = "l".repeat(80);
    let records = [json!({"price": 3, "score": 1.5, "brand": "a", "sold": true, "tags": ["x"], "title": long})];
    columns(&records.map(object), &[0, 1], "")
}

#[test]
fn filters_that_do_not_fit_are_refused_with_their_place() {
    let columns = sample();
    let compile =
        |condition: Json| columns.compile(&filter(json!({"should": [{"attribute": "price", "match": 1}, condition]})));
    refused(
        compile(json!({"attribute": "prise", "match": 1})),
        &["filter", "should/1", "\"prise\"", "did you mean \"price\""],
    );
    refused(compile(json!({"attribute": "zzzz", "match": 1})), &["\"zzzz\"", "there are brand, price"]);
    refused(compile(json!({"attribute": "title", "match": "l"})), &["\"title\" is text", "declare"]);
    refused(compile(json!({"attribute": "price", "match": "3"})), &["\"3\"", "\"price\"", "integer"]);
    refused(compile(json!({"attribute": "price", "match": 3.5})), &["3.5", "integer"]);
    refused(compile(json!({"attribute": "price", "any": [1, true]})), &["true", "integer"]);
    refused(compile(json!({"attribute": "price", "range": {"lt": "z"}})), &["\"z\"", "integer"]);
    refused(compile(json!({"attribute": "brand", "match": 3})), &["3", "keyword"]);
    refused(compile(json!({"attribute": "brand", "range": {"gte": 3}})), &["3", "keyword"]);
    refused(compile(json!({"attribute": "tags", "range": {"gte": "a"}})), &["\"tags\"", "no ranges", "match or any"]);
    refused(compile(json!({"attribute": "sold", "range": {"gte": true}})), &["\"sold\"", "no ranges"]);
    refused(compile(json!({"attribute": "score", "match": "x"})), &["\"x\"", "float"]);
    let nan = Condition { attribute: "score".into(), test: Test::Match(f64::NAN.into()) };
    refused(columns.compile(&Filter { must: vec![nan], ..Filter::default() }), &["must/0", "NaN"]);
    refused(compile(json!({"attribute": "price", "any": vec![1; 10_001]})), &["10001 values", "10000"]);
    let many = vec![json!({"attribute": "price", "match": 1}); 65];
    refused(columns.compile(&filter(json!({ "must": many }))), &["65 conditions", "64"]);
    let empty = Schema::default();
    let asked = filter(json!({"must": [{"attribute": "price", "match": 1}]}));
    refused(matches(&asked, &empty, &Record::new()), &["the index has none"]);
}

#[test]
fn filters_that_are_not_well_formed_are_refused() {
    let parse = |json: Json| {
        serde_json::from_value::<Filter>(json).map_err(|e| crate::error::Error::params("filter", e.to_string()))
    };
    refused(parse(json!({"most": []})), &["unknown field `most`", "must"]);
    refused(parse(json!({"must": [{"attribute": "a"}]})), &["\"a\"", "one of match, any and range"]);
    refused(parse(json!({"must": [{"attribute": "a", "match": 1, "any": [1]}]})), &["one of match"]);
    refused(parse(json!({"must": [{"attribute": "a", "match": [1]}]})), &["a string, a number, true or false"]);
    refused(parse(json!({"must": [{"attribute": "a", "range": {}}]})), &["no bound", "gte"]);
    refused(parse(json!({"must": [{"attribute": "a", "range": {"ge": 1}}]})), &["unknown field `ge`"]);
    assert!(parse(json!({})).unwrap().is_empty());
    assert!(!filter(json!({"must": [{"attribute": "a", "match": 18446744073709551615u64}]})).is_empty());
}

#[test]
fn records_that_do_not_fit_are_refused() {
    let columns = sample();
    let parse = |record: Json| parse_record(columns.schema(), &object(record));
    refused(parse(json!({"price": "3"})), &["\"price\"", "\"3\"", "integer"]);
    refused(parse(json!({"price": 3.5})), &["3.5", "integer"]);
    refused(parse(json!({"price": i64::MIN})), &["-9223372036854775808", "2^63 - 1"]);
    refused(parse(json!({"score": [1]})), &["[1]", "a number", "float"]);
    refused(parse(json!({"sold": 1})), &["1 is not true or false"]);
    refused(parse(json!({"tags": "x"})), &["an array of strings"]);
    refused(parse(json!({"tags": ["x", null]})), &["an array of strings"]);
    refused(parse(json!({"brand": "b".repeat(1025)})), &["1025 bytes", "1024"]);
    let record =
        parse(json!({"score": 2, "tags": ["b", "a", "b"], "unheard": {"of": 1}, "price": null, "title": 1})).unwrap();
    let due = [("score", Value::Float(2.0)), ("tags", Value::Keywords(vec!["a".into(), "b".into()]))];
    assert_eq!(record, due.map(|(name, value)| (name.to_string(), value)).into());
    assert!(parse(json!({"tags": []})).unwrap().is_empty());
}

#[test]
fn surveys_name_the_row_that_does_not_fit() {
    let survey = |records: &[Json], declared: &str| {
        super::survey(&records.iter().cloned().map(object).collect::<Vec<_>>(), declared)
    };
    refused(
        survey(&[json!({"a": 1}), json!({}), json!({"a": "x"})], ""),
        &["records.jsonl: row 2", "\"a\"", "keyword here", "integer in row 0", "a:text"],
    );
    refused(survey(&[json!({"a": true}), json!({"a": 1.5})], ""), &["row 1", "float here", "boolean in row 0"]);
    refused(survey(&[json!({"a": "x"}), json!({"a": ["x"]})], ""), &["row 1", "keywords here"]);
    refused(survey(&[json!({"a": 1}), json!({"a": u64::MAX})], ""), &["row 1", "18446744073709551615", "64 bits"]);
    refused(survey(&[json!({"a": 1}), json!({"a": "x"})], "a:integer"), &["row 1", "\"x\"", "integer"]);
    refused(survey(&[], "a:number"), &["\"number\"", "keyword, integer"]);
    refused(survey(&[], "a"), &["\"a\"", "NAME:TYPE"]);
    refused(survey(&[], "a:text,a:float"), &["declared twice"]);
    refused(survey(&[json!({"": 1})], ""), &["empty name"]);
    let many = |n: usize| (0..n).map(|i| (format!("n{i:04}"), Json::from(1))).collect::<serde_json::Map<_, _>>();
    refused(survey(&[Json::Object(many(1_001))], ""), &["more than 1000 names"]);
    refused(survey(&[Json::Object(many(101))], ""), &["101 columns", "100"]);
    assert_eq!(survey(&[Json::Object(many(100))], "").unwrap().schema().attributes().len(), 100);
    let words: Vec<Json> = (0..30_000).map(|i| json!({"a": format!("word {i}")})).collect();
    refused(survey(&words, ""), &["memory_limit", "distinct strings", "1 MiB"]);
    assert!(survey(&words, "a:text").is_ok());
}

#[test]
fn mixtures_with_strings_are_told_for_tables() {
    let mut survey = Survey::new(Path::new("t.tsv"), &parse_declared("d:text").unwrap(), 1 << 20);
    for record in [json!({"a": 1, "b": 1, "c": "x", "d": 1}), json!({"a": "x", "b": 1.5, "c": true, "d": "x"})] {
        survey.add(&object(record)).unwrap();
    }
    assert_eq!(survey.mixed_with_strings(), ["a", "c"]);
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_refused() {
    let records =
        [json!({"b": true, "f": 0.5, "i": 300, "k": "x", "s": ["p", "q"]}), json!({"i": 1, "s": ["q"]})].map(object);
    let layout = survey(&records, "").unwrap();
    let vfs = write(&records, &layout, 0);
    assert!(open(&vfs, &[0, 1, 2]).is_ok());
    refused(open(&vfs, &[0, 1]), &["attributes.bg", "META", "2 rows", "index 1"]);
    refused(Columns::open(&vfs, Path::new("/attributes.bg"), &[1; 16], &[0, 2]), &["index id"]);
    let bytes = vfs.bytes(Path::new("/attributes.bg")).unwrap();
    // A different budget for sorting makes no other file.
    assert!(write(&records, &layout, 1 << 20).bytes(Path::new("/attributes.bg")).unwrap() == bytes);
    for at in (0..bytes.len()).step_by(7) {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        vfs.put(Path::new("/attributes.bg"), &bad).unwrap();
        if let Ok(columns) = open(&vfs, &[0, 1, 2]) {
            let due = parse_record(columns.schema(), &records[0]).unwrap();
            columns.check_row(0, &due, &mut 0).unwrap_or_else(|e| panic!("byte {at}: silently different: {e}"));
        }
    }
}
