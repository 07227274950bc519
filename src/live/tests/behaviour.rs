//! What changes do, one thing at a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::error::Error;
use crate::index::Included;
use crate::types::Element;
use crate::vfs::testing::{Fault, FaultyVfs};

#[test]
fn changes_are_seen_by_the_next_request_and_not_by_those_before() {
    let (vfs, live, mut model) = fresh(40, |_| ());
    let before = live.snapshot();
    let mut rng = Rng::new(5);
    let changes = vec![
        Change::Upsert(document(20, &mut rng)),
        Change::Upsert(document(3, &mut rng)),
        Change::Delete(30),
        Change::Delete(31),
        Change::Upsert(document(3, &mut rng)),
    ];
    changes.iter().for_each(|change| apply_to(&mut model, change));
    assert_eq!(live.apply(changes).unwrap(), 5);
    check(&live, &model, "after");
    let after = live.snapshot();
    assert_eq!((before.seq(), before.delta_rows(), before.tombstones(), before.rows()), (0, 0, 0, 40));
    assert_eq!((after.seq(), after.delta_rows(), after.tombstones(), after.rows()), (5, 2, 2, 40));
    assert_eq!(after.dead_rows().count(), 2);
    assert!(after.memory_bytes() > before.memory_bytes());
    assert!(matches!(before.place(20).unwrap(), Place::Base(_)));
    assert_eq!((after.place(30).unwrap(), before.place(3).unwrap()), (Place::Nowhere, Place::Nowhere));
    live.apply(vec![Change::Delete(3), Change::Upsert(document(30, &mut rng)), Change::Delete(30)]).unwrap();
    model.remove(&3);
    check(&live, &model, "a delta document was deleted");
    assert_eq!(live.apply(Vec::new()).unwrap(), 8);
    drop(live);
    check(&open(&vfs, 0).unwrap(), &model, "opened again");
}

#[test]
fn what_cannot_be_indexed_is_refused_and_nothing_of_its_batch_applied() {
    let (_, live, model) = fresh(40, |spec| spec.dense = Element::F16);
    let good = || document(1, &mut Rng::new(1));
    let with = |change: fn(&mut Document)| {
        let mut bad = good();
        change(&mut bad);
        bad
    };
    let bad = [
        (with(|d| d.vector.truncate(3)), "dimension"),
        (with(|d| d.vector[2] = f32::NAN), "vector"),
        (with(|d| d.vector = vec![0.0; DIM]), "zero"),
        (with(|d| d.vector = vec![1e30; DIM]), "norm"),
        (with(|d| d.views = vec![vec![1.0; DIM]]), "--views"),
        (with(|d| d.record = "[1]".into()), "JSON object"),
        (with(|d| d.record = "{".into()), "JSON object"),
        (with(|d| d.record = "{\"n\": \"many\"}".into()), "attribute \"n\""),
        (with(|d| d.record = format!("{{\"a\": \"{}\"}}", "x".repeat(super::super::MAX_RECORD))), "bytes"),
    ];
    for (document, named) in bad {
        let message = live.check(&Change::Upsert(document.clone())).unwrap_err().to_string();
        assert!(message.contains(named), "{message}");
        live.apply(vec![Change::Upsert(good()), Change::Upsert(document)]).unwrap_err();
    }
    live.check(&Change::Upsert(good())).unwrap();
    assert_eq!(live.snapshot().seq(), 0);
    check(&live, &model, "nothing applied");
}

