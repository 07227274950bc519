//! Searches among some of the rows, and estimates of recall, against looking at everything.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bigrain::ads::{AdQuery, CapBy, Collection, Diversity, Ranking, SampledRecall, SampledRows};
use bigrain::attributes::Filter;
use bigrain::build::BuildSpec;
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::index::OpenOptions;
use bigrain::sample::Rng;
use bigrain::search::{Scratch, SearchParams, Searcher};
use bigrain::train::Silent;
use serde_json::json;

use crate::common::{ad_options, ad_query};

const ROWS: usize = 6_000;
const DIM: usize = 24;

/// Clusters, so that lists mean something.
fn vectors(count: usize, seed: u64) -> Vec<f32> {
    clustered(count, seed).into_iter().flat_map(|(_, vector)| vector).collect()
}

/// Vectors, each with its cluster.
fn clustered(count: usize, seed: u64) -> Vec<(usize, Vec<f32>)> {
    let mut centres = Rng::new(7);
    let centres: Vec<f32> = (0..40 * DIM).map(|_| centres.normal()).collect();
    let mut random = Rng::new(seed);
    let one = |_| {
        let centre = random.below(40) as usize;
        (centre, (0..DIM).map(|i| centres[centre * DIM + i] + 0.8 * random.normal()).collect())
    };
    (0..count).map(one).collect()
}

/// An index whose rows have a number, their cluster, and one of fifty colours.
fn collection(dir: &std::path::Path) -> Arc<Collection> {
    let (path, records) = (dir.join("v.npy"), dir.join("r.jsonl"));
    let mut writer = VectorWriter::create(&path, Scalar::F32, DIM).unwrap();
    writer.write(&vectors(ROWS, 1)).unwrap();
    writer.finish().unwrap();
    let clusters: Vec<usize> = clustered(ROWS, 1).into_iter().map(|(cluster, _)| cluster).collect();
    let record = |row: usize| {
        let colour = format!("c{}", row * 7 % 50);
        json!({"number": row, "colour": colour, "even": row.is_multiple_of(2), "cluster": clusters[row]})
    };
    std::fs::write(&records, (0..ROWS).map(|row| format!("{}\n", record(row))).collect::<String>()).unwrap();
    let spec = BuildSpec { attributes: Some(records), lists: Some(64), ..BuildSpec::new(path, dir.join("index")) };
    bigrain::build::build(&spec, &Silent).unwrap();
    let searcher = Arc::new(Searcher::open(&spec.output, &OpenOptions::default()).unwrap());
    Collection::read_only(searcher, ad_options()).unwrap()
}

fn filter(value: serde_json::Value) -> Filter {
    serde_json::from_value(value).unwrap()
}

#[test]
fn filtered_searches_find_what_passes_and_as_much_of_it_as_others() {
    let dir = tempfile::tempdir().unwrap();
    let collection = collection(dir.path());
    let pinned = collection.pin(None, 0);
    let (view, mut scratch, queries) = (pinned.view(), Scratch::default(), vectors(60, 2));
    let mut mean_recall = |filter: &Filter| {
        let mut recall = 0.0;
        for vector in queries.chunks(DIM) {
            let params = SearchParams { nprobe: 6, candidates: 60, ..SearchParams::default() };
            let query = AdQuery { filter: filter.clone(), ..ad_query(vector, 10, params) };
            let served = view.search(&query, &mut scratch).unwrap();
            let best = view.search_all(&query, &mut scratch).unwrap();
            let found = served.hits.iter().filter(|hit| best.hits.iter().any(|other| other.key == hit.key)).count();
            recall += found as f64 / best.hits.len().max(1) as f64;
            assert!(served.hits.len() == best.hits.len(), "the list is as long as it can be");
        }
        recall / 60.0
    };
    let unfiltered = mean_recall(&Filter::default());
    assert!(unfiltered > 0.8, "{unfiltered}");
    for (name, condition) in [
        ("half", json!({"must": [{"attribute": "even", "match": true}]})),
        ("a tenth", json!({"must": [{"attribute": "number", "range": {"gte": 1_000, "lt": 1_600}}]})),
        ("one in fifty", json!({"must": [{"attribute": "colour", "match": "c3"}]})),
        ("two rows", json!({"must": [{"attribute": "number", "any": [17, 4_000]}]})),
        ("none", json!({"must": [{"attribute": "colour", "match": "c99"}]})),
        ("all but a tenth", json!({"must_not": [{"attribute": "number", "range": {"lt": 600}}]})),
    ] {
        let recall = mean_recall(&filter(condition));
        let least = if name == "none" { 0.0 } else { unfiltered - 0.02 };
        assert!(recall >= least, "{name}: {recall}, without a filter {unfiltered}");
    }
}

