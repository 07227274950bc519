//! Documents with several views: their rows come and go together.

use super::*;
use crate::live::MAX_VIEWS;

/// A base of documents with one to four views.
fn fresh_views(rows: u64, metric: Metric) -> (MemoryVfs, Live, Model) {
    let (vfs, mut model) = (MemoryVfs::new(), documents(rows, 1));
    let mut rng = Rng::new(77);
    model.values_mut().for_each(|document| add_views(document, &mut rng));
    build(&vfs, &model, |spec| (spec.metric, spec.views) = (metric, true));
    let live = open(&vfs, 0).unwrap();
    (vfs, live, model)
}

fn with_views(key: Key, count: usize, rng: &mut Rng) -> Document {
    Document { views: (0..count).map(|_| vector(rng)).collect(), ..document(key, rng) }
}

#[test]
fn an_upsert_replaces_all_views_and_a_delete_takes_all_out() {
    for metric in METRICS {
        let (vfs, live, mut model) = fresh_views(30, metric);
        check(&live, &model, "as built");
        let (mut rng, before) = (Rng::new(3), live.snapshot());
        let most = live.snapshot().base().views().unwrap().most as usize;
        assert!(most > 2, "some documents have several views");
        // More views than before, fewer, one, the same key twice, a new one, one that goes.
        let changes = vec![
            Change::Upsert(with_views(10, 5, &mut rng)),
            Change::Upsert(with_views(20, 1, &mut rng)),
            Change::Upsert(with_views(30, 0, &mut rng)),
            Change::Upsert(with_views(40, 2, &mut rng)),
            Change::Upsert(with_views(40, 3, &mut rng)),
            Change::Upsert(with_views(7, 4, &mut rng)),
            Change::Delete(50),
            Change::Upsert(with_views(60, 2, &mut rng)),
            Change::Delete(60),
        ];
        changes.iter().for_each(|change| apply_to(&mut model, change));
        live.apply(changes).unwrap();
        check(&live, &model, "in the delta");
        assert_eq!(live.snapshot().delta_rows(), 6 + 2 + 1 + 4 + 5);
        assert_eq!(before.places(50).unwrap().len(), before.base().index().rows(50).unwrap().len(), "as it was");
        live.compact(live.snapshot().base(), &version(1), &Silent).unwrap();
        let compacted = open_base(&vfs, &version(1)).unwrap();
        compacted.index().check_on(&vfs, &Silent).unwrap();
        let views = compacted.views().unwrap();
        assert_eq!(views.parents, model.len() as u64);
        assert_eq!(views.most as usize, model.values().map(|document| 1 + document.views.len()).max().unwrap());
        live.switch(compacted).unwrap();
        assert_eq!(live.snapshot().delta_rows(), 0);
        check(&live, &model, "compacted");
        drop(live);
        check(&open(&vfs, 0).unwrap(), &model, "the journal over the first version");
    }
}

#[test]
fn the_delta_gives_each_document_once_with_its_best_view() {
    let (_, live, _) = fresh_views(20, Metric::Cosine);
    let (mut rng, same) = (Rng::new(4), vector(&mut Rng::new(8)));
    let mut documents: Vec<Document> = (0..150).map(|n| with_views(1_000 - n, (n % 5) as usize, &mut rng)).collect();
    // Ties within a document and between documents.
    for (key, at) in [(9, 0), (4, 2), (6, 1)] {
        let mut tied = with_views(key, 3, &mut rng);
        tied.views[at] = same.clone();
        tied.views[2] = same.clone();
        documents.push(tied);
    }
    live.apply(documents.iter().cloned().map(Change::Upsert).collect()).unwrap();
    let (snapshot, mut found) = (live.snapshot(), Vec::new());
    let (base, query) = (snapshot.base(), snapshot.base().dense_query(&same).unwrap());
    let layout = layout_of(base);
    let best = |document: &Document| {
        let views = entry(document, base).unwrap().views;
        let scores = views.iter().map(|view| layout.record(&view.record).score(base.kernels(), base.metric(), &query));
        scores.fold(f32::NEG_INFINITY, f32::max)
    };
    let mut due: Vec<(Key, f32)> = documents.iter().map(|document| (document.key, best(document))).collect();
    sort(&mut due);
    assert_eq!(due[..3].iter().map(|of| of.0).collect::<Vec<_>>(), [4, 6, 9], "the ties are best");
    for n in [0, 1, 2, 3, 5, 31, 32, 33, 64, 152, 153, 154, usize::MAX] {
        snapshot.search_delta(base.kernels(), &same, n, None, &mut |_| true, &mut found).unwrap();
        let rows = found.iter().map(|&(score, place)| (snapshot.delta_row(place).unwrap(), score));
        let keys: Vec<(Key, f32)> = rows.clone().map(|(row, score)| (row.key(), score)).collect();
        assert_eq!(keys, due[..n.min(153)], "{n}");
        for (row, score) in rows {
            assert_eq!(row.record.score(base.kernels(), base.metric(), &query), score, "the place is the best view's");
        }
    }
}

