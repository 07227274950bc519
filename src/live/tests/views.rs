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

#[test]
fn a_version_without_views_does_not_take_changes_with_views() {
    let (vfs, live, model) = fresh_views(10, Metric::Ip);
    live.apply(vec![Change::Upsert(with_views(3, 2, &mut Rng::new(1)))]).unwrap();
    let plain: Model =
        model.into_iter().map(|(key, document)| (key, Document { views: Vec::new(), ..document })).collect();
    let other = MemoryVfs::new();
    build(&other, &plain, |spec| spec.metric = Metric::Ip);
    let error = live.switch(open_base(&other, &version(0)).unwrap()).unwrap_err().to_string();
    assert!(error.contains("change 1") && error.contains("--views"), "{error}");
    drop(open(&vfs, 0).unwrap());
}
