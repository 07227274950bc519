//! Versions: staged, measured, activated, split and rolled back; compaction into them.

use super::*;

#[test]
fn versions_are_staged_activated_and_rolled_back() {
    let place = Place::new();
    build(place.dir.path(), "versions/half", 0..ROWS / 2);
    let server = place.serve();
    let id_of = |reply: &Reply| reply.json()["version"].as_str().unwrap().to_string();
    let base =
        ok(&send(server.address, "GET", &format!("{C}/versions"), &[], b""))["active"].as_str().unwrap().to_string();
    for (path, status) in [("../base", 422), ("", 422), ("nothing", 422), ("/etc", 422)] {
        assert_eq!(admin(server.address, "versions", json!({"path": path})).status, status, "{path}");
    }
    let staged = admin(server.address, "versions", json!({"path": "half"}));
    assert_eq!(staged.status, 200, "{}", staged.text());
    let half = id_of(&staged);
    assert_eq!(admin(server.address, "activate", json!({"version": "ffff"})).status, 422);
    let conflict = admin(server.address, "activate", json!({"version": half, "if_current": half}));
    assert_eq!(conflict.status, 409, "{}", conflict.text());
    put(server.address, &[ad(8_000, 4_000)]);
    ok(&admin(server.address, "activate", json!({"version": half, "if_current": base})));
    let answer = search(server.address, json!({"vector": vector(ROWS - 1), "limit": 300, "params": {"exact": true}}));
    assert_eq!(answer["index_version"], half);
    assert_eq!(keys(&answer).len(), ROWS / 2 + 1, "what was written before follows");
    ok(&admin(server.address, "rollback", json!({})));
    let listed = ok(&send(server.address, "GET", &format!("{C}/versions"), &[], b""));
    let rolled_back = |version: &&Value| version["rolled_back"] == json!(true);
    let told: Vec<&Value> = listed["versions"].as_array().unwrap().iter().filter(rolled_back).collect();
    assert!(told.len() == 1 && told[0]["version"] == json!(base), "who rolled back stays there: {listed}");
    let answer = search(server.address, json!({"vector": vector(ROWS - 1), "limit": 1}));
    assert_eq!((keys(&answer), &answer["index_version"]), (vec![ROWS as u64 - 1], &json!(base)));
    ok(&admin(server.address, "split", json!({"version": half, "share": 0.5})));
    let version_of = |key: String| {
        search(server.address, json!({"vector": vector(1), "limit": 1, "split_key": key}))["index_version"].clone()
    };
    let chosen: Vec<Value> = (0..40).map(|i| version_of(format!("user {i}"))).collect();
    let share = chosen.iter().filter(|version| **version == half).count();
    assert!((8..=32).contains(&share), "{share} of 40");
    assert_eq!((0..40).map(|i| version_of(format!("user {i}"))).collect::<Vec<_>>(), chosen, "a key keeps its version");
    // Requests without a key are spread, whatever they call themselves.
    let named = |i: u32| {
        let body = json!({"vector": vector(1), "limit": 1}).to_string();
        let headers = [("content-type", "application/json"), ("x-request-id", &*format!("mine-{i}"))];
        ok(&send(server.address, "POST", &format!("{C}/search"), &headers, body.as_bytes()))["index_version"].clone()
    };
    let share = (0..40).filter(|&i| named(i) == half).count();
    assert!((8..=32).contains(&share), "{share} of 40");
    drop(server);
    // The split outlives the server.
    let server = place.serve();
    let again =
        search(server.address, json!({"vector": vector(1), "limit": 1, "split_key": "user 0"}))["index_version"]
            .clone();
    assert_eq!(again, chosen[0]);
    assert_eq!(ok(&admin(server.address, "split", json!({})))["split"], Value::Null);
}

/// Gives an index canary queries whose answers say that they were `better` than what there is.
fn with_canary(index: &Path, better: f32) {
    let searcher = Searcher::open(index, &OpenOptions::default()).unwrap();
    let queries: Vec<f32> = (0..30).flat_map(|i| vector(7_000 + i)).collect();
    write_canary(&RealVfs, index, &queries).unwrap();
    let mut manifest = Manifest::read(&RealVfs, index).unwrap();
    let id = manifest.id_bytes().unwrap();
    let (folder, entry) = (index.join(&manifest.folder), manifest.files.canary.clone().unwrap());
    let path = folder.join(&entry.name);
    let mut canary = Canary::read(&RealVfs, &path, &id, searcher.dim()).unwrap();
    canary.scores.iter_mut().for_each(|score| *score += better);
    manifest.files.canary = Some(canary.write(&RealVfs, &path, id).unwrap());
    manifest.write(&RealVfs, index).unwrap();
}

