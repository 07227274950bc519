//! Bodies of requests from a file of vectors, made before the clock starts.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bigrain::dataset::VectorFile;
use bigrain::error::{Error, Result};
use clap::ValueEnum;
use serde_json::{Map, Value};

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// `vector_b64`: little-endian f32, cheapest for both sides.
    #[value(name = "b64")]
    Base64,
    /// `vector`: JSON numbers, as most clients send.
    Json,
}

/// Where query vectors come from.
#[derive(Debug)]
pub struct Queries<'a> {
    /// Any format that the library reads.
    pub path: &'a Path,
    /// Column of a Parquet file.
    pub column: Option<&'a str>,
    /// Rows used, from the first on.
    pub most: usize,
    /// How they are written.
    pub encoding: Encoding,
}

impl Queries<'_> {
    /// One body a row: `shared` with the row's vector.
    ///
    /// # Errors
    /// As [`VectorFile`]; a file without rows.
    pub fn bodies(&self, shared: &Map<String, Value>) -> Result<Vec<Vec<u8>>> {
        let mut file = VectorFile::open(self.path, self.column)?;
        let rows = file.rows().min(self.most as u64);
        if rows == 0 {
            return Err(Error::input(self.path, "rows", "there are none to ask"));
        }
        let mut vector = vec![0.0; file.dim()];
        let one = |row: u64| {
            file.read(row, &mut vector)?;
            let mut body = shared.clone();
            match self.encoding {
                Encoding::Json => body.insert("vector".to_string(), Value::from(vector.clone())),
                Encoding::Base64 => {
                    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
                    body.insert("vector_b64".to_string(), Value::from(BASE64_STANDARD.encode(bytes)))
                }
            };
            Ok(Value::Object(body).to_string().into_bytes())
        };
        (0..rows).map(one).collect()
    }
}

/// What all requests share: `given` (an object, as text) with the members of `more` put over it; objects within are merged.
///
/// # Errors
/// Text that is no JSON object; a query in it, which the vectors are.
pub fn body(given: &str, more: Map<String, Value>) -> Result<Map<String, Value>> {
    let parsed = serde_json::from_str(given).map_err(|error| Error::params("body", format!("{given:?}: {error}")))?;
    let Value::Object(mut shared) = parsed else {
        return Err(Error::params("body", format!("{given:?} is no JSON object")));
    };
    if let Some(query) =
        ["vector", "vector_b64", "dtype", "vectors", "text", "key"].iter().find(|name| shared.contains_key(**name))
    {
        return Err(Error::params("body", format!("{query:?} is taken from --queries: leave it out")));
    }
    merge(&mut shared, more);
    Ok(shared)
}

fn merge(into: &mut Map<String, Value>, more: Map<String, Value>) {
    for (name, value) in more {
        match (into.get_mut(&name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            (_, value) => drop(into.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_given_is_merged() {
        let Value::Object(more) = json!({"limit": 5, "params": {"nprobe": 8}}) else { unreachable!("an object") };
        let shared = body(r#"{"limit": 10, "rank": "ecpm", "params": {"candidates": 50, "nprobe": 1}}"#, more).unwrap();
        assert_eq!(
            Value::Object(shared),
            json!({"limit": 5, "rank": "ecpm", "params": {"candidates": 50, "nprobe": 8}})
        );
        for bad in ["", "[]", "{", r#"{"text": "shoe"}"#] {
            assert!(body(bad, Map::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_row_is_a_body() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("queries.npy");
        let mut writer = bigrain::dataset::VectorWriter::create(&path, bigrain::dataset::Scalar::F32, 2).unwrap();
        writer.write(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        writer.finish().unwrap();
        let of = |encoding| {
            let bodies = Queries { path: &path, column: None, most: 2, encoding }.bodies(&Map::new()).unwrap();
            bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect::<Vec<Value>>()
        };
        assert_eq!(of(Encoding::Json), [json!({"vector": [1.0, 2.0]}), json!({"vector": [3.0, 4.0]})]);
        assert_eq!(of(Encoding::Base64)[1], json!({"vector_b64": "AABAQAAAgEA="}));
    }
}
