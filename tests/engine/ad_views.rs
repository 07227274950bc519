//! Ads with several rows in the version: one hit each, whatever orders, caps, blocks or explains them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use bigrain::ads::{
    AdQuery, Block, CapBy, Collection, CollectionOptions, Diversity, Ranking, SampledRows, VersionState, View,
};
use bigrain::build::BuildSpec;
use bigrain::dataset::{Scalar, VectorWriter};
use bigrain::live::{Change, Document, Place};
use bigrain::sample::Rng;
use bigrain::search::{Scratch, SearchParams};
use bigrain::train::Silent;
use bigrain::types::{Key, Row};

use crate::common::{ad_options, ad_query};

const ADS: usize = 900;
const DIM: usize = 16;
const LISTS: usize = 48;
const COLOURS: u64 = 30;

fn key(ad: usize) -> Key {
    (ad as Key * 7_919) % 100_003
}

fn colour(key: Key) -> u64 {
    key % COLOURS
}

/// A vector of one of twenty clusters, whichever comes.
fn vector(rng: &mut Rng) -> Vec<f32> {
    let mut centre = Rng::stream(3, rng.below(20));
    (0..DIM).map(|_| centre.normal() + 0.7 * rng.normal()).collect()
}

/// Builds an index of ads with one to five views (or the first of each alone) that lie anywhere.
fn build(dir: &Path, name: &str, views: bool) {
    let (mut rng, mut rows) = (Rng::new(1), Vec::new());
    for ad in 0..ADS {
        let of_ad: Vec<Vec<f32>> = (0..1 + ad % 5).map(|_| vector(&mut rng)).collect();
        rows.extend(of_ad.into_iter().take(if views { 5 } else { 1 }).map(|vector| (key(ad), vector)));
    }
    let path = |ending: &str| dir.join(format!("{name}.{ending}"));
    let mut writer = VectorWriter::create(&path("fbin"), Scalar::F32, DIM).unwrap();
    rows.iter().for_each(|(_, vector)| writer.write(vector).unwrap());
    writer.finish().unwrap();
    let lines = |line: &dyn Fn(Key) -> String| rows.iter().map(|(key, _)| line(*key) + "\n").collect::<String>();
    std::fs::write(path("txt"), lines(&|key| key.to_string())).unwrap();
    let record = |key| format!("{{\"ad_group\": {}, \"colour\": \"c{}\"}}", 1 + key % 40, colour(key));
    std::fs::write(path("jsonl"), lines(&record)).unwrap();
    let spec = BuildSpec {
        keys: Some(path("txt")),
        attributes: Some(path("jsonl")),
        views,
        lists: Some(LISTS),
        ..BuildSpec::new(path("fbin"), dir.join("versions").join(name))
    };
    bigrain::build::build(&spec, &Silent).unwrap();
}

fn open(dir: &Path, name: &str) -> Arc<Collection> {
    let (state, versions) = (Some(dir.join("state")), Some(dir.join("versions")));
    let options = CollectionOptions { state, versions, ..ad_options() };
    Collection::open(&dir.join("versions").join(name), options).unwrap()
}

/// A collection of ads with views, and queries.
fn collection() -> (tempfile::TempDir, Arc<Collection>, Vec<Vec<f32>>) {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), "views", true);
    let collection = open(dir.path(), "views");
    let mut rng = Rng::new(9);
    (dir, collection, (0..40).map(|_| vector(&mut rng)).collect())
}

/// Every row of the version: its ad, and the most that any of the query's vectors thinks of it.
fn relevances(view: &View<'_>, query: &AdQuery) -> Vec<(Row, Key, f32)> {
    let (base, mut hits) = (view.snapshot.base(), Vec::new());
    let rows: Vec<Row> = (0..base.rows() as Row).collect();
    let mut best: Vec<(Row, Key, f32)> = Vec::new();
    for (vector, weight) in &query.vectors {
        base.score_rows(vector, &rows, &mut base.scratch(), &mut hits).unwrap();
        best.resize(rows.len(), (0, 0, f32::NEG_INFINITY));
        for (best, hit) in best.iter_mut().zip(&hits) {
            *best = (hit.row, hit.key, best.2.max(hit.score * weight));
        }
    }
    best
}