/// Eight samples for each of three settings: of an estimate with its standard error one in twenty is more than two of these off.
#[test]
fn recall_is_estimated_from_a_sample_of_rows_within_two_standard_errors() {
    let dir = tempfile::tempdir().unwrap();
    let collection = collection(dir.path());
    let pinned = collection.pin(None, 0);
    let (view, mut scratch, queries) = (pinned.view(), Scratch::default(), vectors(400, 3));
    let even = filter(json!({"must": [{"attribute": "even", "match": true}]}));
    let samples: Vec<SampledRows> = (1..9).map(|seed| SampledRows::new(ROWS as u64, ROWS as u64 / 8, seed)).collect();
    let mut within = 0;
    for (filter, nprobe) in [(Filter::default(), 1), (Filter::default(), 4), (even, 2)] {
        let mut estimates: Vec<SampledRecall> = samples.iter().map(|_| SampledRecall::default()).collect();
        let (mut served_rows, mut missed_rows) = (0.0, 0.0);
        for vector in queries.chunks(DIM) {
            let params = SearchParams { nprobe, candidates: 40, ..SearchParams::default() };
            let query = AdQuery { filter: filter.clone(), ..ad_query(vector, 10, params) };
            let served = view.search(&query, &mut scratch).unwrap().hits;
            for (sample, estimate) in samples.iter().zip(&mut estimates) {
                let missed = sample.missed(&view, &query, &served, &mut scratch).unwrap();
                estimate.add(served.len(), &missed, sample.share());
            }
            // The truth: every row that beats the worst hit and was not served.
            let all = view.search_all(&AdQuery { limit: ROWS, ..query }, &mut scratch).unwrap().hits;
            let worst = served.last().unwrap().rank_score;
            let beaten =
                all.iter().filter(|row| row.rank_score > worst && !served.iter().any(|hit| hit.key == row.key));
            missed_rows += beaten.count() as f64;
            served_rows += served.len() as f64;
        }
        let truth = served_rows / (served_rows + missed_rows);
        let estimates: Vec<(f64, f64)> = estimates.iter().map(|estimate| estimate.estimate().unwrap()).collect();
        within += estimates.iter().filter(|(estimate, error)| (estimate - truth).abs() <= 2.0 * error).count();
        let mean = estimates.iter().map(|(estimate, _)| estimate).sum::<f64>() / 8.0;
        let error = estimates.iter().map(|(_, error)| error).sum::<f64>() / 8.0;
        assert!((mean - truth).abs() <= 2.0 * error / 8.0_f64.sqrt(), "{mean} +- {error}, truly {truth}");
        assert!(error < 0.05 && truth < 1.0, "{error} {truth}");
    }
    assert!(within >= 21, "{within} of 24");
}

/// At most `max` hits of a value of `attribute`.
fn capped(attribute: &str, max: usize) -> Ranking {
    let by = CapBy::Attribute(attribute.to_string());
    Ranking { diversity: Some(Diversity { by, max }), ..Ranking::by_relevance() }
}

