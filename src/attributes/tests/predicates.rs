//! Filters over columns and over single records against the oracle.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::oracle::{filters, passes, record};
use super::*;
use crate::simd::Kernels;

const DECLARED: &str = "brand:keyword,price:integer,score:float,sold:boolean,tags:keywords";

/// Bits of the rows that pass, for any run of rows.
fn bits(predicate: &Predicate, kernels: &Kernels, first: usize, rows: usize) -> Vec<bool> {
    let (mut words, mut scratch) = (vec![u64::MAX; 3], PredicateScratch::default());
    predicate.words(kernels, first as Row, rows, &mut words, &mut scratch);
    assert_eq!(words.len(), rows.div_ceil(64));
    let all: Vec<bool> = (0..words.len() * 64).map(|at| words[at / 64] >> (at % 64) & 1 == 1).collect();
    assert!(!all[rows..].contains(&true), "bits beyond the rows");
    all[..rows].to_vec()
}

fn check(records: &[Map<String, Json>], list_starts: &[Row], json: &Json, runs: &[(usize, usize)]) {
    let columns = columns(records, list_starts, DECLARED);
    let filter: Filter = serde_json::from_value(json.clone()).unwrap();
    let due: Vec<bool> = records.iter().map(|record| passes(json, record)).collect();
    for (row, record) in records.iter().enumerate() {
        let record = parse_record(columns.schema(), record).unwrap();
        assert_eq!(matches(&filter, columns.schema(), &record).unwrap(), due[row], "{record:?} of {json}");
    }
    let predicate = columns.compile(&filter).unwrap();
    let all: Vec<Row> = (0..records.len()).filter(|&row| due[row]).map(|row| row as Row).collect();
    for kernels in Kernels::all() {
        assert_eq!(bits(&predicate, kernels, 0, records.len()), due, "{json} over {records:?}");
        for &(first, rows) in runs {
            let first = first % records.len();
            let rows = rows.min(records.len() - first);
            assert_eq!(bits(&predicate, kernels, first, rows), due[first..first + rows], "{rows} rows from {first}");
        }
        let mut rows = vec![9];
        assert!(predicate.rows(kernels, all.len(), &mut rows));
        assert_eq!(rows, all);
        assert!(all.is_empty() || !predicate.rows(kernels, all.len() - 1, &mut rows) || list_starts.len() == 2);
    }
    for (list, range) in list_starts.windows(2).enumerate() {
        let has = due[range[0] as usize..range[1] as usize].contains(&true);
        assert!(predicate.may_pass(list as u32) || !has, "list {list} was passed over");
    }
    assert_eq!(predicate.share(), all.len() as f32 / records.len() as f32);
    let again: Filter = serde_json::from_value(serde_json::to_value(&filter).unwrap()).unwrap();
    assert_eq!(again, filter);
}

fn starts(rows: usize, cuts: &[usize]) -> Vec<Row> {
    let mut starts: Vec<Row> = cuts.iter().map(|cut| (cut % (rows + 1)) as Row).chain([0, rows as Row]).collect();
    starts.sort_unstable();
    starts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn columns_and_records_answer_as_the_definition_does(
        records in any::<bool>().prop_flat_map(|wide| prop::collection::vec(record(wide), 1..150)),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
        filters in prop::collection::vec(filters(), 1..4),
        runs in prop::collection::vec((any::<usize>(), 0..200usize), 3),
    ) {
        let starts = starts(records.len(), &cuts);
        for filter in &filters {
            check(&records, &starts, filter, &runs);
        }
    }

    #[test]
    fn what_was_stored_comes_back(records in prop::collection::vec(record(true), 1..60)) {
        let columns = columns(&records, &[0, records.len() as Row], DECLARED);
        let mut entries = 0;
        for (row, record) in records.iter().enumerate() {
            let due = parse_record(columns.schema(), record).unwrap();
            for name in super::oracle::NAMES {
                let held = columns.value(name, row as Row).unwrap();
                prop_assert_eq!(&held, due.get(name).unwrap_or(&Value::Null));
            }
            columns.check_row(row as Row, &due, &mut entries).unwrap();
            let mut other = due.clone();
            other.insert("price".into(), Value::Integer(i64::MAX));
            other.insert("tags".into(), Value::Keywords(vec!["unheard of".into()]));
            prop_assert!(columns.check_row(row as Row, &other, &mut 0).is_err());
        }
        columns.check_entries(entries).unwrap();
        prop_assert!(columns.check_entries(entries + 1).is_err());
    }
}

/// Many values over each width: a table of bits for the narrow ones, a search in ranges for the wide ones.
#[test]
fn many_values_pass_as_few_do() {
    for factor in [1i64, 2, 1_000, 100_000_000_000] {
        let records: Vec<_> =
            (0..300).map(|row| object(json!({"x": (row % 200) * factor, "k": format!("{:03}", row % 200)}))).collect();
        let columns = columns(&records, &[0, 100, 300], "");
        let chosen = |n: i64| n % 3 == 0 && n < 150;
        let some = (0..200).filter(|&n| chosen(n));
        let numbers: Vec<i64> = some.clone().map(|n| n * factor).collect();
        let words: Vec<String> = some.map(|n| format!("{n:03}")).collect();
        let due: Vec<Row> = (0..300).filter(|&row| chosen(i64::from(row) % 200)).collect();
        assert_eq!(passing(&columns, json!({"must": [{"attribute": "x", "any": numbers}]})), due, "{factor}");
        assert_eq!(passing(&columns, json!({"must": [{"attribute": "k", "any": words}]})), due, "{factor}");
    }
}

#[test]
fn the_share_of_a_large_index_is_estimated_from_a_sample() {
    let rows = 200_000u32;
    let records: Vec<_> = (0..rows).map(|row| object(json!({"x": row % 100, "once": row == 77_777}))).collect();
    let columns = columns(&records, &[0, 50_000, rows], "");
    let share = |json| columns.compile(&filter(json)).unwrap().share();
    let tenth = share(json!({"must": [{"attribute": "x", "range": {"lt": 10}}]}));
    assert!((0.08..0.12).contains(&tenth), "{tenth}");
    assert_eq!(share(json!({})), 1.0);
    let once = share(json!({"must": [{"attribute": "once", "match": true}]}));
    assert!(once > 0.0 && once < 1e-4, "{once}");
    assert_eq!(passing(&columns, json!({"must": [{"attribute": "once", "match": true}]})), [77_777]);
}