/// What a query should find, by brute force: relevances of ads, best first, without blocked ones and within the cap.
fn truth(view: &View<'_>, query: &AdQuery) -> Vec<(Key, f32)> {
    let mut ads: BTreeMap<Key, f32> = BTreeMap::new();
    for (_, key, relevance) in relevances(view, query) {
        let best = ads.entry(key).or_insert(f32::NEG_INFINITY);
        *best = best.max(relevance);
    }
    let mut ads: Vec<(Key, f32)> = ads.into_iter().filter(|ad| !query.block.keys.contains(&ad.0)).collect();
    ads.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let (mut counts, max) = (HashMap::new(), query.ranking.diversity.as_ref().map_or(usize::MAX, |cap| cap.max));
    ads.retain(|ad| {
        let count: &mut usize = counts.entry(colour(ad.0)).or_default();
        *count += 1;
        *count <= max
    });
    ads.into_iter().skip(query.offset).take(query.limit).collect()
}

/// By relevance to two vectors, with blocked ads and two ads of a colour at most.
fn demanding(queries: &[Vec<f32>], params: SearchParams) -> AdQuery {
    let cap = Diversity { by: CapBy::Attribute("colour".into()), max: 2 };
    AdQuery {
        vectors: vec![(queries[0].clone(), 1.0), (queries[1].clone(), 0.8)],
        block: Block { keys: (0..ADS).step_by(7).map(key).collect(), ..Block::default() },
        ranking: Ranking { diversity: Some(cap), ..Ranking::by_relevance() },
        offset: 3,
        ..ad_query(&[], 40, params)
    }
}

#[test]
fn caps_and_blocks_count_ads_not_rows() {
    let (_dir, collection, queries) = collection();
    let pinned = collection.pin(None, 0);
    let (view, mut scratch) = (pinned.view(), Scratch::default());
    let mut found = 0;
    for queries in queries.chunks(2) {
        let exact = demanding(queries, SearchParams { exact: true, ..SearchParams::default() });
        let due = truth(&view, &exact);
        assert_eq!(due.len(), 40);
        for answer in [view.search(&exact, &mut scratch).unwrap(), view.search_all(&exact, &mut scratch).unwrap()] {
            let hits: Vec<(Key, f32)> = answer.hits.iter().map(|hit| (hit.key, hit.relevance)).collect();
            assert_eq!(hits, due);
        }
        let usual = demanding(queries, SearchParams::default());
        let hits = view.search(&usual, &mut scratch).unwrap().hits;
        let keys: HashSet<Key> = hits.iter().map(|hit| hit.key).collect();
        assert_eq!((hits.len(), keys.len()), (40, 40), "each ad once, and the list full");
        assert!(keys.is_disjoint(&usual.block.keys));
        assert!((0..COLOURS).all(|one| keys.iter().filter(|key| colour(**key) == one).count() <= 2));
        found += due.iter().filter(|ad| keys.contains(&ad.0)).count();
    }
    assert!(found > 20 * 40 * 8 / 10, "{found} of {}", 20 * 40);
}

#[test]
fn a_sample_of_rows_stands_for_ads_whatever_the_number_of_vectors() {
    let (_dir, collection, queries) = collection();
    let pinned = collection.pin(None, 0);
    let (view, mut scratch) = (pinned.view(), Scratch::default());
    let rows = view.snapshot.base().rows();
    for several in [1, 3] {
        let vectors = queries[..several].iter().map(|vector| (vector.clone(), 1.0)).collect();
        let query = AdQuery { vectors, ..ad_query(&[], 10, SearchParams::default()) };
        let seeds = 30;
        let estimate = |seed| {
            let sample = SampledRows::new(rows, rows / 3, seed);
            sample.missed(&view, &query, &[], &mut scratch).unwrap().len() as f64 / sample.share()
        };
        // Nothing was served: every ad was missed. The standard error is below one in a hundred.
        let mean = (0..seeds).map(estimate).sum::<f64>() / seeds as f64;
        assert!((mean / ADS as f64 - 1.0).abs() < 0.03, "{mean} of {ADS} ads with {several} vectors");
    }
}