#[test]
fn a_cap_that_the_nearest_lists_cannot_meet_is_met_further_away() {
    let dir = tempfile::tempdir().unwrap();
    let collection = collection(dir.path());
    let pinned = collection.pin(None, 0);
    let (view, mut scratch, vector) = (pinned.view(), Scratch::default(), vectors(1, 2));
    let of_clusters = |params| AdQuery { ranking: capped("cluster", 1), ..ad_query(&vector, 30, params) };
    let served = view.search(&of_clusters(SearchParams::default()), &mut scratch).unwrap();
    assert_eq!(served.hits.len(), 30, "one of each of 30 clusters of 40");
    // Whoever names an effort gets that.
    let few = view.search(&of_clusters(SearchParams { nprobe: 2, ..SearchParams::default() }), &mut scratch).unwrap();
    assert!(few.hits.len() < 30, "{}", few.hits.len());
    // A deadline that cuts a later round leaves the answer of the round before.
    let late = SearchParams { deadline: Some(Instant::now()), ..SearchParams::default() };
    let kept = view.search(&of_clusters(late), &mut scratch).unwrap();
    assert_eq!(kept.stats.fraction, 1.0);
    assert!(!kept.hits.is_empty() && kept.stats.rows_scanned < served.stats.rows_scanned, "{:?}", kept.stats);
}

#[test]
fn looking_at_every_ad_under_a_cap_is_the_same_in_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let collection = collection(dir.path());
    let pinned = collection.pin(None, 0);
    let (view, mut scratch) = (pinned.view(), Scratch::default());
    // Four vectors are more candidates than are kept at once.
    let vectors: Vec<(Vec<f32>, f32)> =
        vectors(4, 2).chunks(DIM).zip([1.0, 0.7, 1.2, 0.9]).map(|(v, w)| (v.to_vec(), w)).collect();
    let exact = SearchParams { exact: true, ..SearchParams::default() };
    let asked = AdQuery { vectors, ..ad_query(&[], 60, exact) };
    let all = view.search_all(&AdQuery { limit: ROWS, ..asked.clone() }, &mut scratch).unwrap().hits;
    assert_eq!(all.len(), ROWS);
    let mut counts: HashMap<u64, usize> = HashMap::new();
    let fits = |key: &u64| {
        let count = counts.entry(key * 7 % 50).or_default();
        *count += 1;
        *count <= 1
    };
    let due: Vec<u64> = all.iter().map(|hit| hit.key).filter(fits).take(60).collect();
    assert_eq!(due.len(), 50);
    let served = view.search(&AdQuery { ranking: capped("colour", 1), ..asked }, &mut scratch).unwrap();
    assert_eq!(served.hits.iter().map(|hit| hit.key).collect::<Vec<_>>(), due, "an exact search is exact");
    assert_eq!((served.stats.fraction, served.stats.vectors_read), (1.0, 4 * ROWS as u32));
}

#[test]
fn short_answers_miss_what_they_do_not_have() {
    let dir = tempfile::tempdir().unwrap();
    let collection = collection(dir.path());
    let pinned = collection.pin(None, 0);
    let (view, mut scratch, vector) = (pinned.view(), Scratch::default(), vectors(1, 2));
    let sample = SampledRows::new(ROWS as u64, ROWS as u64, 5);
    let mut asked = ad_query(&vector, 10, SearchParams::default());
    asked.filter = filter(json!({"must": [{"attribute": "number", "range": {"lt": 8}}]}));
    let served = view.search(&asked, &mut scratch).unwrap().hits;
    assert_eq!(served.len(), 8);
    assert!(sample.missed(&view, &asked, &served, &mut scratch).unwrap().is_empty(), "there are no others");
    assert_eq!(sample.missed(&view, &asked, &served[..3], &mut scratch).unwrap().len(), 5);
    assert_eq!(sample.missed(&view, &asked, &[], &mut scratch).unwrap().len(), 8);
    let mut recall = SampledRecall::default();
    recall.add(0, &[1, 2], 1.0);
    assert_eq!(recall.estimate().unwrap().0, 0.0);
    let skips = AdQuery { offset: 1, ..asked.clone() };
    let caps = AdQuery { ranking: capped("colour", 1), ..asked.clone() };
    assert!(SampledRows::can_judge(&asked) && !SampledRows::can_judge(&skips) && !SampledRows::can_judge(&caps));
}
