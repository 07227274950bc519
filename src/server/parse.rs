//! From the bytes of a request to the types of `api`, or to a [`Problem`] that says where they went wrong.
//!
//! Parsing is done twice only when it fails: the first pass is plain `serde_json`, the second tracks the path for the
//! pointer. Text that is not JSON is 400 with line and column; JSON that does not mean a request is 422 with a pointer.

use axum::http::{StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

use super::nearest::nearest;
use super::problem::Problem;
use crate::dataset::parse_npy;

/// Parses a JSON body.
pub(super) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // Serde would take an array for the fields of a struct in their order, which is nobody's meaning.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::meaning("invalid_value", "", "the body is a JSON array", "send one JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| diagnose::<T>(body, &error))
}

fn diagnose<T: DeserializeOwned>(body: &[u8], error: &serde_json::Error) -> Problem {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let tracked = serde_path_to_error::deserialize::<_, T>(&mut deserializer).err();
    let pointer = tracked.as_ref().map(|tracked| pointer(tracked.path()));
    let text = error.to_string();
    // serde_json gives this case no kind of its own; a test pins the words.
    if text.starts_with("number out of range") {
        let detail = format!("a number is beyond what a float can hold ({text})");
        return Problem::meaning("not_finite", pointer.unwrap_or_default(), detail, "send finite 32-bit floats");
    }
    if !error.is_data() {
        let remedy = "send one JSON object; JSON has no NaN, Infinity, comments or trailing commas";
        return Problem::new(
            StatusCode::BAD_REQUEST,
            "malformed_json",
            format!("the body is not JSON: {text}"),
            remedy,
        );
    }
    let pointer = pointer.unwrap_or_default();
    match unknown_field(&text) {
        Some((name, known)) => {
            let offer = nearest(name, known.iter().copied());
            let remedy =
                offer.map_or(format!("known fields are {}", known.join(", ")), |n| format!("did you mean {n:?}?"));
            let parent = pointer.strip_suffix(&format!("/{}", escape(name))).unwrap_or(&pointer);
            let place = format!("{parent}/{}", escape(name));
            Problem::meaning("unknown_field", place, format!("unknown field {name:?}"), remedy)
        }
        None => Problem::meaning("invalid_value", pointer, text, "send a value of the type named in the detail"),
    }
}

/// Parses a query string.
pub(super) fn query_string<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let parsed = axum::extract::Query::<T>::try_from_uri(uri);
    parsed.map(|query| query.0).map_err(|rejection| {
        let text = rejection.body_text();
        let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        let problem = |code, remedy| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, text, remedy);
        match text.find("unknown field").and_then(|at| unknown_field(&text[at..])) {
            Some((name, known)) => {
                let offer = nearest(name, known.iter().copied());
                let known = || format!("known parameters are {}", known.join(", "));
                problem("unknown_parameter", offer.map_or_else(known, |n| format!("did you mean {n}?")))
            }
            None => problem("invalid_parameter", "correct the query string".to_string()),
        }
    })
}

/// The name refused and the names known, from serde's message ("unknown field `a`, expected one of `b`, `c`").
fn unknown_field(message: &str) -> Option<(&str, Vec<&str>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (name, rest) = rest.split_once("`, expected ")?;
    Some((name, rest.split('`').skip(1).step_by(2).collect()))
}