#[test]
fn a_version_that_does_not_find_what_it_should_is_not_served() {
    let place = Place::new();
    build(place.dir.path(), "versions/good", 0..ROWS - 10);
    build(place.dir.path(), "versions/bad", 0..ROWS - 20);
    with_canary(&place.path("versions/good"), 0.0);
    with_canary(&place.path("versions/bad"), 1.0);
    let server = place.serve();
    let stage = |path: &str| ok(&admin(server.address, "versions", json!({"path": path})));
    let (good, bad) = (stage("good"), stage("bad"));
    assert_eq!((&good["state"], &bad["state"]), (&json!("staged"), &json!("refused")), "{good} {bad}");
    assert!(good["canary"]["recall"].as_f64() > Some(0.8) && bad["canary"]["recall"] == json!(0.0), "{good} {bad}");
    let refused = admin(server.address, "activate", json!({"version": bad["version"]}));
    assert_eq!(refused.status, 422);
    assert!(refused.json()["detail"].as_str().unwrap().contains("canary"), "{}", refused.text());
    // A version with a flipped bit is refused, with the place of the damage, and the active one serves on.
    build(place.dir.path(), "versions/torn", 0..ROWS - 30);
    let manifest = Manifest::read(&RealVfs, &place.path("versions/torn")).unwrap();
    let codes = place.path("versions/torn").join(&manifest.folder).join(&manifest.files.codes.name);
    let mut bytes = std::fs::read(&codes).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&codes, bytes).unwrap();
    let torn = admin(server.address, "versions", json!({"path": "torn"}));
    assert_eq!((torn.status, &torn.json()["code"]), (422, &json!("version_refused")), "{}", torn.text());
    assert!(torn.json()["detail"].as_str().unwrap().contains("codes.bg"), "{}", torn.text());
    ok(&admin(server.address, "activate", json!({"version": good["version"]})));
    // Compaction asks the same queries of the version that it makes.
    put(server.address, &[ad(9_500, 1)]);
    ok(&admin(server.address, "compact", json!({})));
    let versions = ok(&send(server.address, "GET", &format!("{C}/versions"), &[], b""));
    let active = versions["versions"].as_array().unwrap().iter().find(|version| version["state"] == "active").unwrap();
    assert!(active["canary"]["recall"].as_f64() > Some(0.8), "{versions}");
}

#[test]
fn versions_switch_under_load_without_a_failed_or_mixed_answer() {
    let place = Place::new();
    build(place.dir.path(), "versions/other", 0..ROWS - 50);
    let server = place.serve();
    let other =
        ok(&admin(server.address, "versions", json!({"path": "other"})))["version"].as_str().unwrap().to_string();
    let base =
        ok(&send(server.address, "GET", &format!("{C}/versions"), &[], b""))["active"].as_str().unwrap().to_string();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|client| {
            let (stop, address, other) = (stop.clone(), server.address, other.clone());
            spawn(move || {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) {
                    let row = ROWS - 1 - (answers + client) % 40;
                    let answer = search(address, json!({"vector": vector(row), "limit": 1, "params": {"exact": true}}));
                    // The row is in one of the versions only, and every answer says which one it is of.
                    let found = keys(&answer)[0] == row as u64;
                    assert_eq!(found, answer["index_version"] != other, "{answer}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    for switch in 0..100 {
        let version = if switch % 2 == 0 { &other } else { &base };
        ok(&admin(server.address, "activate", json!({"version": version})));
    }
    sleep(Duration::from_millis(100));
    stop.store(true, Ordering::Relaxed);
    let answers: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
    assert!(answers > 30, "{answers}");
}

#[test]
fn changes_compact_themselves_in_the_background() {
    let place = Place::new();
    let server = place.serve_with(|config| config.ads.compact_changes = 20);
    put(server.address, &(0..25).map(|i| ad(6_000 + i, 2_000 + i as usize)).collect::<Vec<_>>());
    let begun = Instant::now();
    while ok(&send(server.address, "GET", C, &[], b""))["delta_rows"] != 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it was not compacted");
        sleep(Duration::from_millis(50));
    }
    assert_eq!(keys(&search(server.address, json!({"vector": vector(2_007), "limit": 1}))), [6_007]);
}