#[test]
fn the_best_of_the_delta_are_found_in_order_with_ties_by_key() {
    let (_, live, _) = fresh(40, |_| ());
    let mut rng = Rng::new(9);
    let mut changes: Vec<Change> = (0..700).map(|n| Change::Upsert(document(2_000 - n, &mut rng))).collect();
    // The same vector many times: ties at every limit.
    let same = vector(&mut rng);
    for key in [7u64, 3, 5_000, 4, 1, 6] {
        changes.push(Change::Upsert(Document { key, vector: same.clone(), views: Vec::new(), record: "{}".into() }));
    }
    changes.extend((0..50).map(|n| Change::Delete(2_000 - n * 3)));
    live.apply(changes).unwrap();
    let snapshot = live.snapshot();
    let kernels = snapshot.base().kernels();
    let (mut all, mut some) = (Vec::new(), Vec::new());
    snapshot.search_delta(kernels, &same, usize::MAX, None, &mut |_| true, &mut all).unwrap();
    assert_eq!(all.len(), 656);
    let keys: Vec<Key> = all[..6].iter().map(|&(_, place)| snapshot.delta_row(place).unwrap().key()).collect();
    assert_eq!(keys, [1, 3, 4, 6, 7, 5_000]);
    for n in [0, 1, 2, 3, 31, 32, 33, 100, 655, 656, 657] {
        snapshot.search_delta(kernels, &same, n, None, &mut |_| true, &mut some).unwrap();
        assert_eq!(some, all[..n.min(656)], "{n}");
        snapshot.search_delta(kernels, &same, n, None, &mut |place| place % 3 == 0, &mut some).unwrap();
        let allowed: Vec<_> = all.iter().copied().filter(|&(_, place)| place % 3 == 0).take(n).collect();
        assert_eq!(some, allowed, "{n}");
    }
    let unknown = serde_json::from_str(r#"{"must": [{"attribute": "m", "match": 1}]}"#).unwrap();
    let error = snapshot.search_delta(kernels, &same, 1, Some(&unknown), &mut |_| true, &mut some).unwrap_err();
    assert!(error.to_string().contains("\"m\""), "{error}");
    assert!(snapshot.search_delta(kernels, &[1.0], 1, None, &mut |_| true, &mut some).is_err());
}

#[test]
fn documents_that_are_replaced_again_and_again_take_no_more_memory() {
    let (vfs, live, mut model) = fresh(20, |_| ());
    let mut rng = Rng::new(2);
    for round in 0..60 {
        let changes: Vec<Change> = (0..200u64).map(|key| Change::Upsert(document(key, &mut rng))).collect();
        changes.iter().for_each(|change| apply_to(&mut model, change));
        live.apply(changes).unwrap();
        assert!(live.snapshot().delta_places() <= 4096 + 400, "round {round}");
    }
    assert_eq!(live.snapshot().delta_rows(), 200);
    check(&live, &model, "after many rounds");
    drop(live);
    check(&open(&vfs, 0).unwrap(), &model, "opened again");
}

#[test]
fn compaction_makes_the_index_that_was_served() {
    for metric in METRICS {
        for element in [Element::F32, Element::F16, Element::I8] {
            let what = format!("{metric} {element}");
            let (vfs, live, mut model) = fresh(90, |spec| (spec.metric, spec.dense) = (metric, element));
            let mut rng = Rng::new(3);
            let mut changes: Vec<Change> = (0..70).map(|n| Change::Upsert(document(n * 7 + 1, &mut rng))).collect();
            changes.extend((1..30).map(|n| Change::Delete(n * 20)));
            changes.iter().for_each(|change| apply_to(&mut model, change));
            live.apply(changes).unwrap();
            check(&live, &model, &what);
            let report = live.compact(live.snapshot().base(), &version(1), &Silent).unwrap();
            assert_eq!((report.rows, report.seq), (model.len() as u64, 99), "{what}");
            assert_eq!(report.added, live.snapshot().delta_rows() as u64);
            // Changes after the snapshot that was compacted.
            let late =
                vec![Change::Upsert(document(8, &mut rng)), Change::Delete(1), Change::Upsert(document(50, &mut rng))];
            late.iter().for_each(|change| apply_to(&mut model, change));
            live.apply(late).unwrap();
            let next = open_base(&vfs, &version(1)).unwrap();
            next.index().check_on(&vfs, &Silent).unwrap();
            assert_eq!(next.version(), report.id);
            let schema = |base: &Searcher| base.index().attributes().unwrap().schema().clone();
            assert_eq!(schema(&next), schema(live.snapshot().base()), "{what}");
            let (score, codes) = (search(&live, &[0.5; DIM]), next.clone());
            live.switch(next).unwrap();
            assert_eq!(search(&live, &[0.5; DIM]), score, "{what}");
            check(&live, &model, &what);
            assert_eq!((live.snapshot().delta_rows(), live.snapshot().tombstones()), (2, 3), "{what}");
            codes_find_what_is_there(&codes, &what);
            let again = live.compact(live.snapshot().base(), &version(1), &Silent).unwrap();
            assert_eq!((again.rows, again.seq), (model.len() as u64, 102));
        }
    }
}

/// Search by codes, all lists probed and a fourth of the rows verified, finds most of what exact search does.
fn codes_find_what_is_there(base: &Searcher, what: &str) {
    let params = SearchParams {
        k: 5,
        nprobe: base.index().manifest().lists,
        candidates: base.rows() as usize / 4,
        ..SearchParams::default()
    };
    let (mut hits, mut exact, mut rng) = (Vec::new(), Vec::new(), Rng::new(8));
    let mut found = 0;
    for _ in 0..20 {
        let query = vector(&mut rng);
        base.search(&query, &params, &mut base.scratch(), &mut hits).unwrap();
        base.search(&query, &SearchParams { exact: true, ..params.clone() }, &mut base.scratch(), &mut exact).unwrap();
        found += hits.iter().filter(|hit| exact.contains(hit)).count();
    }
    assert!(found >= 90, "{what}: {found} of 100");
}

#[test]
fn an_index_without_records_gets_them_from_the_delta() {
    let (vfs, live, mut model) = fresh(30, |spec| spec.attributes = None);
    model.values_mut().for_each(|document| document.record = "{}".into());
    let plain = Document { record: "{}".into(), ..document(5, &mut Rng::new(1)) };
    model.insert(5, plain.clone());
    live.apply(vec![Change::Upsert(plain)]).unwrap();
    live.compact(live.snapshot().base(), &version(1), &Silent).unwrap();
    let base = open_base(&vfs, &version(1)).unwrap();
    assert_eq!(base.fields(0).unwrap(), None);
    let with = document(6, &mut Rng::new(2));
    model.insert(6, with.clone());
    live.apply(vec![Change::Upsert(with)]).unwrap();
    live.compact(live.snapshot().base(), &version(2), &Silent).unwrap();
    live.switch(open_base(&vfs, &version(2)).unwrap()).unwrap();
    assert_eq!(live.snapshot().delta_rows(), 0);
    check(&live, &model, "with records");
}

#[test]
fn an_index_of_nothing_is_refused() {
    let (vfs, live, model) = fresh(20, |_| ());
    live.apply(model.keys().map(|key| Change::Delete(*key)).collect()).unwrap();
    let message = live.compact(live.snapshot().base(), &version(1), &Silent).unwrap_err().to_string();
    assert!(message.contains("every document is deleted"), "{message}");
    assert!(!vfs.exists(&version(1)).unwrap());
}

#[test]
fn going_back_keeps_all_changes_and_too_old_versions_are_refused() {
    let (vfs, live, mut model) = fresh(30, |_| ());
    let mut rng = Rng::new(4);
    let mut step = |live: &Live, model: &mut Model, key| {
        let changes = vec![Change::Upsert(document(key, &mut rng)), Change::Delete(key * 10)];
        changes.iter().for_each(|change| apply_to(model, change));
        live.apply(changes).unwrap();
    };
    step(&live, &mut model, 1);
    for n in 1..=2 {
        live.compact(live.snapshot().base(), &version(n), &Silent).unwrap();
        step(&live, &mut model, 1 + n as u64);
        live.switch(open_base(&vfs, &version(n)).unwrap()).unwrap();
        check(&live, &model, "forward");
        live.switch(open_base(&vfs, &version(n - 1)).unwrap()).unwrap();
        check(&live, &model, "back");
        step(&live, &mut model, 10 + n as u64);
        live.switch(open_base(&vfs, &version(n)).unwrap()).unwrap();
        check(&live, &model, "forward again");
    }
    live.compact(live.snapshot().base(), &version(3), &Silent).unwrap();
    live.switch(open_base(&vfs, &version(3)).unwrap()).unwrap();
    let message = live.switch(open_base(&vfs, &version(1)).unwrap()).unwrap_err().to_string();
    assert!(message.contains("too old"), "{message}");
    check(&live, &model, "refused");
    assert!(live.journal_bytes() > 0);
    drop(live);
    // A version without a mark of this journal takes what the journal has.
    open(&vfs, 0).unwrap();
    check(&open(&vfs, 3).unwrap(), &model, "opened");
    vfs.remove_dir_all(Path::new(LIVE)).unwrap();
    assert_eq!(open(&vfs, 3).unwrap().snapshot().seq(), 0, "another journal");
}

#[test]
fn a_journal_that_is_older_than_the_version_is_refused() {
    let (vfs, live, _) = fresh(30, |_| ());
    live.apply(vec![Change::Delete(10)]).unwrap();
    drop(live);
    let old: Vec<_> = vfs.list(Path::new(LIVE)).unwrap().into_iter().map(|p| (vfs.bytes(&p).unwrap(), p)).collect();
    let live = open(&vfs, 0).unwrap();
    live.apply(vec![Change::Delete(20)]).unwrap();
    live.compact(live.snapshot().base(), &version(1), &Silent).unwrap();
    drop(live);
    vfs.remove_dir_all(Path::new(LIVE)).unwrap();
    old.iter().for_each(|(bytes, path)| vfs.put(path, bytes).unwrap());
    let message = open(&vfs, 1).err().unwrap().to_string();
    assert!(message.contains("up to 2") && message.contains("up to 1"), "{message}");
}

#[test]
fn a_change_that_does_not_fit_another_version_is_named_and_served_on() {
    let (vfs, live, mut model) = fresh(30, |_| ());
    // Too large for f16, which the other version stores.
    let large = Document { key: 77, vector: vec![70_000.0; DIM], views: Vec::new(), record: "{}".into() };
    model.insert(77, large.clone());
    let other = MemoryVfs::new();
    build(&other, &documents(20, 7), |spec| (spec.metric, spec.dense) = (Metric::Ip, Element::F16));
    live.apply(vec![Change::Upsert(large)]).unwrap();
    let message = live.switch(open_base(&other, &version(0)).unwrap()).unwrap_err().to_string();
    assert!(message.contains("change 1") && message.contains("key 77") && message.contains("f16"), "{message}");
    check(&live, &model, "served on");
    assert!(vfs.exists(Path::new(LIVE)).unwrap());
}

#[test]
fn a_failed_write_stops_changes_and_no_search() {
    let (vfs, live, mut model) = fresh(30, |_| ());
    let first = document(1, &mut Rng::new(1));
    live.apply(vec![Change::Upsert(first.clone())]).unwrap();
    model.insert(1, first);
    drop(live);
    let base = open_base(&vfs, &version(0)).unwrap();
    let open = |faulty: &FaultyVfs| Live::open(Arc::new(faulty.clone()), Path::new(LIVE), base.clone());
    for n in 0..2 {
        let healthy = FaultyVfs::once(Arc::new(vfs.clone()), u64::MAX, Fault::Partial);
        drop(open(&healthy).unwrap());
        let faulty = FaultyVfs::once(Arc::new(vfs.clone()), healthy.operations() + n, Fault::Partial);
        let live = open(&faulty).unwrap();
        for _ in 0..2 {
            let error = live.apply(vec![Change::Delete(10)]).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            check(&live, &model, "the failed change is not visible");
        }
        drop(live);
        // An unsynced change may or may not be there afterwards; here its bytes are whole only where the sync failed.
        let reopened = open(&healthy).unwrap();
        assert_eq!(reopened.snapshot().seq(), 1 + n);
    }
}

#[test]
fn a_failed_compaction_costs_nothing() {
    let (vfs, live, model) = fresh(30, |_| ());
    live.apply(vec![Change::Upsert(model[&10].clone())]).unwrap();
    let snapshot = live.snapshot();
    let included = || Included { journal: "00".into(), seq: 1 };
    let compact = |vfs: &FaultyVfs| super::super::compact::compact(vfs, &snapshot, included(), &version(1), &Silent);
    let healthy = FaultyVfs::once(Arc::new(MemoryVfs::new()), u64::MAX, Fault::Partial);
    let id = compact(&healthy).unwrap().id;
    let mut failed = 0;
    for n in 0..healthy.operations() {
        let disk = MemoryVfs::new();
        let outcome = compact(&FaultyVfs::once(Arc::new(disk.clone()), n, Fault::Partial));
        match open_base(&disk, &version(1)) {
            Ok(base) => assert_eq!(base.version(), id, "{n}"),
            Err(_) => assert!(outcome.is_err(), "{n}"),
        }
        failed += u64::from(outcome.is_err());
        let report = compact(&FaultyVfs::once(Arc::new(disk), u64::MAX, Fault::Partial));
        assert_eq!(report.unwrap().id, id, "{n}: the next one works");
    }
    assert!(failed > healthy.operations() * 3 / 4);
    drop(vfs);
    check(&live, &model, "served on");
}

#[test]
fn many_writers_readers_and_switches_at_once() {
    const WRITERS: u64 = 4;
    const ROUNDS: u64 = 60;
    let (vfs, live, start) = fresh(40, |_| ());
    let done = AtomicBool::new(false);
    let models: Vec<Model> = std::thread::scope(|scope| {
        let writer = |n: u64| {
            let live = &live;
            move || {
                let (mut rng, mut model) = (Rng::new(100 + n), Model::new());
                for _ in 0..ROUNDS {
                    // Every writer has keys of its own.
                    let key = 1_000 + rng.below(30) * WRITERS + n;
                    let change = match rng.below(3) {
                        0 => Change::Delete(key),
                        _ => Change::Upsert(document(key, &mut rng)),
                    };
                    apply_to(&mut model, &change);
                    let seq = live.apply(vec![change.clone()]).unwrap();
                    let snapshot = live.snapshot();
                    assert!(snapshot.seq() >= seq);
                    let gone = snapshot.place(key).unwrap() == Place::Nowhere;
                    assert_eq!(gone, matches!(change, Change::Delete(_)), "its own change is visible");
                }
                model
            }
        };
        let writers: Vec<_> = (0..WRITERS).map(|n| scope.spawn(writer(n))).collect();
        let (live, vfs, done) = (&live, &vfs, &done);
        scope.spawn(move || {
            for n in 1.. {
                live.compact(live.snapshot().base(), &version(n), &Silent).unwrap();
                live.switch(open_base(vfs, &version(n)).unwrap()).unwrap();
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let snapshot = live.snapshot();
                let mut keys: Vec<Key> = search(live, &[0.4; DIM]).iter().map(|found| found.0).collect();
                keys.sort_unstable();
                assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "nothing twice");
                assert!(keys.len() >= 40 && snapshot.rows() >= 40);
            }
        });
        let models = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        models
    });
    let model = models.into_iter().fold(start, |mut all, model| {
        all.extend(model);
        all
    });
    check(&live, &model, "at the end");
}