#[test]
fn an_explanation_follows_the_view_that_was_served() {
    let (_dir, collection, queries) = collection();
    let pinned = collection.pin(None, 0);
    let (view, mut scratch) = (pinned.view(), Scratch::default());
    let params = SearchParams { nprobe: 2, candidates: 12, ..SearchParams::default() };
    let mut by_another = 0;
    for vector in &queries {
        let query = ad_query(vector, 10, params.clone());
        let relevances = relevances(&view, &query);
        let hits = view.search(&query, &mut scratch).unwrap().hits;
        for (rank, hit) in hits.iter().enumerate() {
            let best = relevances.iter().filter(|row| row.1 == hit.key).max_by(|a, b| a.2.total_cmp(&b.2)).unwrap();
            by_another += usize::from(hit.place != Place::Base(best.0));
            let explained = view.explain(&query, hit.key, &mut scratch).unwrap();
            assert_eq!((explained.found, explained.rank, explained.lost_at), (true, Some(rank), None), "{explained:?}");
        }
        // Of what was not served, the step is named at which it was lost.
        for missed in (0..ADS).step_by(97).map(key).filter(|key| hits.iter().all(|hit| hit.key != *key)) {
            let explained = view.explain(&query, missed, &mut scratch).unwrap();
            assert!(!explained.found && explained.lost_at.is_some() && explained.remedy.is_some(), "{explained:?}");
        }
    }
    assert!(by_another > 0, "no hit owed its place to a view that is not the best one: the test shows nothing");
}

/// What later rounds did is cost; how far the search went is what the last one did.
#[test]
fn figures_of_several_rounds_are_not_taken_for_those_of_one() {
    let (_dir, collection, queries) = collection();
    let pinned = collection.pin(None, 0);
    let (view, mut scratch) = (pinned.view(), Scratch::default());
    // So many ads that the lists have to be widened several times.
    let query = ad_query(&queries[0], 700, SearchParams::default());
    let answer = view.search(&query, &mut scratch).unwrap();
    assert_eq!(answer.hits.len(), 700);
    let explained = view.explain(&query, answer.hits[0].key, &mut scratch).unwrap();
    let probe = &explained.steps.iter().find(|step| step.detail.contains("were scanned")).unwrap().detail;
    let scanned: usize = probe.split("; ").last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(scanned <= LISTS && scanned < answer.stats.lists_probed as usize, "{probe}: {:?}", answer.stats);
}

#[test]
fn short_lists_are_filled_within_limits_and_not_under_load() {
    let (_dir, collection, queries) = collection();
    let pinned = collection.pin(None, 0);
    let (view, mut scratch) = (pinned.view(), Scratch::default());
    let params = SearchParams { candidates: 300, nprobe: LISTS, ..SearchParams::default() };
    let query = ad_query(&queries[0], 300, params);
    let full = view.search(&query, &mut scratch).unwrap();
    assert!(full.hits.len() == 300 && full.stats.candidates > 300, "{:?}", full.stats);
    let limited = view.search(&AdQuery { most_candidates: 320, ..query.clone() }, &mut scratch).unwrap();
    assert!(limited.hits.len() < 300 && limited.stats.candidates == 300 + 320, "{:?}", limited.stats);
    let loaded = view.search(&AdQuery { effort: 0.9, ..query.clone() }, &mut scratch).unwrap();
    assert!(loaded.hits.len() < 300 && loaded.stats.candidates == 300, "{:?}", loaded.stats);
    // Whoever names lists gets those.
    let two = SearchParams { candidates: 1_000, nprobe: 2, ..SearchParams::default() };
    let named = view.search(&ad_query(&queries[0], 300, two), &mut scratch).unwrap();
    assert_eq!((named.stats.lists_probed, named.stats.fraction), (2, 1.0));
}

