//! Patches and entities as JSON.

use super::*;

fn parse(json: &str) -> Result<Patch, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[test]
fn a_field_is_kept_cleared_or_set() {
    let patch =
        parse(r#"{"level": "ad_group", "id": 3, "parent": 7, "status": "paused", "bid_micros": null, "ctr": 0.5}"#);
    let expected =
        Patch { parent: Field::Set(7), bid_micros: Field::Clear, ctr: Field::Set(0.5), ..pause(Level::AdGroup, 3) };
    assert_eq!(patch, Ok(expected));
    let patch = parse(r#"{"level": "ad", "id": 18446744073709551615, "budget": "exhausted"}"#).unwrap();
    assert_eq!((patch.id, patch.budget), (u64::MAX, Field::Set(Budget::Exhausted)));
}

#[test]
fn times_are_seconds_or_rfc_3339() {
    let start = |value: &str| parse(&format!(r#"{{"level": "campaign", "id": 1, "start": {value}}}"#)).map(|p| p.start);
    for (text, seconds) in [
        ("0", 0),
        ("-5", -5),
        ("\"1970-01-01T00:00:10Z\"", 10),
        ("\"1970-01-01T02:00:10+02:00\"", 10),
        ("\"2026-11-23T08:00:00.9-05:00\"", 1_795_438_800),
    ] {
        assert_eq!(start(text), Ok(Field::Set(seconds)), "{text}");
    }
    assert_eq!(start("null"), Ok(Field::Clear));
    for text in ["\"2026-11-23\"", "\"2026-11-23T08:00:00\"", "\"2026-13-01T00:00:00Z\"", "\"soon\"", "\"\""] {
        let error = start(text).unwrap_err();
        assert!(error.contains(text) && error.contains("2026-12-01T00:00:00Z"), "{error}");
    }
    assert!(start("1.5").unwrap_err().contains("whole seconds"));
    let control = open(&MemoryVfs::new());
    let far = parse(r#"{"level": "campaign", "id": 1, "end": 18446744073709551615}"#).unwrap();
    assert!(control.check(&far).is_err());
}

#[test]
fn what_is_no_patch_is_refused_by_name() {
    for (json, named) in [
        (r#"{"level": "campaign", "id": 1, "sttus": "paused"}"#, "sttus"),
        (r#"{"level": "campain", "id": 1}"#, "campain"),
        (r#"{"level": "campaign"}"#, "id"),
        (r#"{"level": "campaign", "id": -1}"#, "-1"),
        (r#"{"level": "campaign", "id": 1, "status": "stopped"}"#, "stopped"),
        (r#"{"level": "campaign", "id": 1, "bid_micros": 1.5}"#, "1.5"),
        (r#"{"level": "campaign", "id": 1, "status": "paused", "status": "active"}"#, "status"),
    ] {
        let error = parse(json).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    assert_eq!("ad_group".parse::<Level>().unwrap(), Level::AdGroup);
}

#[test]
fn an_entity_shows_what_it_says_and_no_more() {
    let control = open(&MemoryVfs::new());
    let patch = r#"{"level": "campaign", "id": 7, "parent": 2, "end": 60, "ctr": 0.25, "budget": "ok"}"#;
    control.apply(vec![parse(patch).unwrap()]).unwrap();
    let shown = serde_json::to_value(control.entity(Level::Campaign, 7).unwrap()).unwrap();
    let expected =
        r#"{"level": "campaign", "id": 7, "parent": 2, "end": "1970-01-01T00:01:00Z", "ctr": 0.25, "budget": "ok"}"#;
    assert_eq!(shown, serde_json::from_str::<serde_json::Value>(expected).unwrap());
    assert_eq!(control.entity(Level::Advertiser, 2), None);
    let reason = serde_json::to_string(&Reason::Budget { level: Level::AdGroup, id: 3 }).unwrap();
    assert_eq!(reason, r#"{"reason":"budget","level":"ad_group","id":3}"#);
}
