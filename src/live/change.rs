//! Changes as callers make them, and as records of the journal.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

use crate::error::{Error, Result};
use crate::journal::MAX_PAYLOAD;
use crate::types::Key;

/// First byte of a payload: the version of what follows. A field more is a new version; all are read.
const VERSION: u8 = 1;
/// Of changes with several views.
const WITH_VIEWS: u8 = 2;
/// Lengths are not trusted: what decodes to more than a payload may hold is refused before memory is taken.
const CODING: Configuration<LittleEndian, Fixint, Limit<MAX_PAYLOAD>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_PAYLOAD>();

/// A document, as a caller gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The caller's id; a document with the same key takes the place of this one.
    pub key: Key,
    /// The encoder's vector: dim values, any norm under cosine.
    pub vector: Vec<f32>,
    /// Further views of it, vectors like the first: each becomes a row where rows are views of documents.
    pub views: Vec<Vec<f32>>,
    /// One JSON object: its attributes, and all that is returned with a hit.
    pub record: String,
}

/// One change of what can be found.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Puts a document in with all its views, in place of the one with its key if there is one and all of that one's views.
    Upsert(Document),
    /// Takes out the document with this key and all its views, if there is one.
    Delete(Key),
}

/// A change as version 1 writes it.
#[derive(Encode, Decode)]
enum Plain {
    Upsert(Key, Vec<f32>, String),
    Delete(Key),
}

/// A document with several views, as version 2 writes it.
#[derive(Encode, Decode)]
struct WithViews(Key, Vec<f32>, Vec<Vec<f32>>, String);

impl Change {
    /// The key of the document.
    pub fn key(&self) -> Key {
        match self {
            Change::Upsert(document) => document.key,
            Change::Delete(key) => *key,
        }
    }

    /// A payload of the journal.
    pub(super) fn to_payload(&self) -> Vec<u8> {
        let written = match self.clone() {
            Change::Delete(key) => encoded(VERSION, &Plain::Delete(key)),
            Change::Upsert(Document { key, vector, views, record }) if views.is_empty() => {
                encoded(VERSION, &Plain::Upsert(key, vector, record))
            }
            Change::Upsert(Document { key, vector, views, record }) => {
                encoded(WITH_VIEWS, &WithViews(key, vector, views, record))
            }
        };
        written.expect("memory takes all that is written, and checked changes are short")
    }

    /// The change in the payload of record `seq`.
    pub(super) fn from_payload(seq: u64, payload: &[u8]) -> Result<Change> {
        let wrong = |reason: String| Error::Unsupported {
            what: format!("record {seq} of the journal ({reason})"),
            remedy: "use the bigrain that wrote it".into(),
        };
        match payload.split_first() {
            Some((&VERSION, rest)) => Ok(match decoded(rest).map_err(wrong)? {
                Plain::Upsert(key, vector, record) => {
                    Change::Upsert(Document { key, vector, views: Vec::new(), record })
                }
                Plain::Delete(key) => Change::Delete(key),
            }),
            Some((&WITH_VIEWS, rest)) => {
                let WithViews(key, vector, views, record) = decoded(rest).map_err(wrong)?;
                Ok(Change::Upsert(Document { key, vector, views, record }))
            }
            Some((version, _)) => Err(wrong(format!("version {version}"))),
            None => Err(wrong("no bytes".into())),
        }
    }
}

fn encoded(version: u8, change: &impl Encode) -> std::result::Result<Vec<u8>, bincode::error::EncodeError> {
    let mut payload = vec![version];
    bincode::encode_into_std_write(change, &mut payload, CODING)?;
    Ok(payload)
}

/// All of `bytes`, decoded.
fn decoded<T: Decode<()>>(bytes: &[u8]) -> std::result::Result<T, String> {
    match bincode::decode_from_slice(bytes, CODING) {
        Ok((change, read)) if read == bytes.len() => Ok(change),
        Ok((_, read)) => Err(format!("{} bytes are too many", bytes.len() - read)),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_read_back_and_others_are_refused() {
        let record = r#"{"a": "ü"}"#.to_string();
        let document = Document { key: 1 << 60, vector: vec![0.5, -3.0], views: Vec::new(), record };
        let views = vec![vec![1.0, 2.0], vec![-1.0, 0.25]];
        let with_views = Document { views, ..document.clone() };
        for change in [Change::Upsert(document), Change::Upsert(with_views), Change::Delete(7)] {
            let payload = change.to_payload();
            assert_eq!(Change::from_payload(1, &payload).unwrap(), change);
            for length in 0..payload.len() {
                Change::from_payload(1, &payload[..length]).unwrap_err();
            }
            Change::from_payload(1, &[&payload[..], &[0]].concat()).unwrap_err();
            // Whatever the bytes, an answer or an error.
            for at in 0..payload.len() {
                for value in [0, 1, 2, 127, 255] {
                    let mut bad = payload.clone();
                    bad[at] = value;
                    let _ = Change::from_payload(1, &bad);
                }
            }
        }
        let error = Change::from_payload(5, &[9, 0]).unwrap_err().to_string();
        assert!(error.contains("record 5") && error.contains("version 9"), "{error}");
    }

    /// The bytes are on disks: a change of theirs is a new version.
    #[test]
    fn the_bytes_of_version_1() {
        let document = Document { key: 2, vector: vec![1.0], views: Vec::new(), record: "{}".into() };
        let bytes = [
            &[1, 0, 0, 0, 0][..],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 63],
            &[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'],
        ];
        assert_eq!(Change::Upsert(document).to_payload(), bytes.concat());
        assert_eq!(Change::Delete(3).to_payload(), [1, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_bytes_of_version_2() {
        let document = Document { key: 2, vector: vec![1.0], views: vec![vec![-2.0]], record: "{}".into() };
        let bytes = [
            &[2][..],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 63],
            &[1, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192],
            &[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'],
        ];
        assert_eq!(Change::Upsert(document).to_payload(), bytes.concat());
    }
}