#[test]
fn views_that_cannot_be_indexed_are_refused_by_number() {
    let (_, live, model) = fresh_views(10, Metric::Cosine);
    let good = || with_views(3, 3, &mut Rng::new(1));
    let with = |change: fn(&mut Document)| {
        let mut bad = good();
        change(&mut bad);
        bad
    };
    let bad = [
        (with(|d| d.views[1] = vec![0.0; DIM]), "view 2"),
        (with(|d| d.views[2][0] = f32::NAN), "view 3"),
        (with(|d| d.views[0] = vec![1.0; DIM - 1]), "dimension"),
        (with(|d| d.views = vec![vec![1.0; DIM]; MAX_VIEWS + 1]), "1001"),
    ];
    for (document, named) in bad {
        let message = live.check(&Change::Upsert(document.clone())).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
        live.apply(vec![Change::Upsert(good()), Change::Upsert(document)]).unwrap_err();
    }
    check(&live, &model, "nothing applied");
}

/// `model` with the first view of each document alone.
fn first_views(model: &Model) -> Model {
    model.iter().map(|(&key, document)| (key, Document { views: Vec::new(), ..document.clone() })).collect()
}

/// A version without views stays attached when one with views is activated: it must not stand in the way of changes, and it is what is
/// rolled back to.
#[test]
fn a_version_without_views_takes_the_first_view_of_each_document() {
    let (vfs, live, mut model) = fresh_views(10, Metric::Ip);
    let (views, mut rng) = (live.snapshot().base().clone(), Rng::new(1));
    let plain = MemoryVfs::new();
    build(&plain, &first_views(&model), |spec| spec.metric = Metric::Ip);
    live.attach(open_base(&plain, &version(0)).unwrap()).unwrap();
    let changes = vec![
        Change::Upsert(with_views(3, 2, &mut rng)),
        Change::Upsert(with_views(20, 4, &mut rng)),
        Change::Upsert(with_views(30, 0, &mut rng)),
        Change::Delete(40),
    ];
    changes.iter().for_each(|change| apply_to(&mut model, change));
    changes.iter().for_each(|change| live.check(change).unwrap());
    live.apply(changes).unwrap();
    check(&live, &model, "with views");
    assert_eq!(live.snapshot().first_views_only(), 0);
    // Alone, it refuses views; what it followed, and what it replays, has the first ones.
    live.detach(&views);
    let snapshot = live.snapshot();
    assert!(snapshot.base().views().is_none() && snapshot.first_views_only() == 2);
    check(&live, &first_views(&model), "without views");
    let refused = live.check(&Change::Upsert(with_views(3, 1, &mut rng))).unwrap_err().to_string();
    assert!(refused.contains("--views") && refused.contains(snapshot.base().version()), "{refused}");
    live.apply(vec![Change::Upsert(with_views(3, 1, &mut rng))]).unwrap_err();
    drop(live);
    let live = Live::open(Arc::new(vfs.clone()), Path::new(LIVE), open_base(&plain, &version(0)).unwrap()).unwrap();
    check(&live, &first_views(&model), "opened over the journal");
    assert_eq!(live.snapshot().first_views_only(), 2);
    drop(live);
    check(&open(&vfs, 0).unwrap(), &model, "the journal has all views");
}

/// As many documents as are wanted, and as many rows as are kept before the best are chosen: by key they stand in another order.
#[test]
fn no_better_document_is_passed_over_for_the_order_of_keys() {
    let (_, live, _) = fresh_views(5, Metric::Ip);
    for (n, rows) in [(100usize, 2usize), (64, 2), (32, 2), (33, 3)] {
        // The last key of the first `n` scores most, the others little; a later one lies between.
        let along = |score: f32| {
            let mut vector = vec![0.0; DIM];
            vector[0] = score;
            vector
        };
        let document = |key: Key, score: f32| Document {
            vector: along(score),
            views: vec![along(score); rows - 1],
            ..document(key, &mut Rng::new(key))
        };
        let score = |key: usize| match key {
            key if key == n => 90.0,
            key if key == n + n / 5 => 80.0,
            _ => 10.0,
        };
        let documents = (1..=n + n / 2).map(|key| Change::Upsert(document(key as Key, score(key)))).collect();
        live.apply((1..=150).map(Change::Delete).collect()).unwrap();
        live.apply(documents).unwrap();
        let (snapshot, mut found) = (live.snapshot(), Vec::new());
        snapshot.search_delta(snapshot.base().kernels(), &along(1.0), n, None, &mut |_| true, &mut found).unwrap();
        let keys: Vec<Key> = found.iter().map(|&(_, place)| snapshot.delta_row(place).unwrap().key()).collect();
        assert_eq!((keys.len(), &keys[..3]), (n, &[n as Key, (n + n / 5) as Key, 1][..]), "{n} of {rows} views");
    }
}

#[test]
fn documents_are_counted_beside_rows() {
    let (_, live, model) = fresh_views(20, Metric::Cosine);
    let counts = |live: &Live| {
        let snapshot = live.snapshot();
        (snapshot.documents(), snapshot.delta_documents(), snapshot.dead_documents())
    };
    assert_eq!(counts(&live), (20, 0, 0));
    let mut rng = Rng::new(6);
    let many = *model.iter().find(|(_, document)| document.views.len() > 1).unwrap().0;
    live.apply(vec![
        Change::Upsert(with_views(3, 4, &mut rng)),
        Change::Upsert(with_views(many, 2, &mut rng)),
        Change::Upsert(with_views(many, 1, &mut rng)),
        Change::Delete(many),
        Change::Delete(200),
        Change::Upsert(with_views(5, 0, &mut rng)),
    ])
    .unwrap();
    assert_eq!(counts(&live), (20, 2, 2));
    assert_eq!(live.snapshot().delta_rows(), 6);
}