fn upsert(key: Key, views: usize) -> Change {
    let mut rng = Rng::stream(8, key);
    let (vector, views) = (vector(&mut rng), (0..views).map(|_| vector(&mut rng)).collect());
    Change::Upsert(Document { key, vector, views, record: "{\"ad_group\": 3, \"colour\": \"new\"}".into() })
}

/// The best ad for a vector that an upsert has as a view.
fn finds(collection: &Arc<Collection>, change: &Change, view: usize) -> bool {
    let Change::Upsert(document) = change else { return false };
    let vector = if view == 0 { &document.vector } else { &document.views[view - 1] };
    let pinned = collection.pin(None, 0);
    let query = ad_query(vector, 1, SearchParams::default());
    let hits = pinned.view().search(&query, &mut Scratch::default()).unwrap().hits;
    hits[0].key == document.key && hits[0].score > 0.999
}

#[test]
fn a_version_with_views_takes_over_from_one_without_and_can_be_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    build(dir.path(), "plain", false);
    build(dir.path(), "views", true);
    let collection = open(dir.path(), "plain");
    let plain = collection.active().at.id.clone();
    let refused = collection.check_change(&upsert(500_000, 2)).unwrap_err().to_string();
    assert!(refused.contains("--views") && refused.contains(&plain), "{refused}");
    let views = collection.stage("views").unwrap().version;
    let (early, late) = (upsert(500_000, 2), upsert(500_001, 3));
    collection.change_ads(vec![early.clone()]).unwrap();
    assert!(finds(&collection, &early, 0) && !finds(&collection, &early, 2), "by its first view, for the time being");
    collection.activate(&views, None).unwrap();
    collection.check_change(&late).unwrap();
    collection.change_ads(vec![late.clone()]).unwrap();
    for (change, of) in [(&early, 3), (&late, 4)] {
        assert!((0..of).all(|view| finds(&collection, change, view)));
    }
    assert_eq!(collection.pin(None, 0).snapshot.documents(), ADS as u64 + 2);
    let info = |id: &str| collection.versions().into_iter().find(|info| info.version == id).unwrap();
    assert!(info(&plain).note.is_some_and(|note| note.contains("2 changes")), "{:?}", info(&plain));
    assert!(info(&views).note.is_none() && !info(&views).rolled_back);
    assert_eq!(collection.roll_back().unwrap(), plain);
    assert!(finds(&collection, &late, 0) && !finds(&collection, &late, 2));
    assert!(info(&plain).rolled_back && info(&plain).state == VersionState::Active && !info(&views).rolled_back);
    drop(collection);
    // After a restart the journal, which has all views, lies over the version without.
    let collection = open(dir.path(), "plain");
    assert!(collection.notes().iter().any(|note| note.contains("2 changes")), "{:?}", collection.notes());
    assert!(finds(&collection, &late, 0) && !finds(&collection, &late, 2));
    assert_eq!(collection.roll_back().unwrap(), views);
    assert!((0..4).all(|view| finds(&collection, &late, view)));
}

#[test]
fn an_explanation_of_a_fresh_ad_scores_its_own_rows() {
    let (_dir, collection, _) = collection();
    let changes: Vec<Change> = (500_000..500_040).map(|key| upsert(key, 4)).collect();
    collection.change_ads(changes.clone()).unwrap();
    let pinned = collection.pin(None, 0);
    let (view, mut scratch) = (pinned.view(), Scratch::default());
    for change in &changes {
        let Change::Upsert(document) = change else { panic!("an upsert") };
        let query = ad_query(&document.views[2], 5, SearchParams::default());
        let explained = view.explain(&query, document.key, &mut scratch).unwrap();
        assert_eq!((explained.found, explained.rank), (true, Some(0)), "{explained:?}");
        let verified = &explained.steps.iter().find(|step| step.detail.starts_with("its score is")).unwrap().detail;
        let score: f32 = verified.split([' ', ',']).find_map(|word| word.parse().ok()).unwrap();
        assert!((score - 1.0).abs() < 1e-3, "{verified}");
    }
}