/// The JSON pointer of RFC 6901.
fn pointer(path: &Path) -> String {
    let step = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", escape(key)),
        Segment::Enum { variant } => format!("/{}", escape(variant)),
        Segment::Unknown => String::new(),
    };
    path.iter().map(step).collect()
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Parses a `.npy` body of rows of `dim` values, in C order.
pub(super) fn npy(body: &[u8], dim: usize) -> Result<Vec<Vec<f32>>, Problem> {
    let (columns, values) = parse_npy("body", body).map_err(|error| {
        let remedy = "send what numpy.save writes for a C-ordered array of float32 or float16, (queries, dim)";
        Problem::new(StatusCode::BAD_REQUEST, "malformed_npy", error.to_string(), remedy)
    })?;
    if columns != dim {
        let detail = format!("the array has {columns} columns; the index has {dim} dimensions");
        let remedy = format!("send {dim} columns");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong_dimension", detail, remedy));
    }
    Ok(values.chunks_exact(dim).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::super::api::{BatchRequest, NpyParams, SearchRequest};
    use super::*;

    fn refused<T: DeserializeOwned + std::fmt::Debug>(body: &str) -> (u16, &'static str, String, String) {
        let problem = json::<T>(body.as_bytes()).unwrap_err();
        (problem.status.as_u16(), problem.code, problem.pointer.unwrap_or_default(), problem.remedy)
    }

    #[test]
    fn pointers_lead_to_the_bad_value() {
        let (status, code, pointer, _) = refused::<SearchRequest>(r#"{"vector": [1, "a"]}"#);
        assert_eq!((status, code, pointer.as_str()), (422, "invalid_value", "/vector/1"));
        let (_, code, pointer, remedy) = refused::<SearchRequest>(r#"{"params": {"nprobee": 3}}"#);
        assert_eq!((code, pointer.as_str()), ("unknown_field", "/params/nprobee"));
        assert!(remedy.contains("\"nprobe\""), "{remedy}");
        let (_, _, pointer, _) = refused::<BatchRequest>(r#"{"queries": [{}, {"limit": -1}]}"#);
        assert_eq!(pointer, "/queries/1/limit");
    }

    #[test]
    fn text_that_is_not_json_is_400_and_a_float_too_large_is_422() {
        for body in ["{", "", "{\"vector\": [NaN]}", "{} x", "{\"vector\": [1,]}", "\u{feff}{}"] {
            assert_eq!(refused::<SearchRequest>(body).0, 400, "{body}");
        }
        let (status, code, pointer, _) = refused::<SearchRequest>(r#"{"vector": [0, 1e999]}"#);
        assert_eq!((status, code, pointer.as_str()), (422, "not_finite", "/vector/1"));
    }

    #[test]
    fn query_strings_are_checked_too() {
        let parse = |text: &str| query_string::<NpyParams>(&format!("/x?{text}").parse().unwrap());
        assert!(parse("limit=3&exact=true").is_ok());
        let problem = parse("limits=3").unwrap_err();
        assert_eq!((problem.code, problem.remedy.as_str()), ("unknown_parameter", "did you mean limit?"));
        assert_eq!(parse("limit=many").unwrap_err().code, "invalid_parameter");
    }

    #[test]
    fn npy_bodies_good_and_bad() {
        let file = |descr: &str, order: &str, shape: &str, data: &[u8]| {
            let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
            let length = (header.len() as u16).to_le_bytes();
            [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), data].concat()
        };
        let data: Vec<u8> = [1f32, 2., 3., 4.].iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(npy(&file("<f4", "False", "(2, 2)", &data), 2).unwrap(), [[1., 2.], [3., 4.]]);
        let code = |body: &[u8]| npy(body, 2).unwrap_err().code;
        assert_eq!(code(&file("<f8", "False", "(2, 2)", &data)), "malformed_npy");
        assert_eq!(code(&file("<f4", "True", "(2, 2)", &data)), "malformed_npy");
        assert_eq!(code(&file("<f4", "False", "(3, 2)", &data)), "malformed_npy");
        assert_eq!(code(&file("<f4", "False", "(9223372036854775807, 2)", &data)), "malformed_npy");
        assert_eq!(code(&file("<f4", "False", "(2, 2)", &data[1..])), "malformed_npy");
        assert_eq!(code(&file("<f4", "False", "(1, 4)", &data)), "wrong_dimension");
        assert_eq!(code(b"\x93NUMPY\x01\x00\xff\xff"), "malformed_npy");
    }
}
