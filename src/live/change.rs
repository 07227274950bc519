//! Changes as callers make them, and as records of the journal.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

use crate::error::{Error, Result};
use crate::journal::MAX_PAYLOAD;
use crate::types::Key;

/// First byte of a payload: the version of what follows. A field more is a new version; all are read.
const VERSION: u8 = 1;
/// Lengths are not trusted: what decodes to more than a payload may hold is refused before memory is taken.
const CODING: Configuration<LittleEndian, Fixint, Limit<MAX_PAYLOAD>> =
    bincode::config::standard().with_fixed_int_encoding().with_limit::<MAX_PAYLOAD>();

/// A document, as a caller gives it.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Document {
    /// The caller's id; a document with the same key takes the place of this one.
    pub key: Key,
    /// The encoder's vector: dim values, any norm under cosine.
    pub vector: Vec<f32>,
    /// One JSON object: its attributes, and all that is returned with a hit.
    pub record: String,
}

/// One change of what can be found.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub enum Change {
    /// Puts a document in, in place of the one with its key if there is one.
    Upsert(Document),
    /// Takes out the document with this key, if there is one.
    Delete(Key),
}

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
        let mut payload = vec![VERSION];
        bincode::encode_into_std_write(self, &mut payload, CODING)
            .expect("memory takes all that is written, and checked changes are short");
        payload
    }

    /// The change in the payload of record `seq`.
    pub(super) fn from_payload(seq: u64, payload: &[u8]) -> Result<Change> {
        let wrong = |reason: String| Error::Unsupported {
            what: format!("record {seq} of the journal ({reason})"),
            remedy: "use the bigrain that wrote it".into(),
        };
        match payload.split_first() {
            Some((&VERSION, rest)) => match bincode::decode_from_slice(rest, CODING) {
                Ok((change, read)) if read == rest.len() => Ok(change),
                Ok((_, read)) => Err(wrong(format!("{} bytes are too many", rest.len() - read))),
                Err(error) => Err(wrong(error.to_string())),
            },
            Some((version, _)) => Err(wrong(format!("version {version}"))),
            None => Err(wrong("no bytes".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_read_back_and_others_are_refused() {
        let document = Document { key: 1 << 60, vector: vec![0.5, -3.0], record: r#"{"a": "ü"}"#.into() };
        for change in [Change::Upsert(document), Change::Delete(7)] {
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
        let document = Document { key: 2, vector: vec![1.0], record: "{}".into() };
        let bytes = [
            &[1, 0, 0, 0, 0][..],
            &[2, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 63],
            &[2, 0, 0, 0, 0, 0, 0, 0, b'{', b'}'],
        ];
        assert_eq!(Change::Upsert(document).to_payload(), bytes.concat());
        assert_eq!(Change::Delete(3).to_payload(), [1, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    }
}
