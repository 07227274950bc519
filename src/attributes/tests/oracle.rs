//! Random records and filters, and what a filter means, written down once more as plainly as can be.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

pub(super) const NAMES: [&str; 5] = ["brand", "price", "score", "sold", "tags"];

/// A word of a few, so that conditions hit.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![(0..9u8).prop_map(|n| format!("w{n}")), Just(String::new()), Just("über".to_string())]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![4 => -4..5i64, 1 => -400..400i64, 1 => any::<i64>().prop_filter("no column holds it", |n| *n != i64::MIN)]
}

fn fraction() -> impl Strategy<Value = f64> {
    prop_oneof![3 => (-6..7i32).prop_map(|n| f64::from(n) / 2.0), 1 => any::<f64>().prop_filter("finite", |x| x.is_finite())]
}

/// A record; any attribute may be missing or null.
pub(super) fn record(wide: bool) -> impl Strategy<Value = Map<String, Json>> {
    let price = if wide { number().boxed() } else { (-4..5i64).boxed() };
    let values = (
        word().prop_map(Json::from),
        price.prop_map(Json::from),
        prop_oneof![fraction().prop_map(Json::from), (-3..3i64).prop_map(Json::from)],
        any::<bool>().prop_map(Json::from),
        prop::collection::vec(word(), 0..4).prop_map(Json::from),
    );
    (values, any::<[u8; 5]>()).prop_map(|((brand, price, score, sold, tags), there)| {
        let all = NAMES.into_iter().zip([brand, price, score, sold, tags]).zip(there);
        let keep = |((name, value), there): ((&str, Json), u8)| match there % 8 {
            0 => None,
            1 => Some((name.to_string(), Json::Null)),
            _ => Some((name.to_string(), value)),
        };
        all.filter_map(keep).collect()
    })
}

fn bound(name: &'static str) -> BoxedStrategy<Json> {
    match name {
        "brand" => word().prop_map(Json::from).boxed(),
        _ => prop_oneof![number().prop_map(Json::from), fraction().prop_map(Json::from)].boxed(),
    }
}

fn scalar(name: &'static str) -> BoxedStrategy<Json> {
    match name {
        "price" => prop_oneof![number().prop_map(Json::from), (-4..5i32).prop_map(|n| json!(f64::from(n)))].boxed(),
        "sold" => any::<bool>().prop_map(Json::from).boxed(),
        "tags" => word().prop_map(Json::from).boxed(),
        name => bound(name),
    }
}

fn range(name: &'static str) -> BoxedStrategy<Json> {
    let ends = [bound(name), bound(name), bound(name), bound(name)];
    (ends, 1..16u8)
        .prop_map(move |(ends, given)| {
            let all = ["gt", "gte", "lt", "lte"].into_iter().zip(ends).enumerate();
            let given = all.filter(|(at, _)| given >> at & 1 == 1).map(|(_, (end, value))| (end.to_string(), value));
            json!({"attribute": name, "range": given.collect::<Map<_, _>>()})
        })
        .boxed()
}

fn condition() -> impl Strategy<Value = Json> {
    prop::sample::select(&NAMES[..]).prop_flat_map(|name| {
        let equal = scalar(name).prop_map(move |value| json!({"attribute": name, "match": value}));
        let any = prop::collection::vec(scalar(name), 0..14)
            .prop_map(move |values| json!({"attribute": name, "any": values}));
        match name {
            "sold" | "tags" => prop_oneof![equal, any].boxed(),
            _ => prop_oneof![equal, any, range(name), range(name)].boxed(),
        }
    })
}

pub(super) fn filters() -> impl Strategy<Value = Json> {
    let part = || prop::collection::vec(condition(), 0..3);
    (part(), part(), part())
        .prop_map(|(must, should, must_not)| json!({"must": must, "should": should, "must_not": must_not}))
}

/// Whether a record passes a filter, both as JSON.
pub(super) fn passes(filter: &Json, record: &Map<String, Json>) -> bool {
    let part = |name: &str| filter[name].as_array().unwrap().iter().map(|condition| holds(condition, record)).collect();
    let (must, should, must_not): (Vec<bool>, Vec<bool>, Vec<bool>) = (part("must"), part("should"), part("must_not"));
    must.iter().all(|&h| h) && (should.is_empty() || should.contains(&true)) && !must_not.contains(&true)
}

fn holds(condition: &Json, record: &Map<String, Json>) -> bool {
    let name = condition["attribute"].as_str().unwrap();
    let one = |value: &Json| {
        let order = |to: &Json| compare(value, to, name == "score");
        match (condition.get("match"), condition.get("any"), condition.get("range")) {
            (Some(to), None, None) => order(to).is_eq(),
            (None, Some(to), None) => to.as_array().unwrap().iter().any(|to| order(to).is_eq()),
            _ => {
                let end = |end: &str| condition["range"].get(end).map(order);
                end("gt").is_none_or(|o| o.is_gt())
                    && end("gte").is_none_or(|o| o.is_ge())
                    && end("lt").is_none_or(|o| o.is_lt())
                    && end("lte").is_none_or(|o| o.is_le())
            }
        }
    };
    match record.get(name) {
        None | Some(Json::Null) => false,
        Some(Json::Array(values)) => values.iter().any(one),
        Some(value) => one(value),
    }
}

/// The order of two values; as floats, or exactly.
fn compare(a: &Json, b: &Json, as_floats: bool) -> std::cmp::Ordering {
    match (a, b) {
        (Json::String(a), Json::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Json::Bool(a), Json::Bool(b)) => a.cmp(b),
        _ if as_floats => a.as_f64().unwrap().partial_cmp(&b.as_f64().unwrap()).unwrap(),
        _ => match b.as_i64() {
            Some(b) => a.as_i64().unwrap().cmp(&b),
            None => {
                let (a, b) = (a.as_i64().unwrap(), b.as_f64().unwrap());
                // The whole part as an integer of 128 bits, exact for every float of that size, then the fraction.
                let whole = b.floor();
                i128::from(a).cmp(&(whole as i128)).then(0.0f64.partial_cmp(&(b - whole)).unwrap())
            }
        },
    }
}
