//! The GGUF file format, versions 2 and 3: a header of named values, a table of tensors, the tensors.
//!
//! ```text
//! "GGUF" | version u32 | tensors u64 | values u64 | values... | tensor table... | padding | tensors
//! value: name, kind u32, content          name: length u64, bytes (UTF-8)
//! tensor: name, dimensions u32, sizes u64 each (fastest first), packing u32, offset u64 from the start of the tensors
//! ```
//! All little-endian. Every length is checked against what the file holds before it is used.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bigrain::error::{Error, Result};
use ndarray::Array2;

use super::unpack::Packing;

/// Bytes that tensors are aligned to where the file does not say.
const ALIGNMENT: usize = 32;

/// A value of the header.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Integer(u64),
    Float(f64),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<f64>),
}

#[derive(Debug)]
struct Tensor {
    /// Rows and columns; a vector is one row.
    shape: (usize, usize),
    packing: Packing,
    offset: usize,
}

/// An open file, held in memory.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    bytes: Vec<u8>,
    values: HashMap<String, Value>,
    tensors: HashMap<String, Tensor>,
    data: usize,
}

impl Gguf {
    /// Reads a file.
    ///
    /// # Errors
    /// `Io`; `InvalidInput` with the offset where the file is cut or damaged; `Unsupported` for another version or packing.
    pub fn open(path: &Path) -> Result<Gguf> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let mut reader = Reader { path, bytes: &bytes, at: 0 };
        if reader.take(4)? != b"GGUF" {
            return Err(Error::input(path, "header", "it does not begin with GGUF; give a model in that format"));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            let what = format!("{}: GGUF version {version}", path.display());
            return Err(Error::Unsupported { what, remedy: "convert the model to version 3".into() });
        }
        let (tensors, values) = (reader.u64()?, reader.u64()?);
        let mut header = HashMap::new();
        for _ in 0..values {
            let name = reader.text()?;
            let kind = reader.u32()?;
            header.insert(name, reader.value(kind)?);
        }
        let mut table = HashMap::new();
        for _ in 0..tensors {
            let (name, tensor) = reader.tensor()?;
            table.insert(name, tensor);
        }
        let alignment = match header.get("general.alignment") {
            Some(Value::Integer(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n as usize,
            _ => ALIGNMENT,
        };
        let data = reader.at.next_multiple_of(alignment);
        Ok(Gguf { path: path.to_path_buf(), values: header, tensors: table, data, bytes })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the header has a value of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A text of the header.
    pub(super) fn text(&self, name: &str) -> Result<&str> {
        match self.values.get(name) {
            Some(Value::Text(text)) => Ok(text),
            _ => Err(self.absent(name, "a text")),
        }
    }

    /// A number of the header.
    pub(super) fn number(&self, name: &str) -> Result<f64> {
        match self.values.get(name) {
            Some(Value::Integer(n)) => Ok(*n as f64),
            Some(Value::Float(x)) => Ok(*x),
            _ => Err(self.absent(name, "a number")),
        }
    }

    /// A size in the header: an integer, at least 1 and below 2^24.
    pub(super) fn size(&self, name: &str) -> Result<usize> {
        match self.number(name)? {
            n if (1.0..16_777_216.0).contains(&n) && n.fract() == 0.0 => Ok(n as usize),
            n => Err(Error::input(&self.path, format!("value {name}"), format!("{n} is no size; give 1 or more"))),
        }
    }

    /// Texts of the header.
    pub(super) fn texts(&self, name: &str) -> Result<&[String]> {
        match self.values.get(name) {
            Some(Value::Texts(texts)) => Ok(texts),
            _ => Err(self.absent(name, "a list of texts")),
        }
    }

    /// Numbers of the header.
    pub(super) fn numbers(&self, name: &str) -> Result<&[f64]> {
        match self.values.get(name) {
            Some(Value::Numbers(numbers)) => Ok(numbers),
            _ => Err(self.absent(name, "a list of numbers")),
        }
    }

    /// The weights of a tensor, rows x columns.
    ///
    /// # Errors
    /// `InvalidInput` where the tensor is missing or goes beyond the file, `Mismatch` for another shape.
    pub(super) fn weights(&self, name: &str, shape: (usize, usize)) -> Result<Array2<f32>> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            let what = format!("{}: shape of tensor {name}", self.path.display());
            return Err(Error::mismatch(what, format!("{shape:?}"), format!("{:?}", tensor.shape)));
        }
        let (weights, size) = tensor.packing.block();
        let count = shape.0 * shape.1;
        let start = self.data.checked_add(tensor.offset);
        let bytes = start.and_then(|start| self.bytes.get(start..start.checked_add(count / weights * size)?));
        let (Some(bytes), 0) = (bytes, shape.1 % weights) else {
            return Err(Error::input(&self.path, format!("tensor {name}"), "it goes beyond the file; fetch it again"));
        };
        let mut out = vec![0.0; count];
        tensor.packing.unpack(bytes, &mut out);
        Ok(Array2::from_shape_vec(shape, out).expect("as many as rows x columns"))
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| self.absent(name, "a tensor"))
    }

    fn absent(&self, name: &str, what: &str) -> Error {
        Error::input(
            &self.path,
            name,
            format!("the file has no such name for {what}; give a model of the Gemma-3 family"),
        )
    }
}

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            let reason =
                format!("{count} bytes are needed where {} are left; fetch it again", self.bytes.len() - self.at);
            return Err(Error::input(self.path, format!("byte {}", self.at), reason));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            8 => Value::Text(self.text()?),
            9 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                if kind == 8 {
                    Value::Texts((0..count).map(|_| self.text()).collect::<Result<_>>()?)
                } else {
                    Value::Numbers((0..count).map(|_| self.plain(kind).map(|value| value.0)).collect::<Result<_>>()?)
                }
            }
            kind => match self.plain(kind)? {
                (_, Some(integer)) => Value::Integer(integer),
                (number, None) => Value::Float(number),
            },
        })
    }

    /// A number, and also as an integer where it is one that is not negative.
    fn plain(&mut self, kind: u32) -> Result<(f64, Option<u64>)> {
        let signed = |n: i64| (n as f64, u64::try_from(n).ok());
        Ok(match kind {
            0 | 7 => signed(i64::from(self.take(1)?[0])),
            1 => signed(i64::from(self.take(1)?[0] as i8)),
            2 => signed(i64::from(u16::from_le_bytes(self.take(2)?.try_into().expect("two bytes")))),
            3 => signed(i64::from(i16::from_le_bytes(self.take(2)?.try_into().expect("two bytes")))),
            4 => signed(i64::from(self.u32()?)),
            5 => signed(i64::from(self.u32()? as i32)),
            6 => (f64::from(f32::from_bits(self.u32()?)), None),
            10 => self.u64().map(|n| (n as f64, Some(n)))?,
            11 => signed(self.u64()? as i64),
            12 => (f64::from_bits(self.u64()?), None),
            _ => {
                let reason = format!("{kind} is no kind of value that is known here; fetch it again");
                return Err(Error::input(self.path, format!("byte {}", self.at), reason));
            }
        })
    }

    fn tensor(&mut self) -> Result<(String, Tensor)> {
        let name = self.text()?;
        let sizes = (0..self.u32()?).map(|_| self.u64()).collect::<Result<Vec<u64>>>()?;
        let (packing, offset) = (self.u32()?, self.u64()?);
        let shape = match *sizes {
            [columns] => (1, columns),
            [columns, rows] => (rows, columns),
            _ => {
                let reason = format!("it has {} dimensions; weights here have one or two", sizes.len());
                return Err(Error::input(self.path, format!("tensor {name}"), reason));
            }
        };
        let Some(packing) = Packing::of(packing) else {
            let what = format!("{}: packing {packing} of tensor {name}", self.path.display());
            let remedy = "give a model packed as Q4_K_M, Q8_0, F16 or F32".into();
            return Err(Error::Unsupported { what, remedy });
        };
        let (rows, columns) = (shape.0 as usize, shape.1 as usize);
        if rows.checked_mul(columns).is_none_or(|count| count > 1 << 32) {
            return Err(Error::input(
                self.path,
                format!("tensor {name}"),
                format!("{shape:?} is too large to be true"),
            ));
        }
        Ok((name, Tensor { shape: (rows, columns), packing, offset: usize::try_from(offset).unwrap_or(usize::MAX) }))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Writes the format: for tests of what reads it.
    #[derive(Default)]
    pub(in super::super) struct Writer {
        values: Vec<u8>,
        value_count: u64,
        table: Vec<u8>,
        tensor_count: u64,
        data: Vec<u8>,
    }

    fn put_text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    impl Writer {
        fn name(&mut self, name: &str, kind: u32) {
            put_text(&mut self.values, name);
            self.values.extend(kind.to_le_bytes());
            self.value_count += 1;
        }

        pub(in super::super) fn text(&mut self, name: &str, text: &str) {
            self.name(name, 8);
            put_text(&mut self.values, text);
        }

        pub(in super::super) fn size(&mut self, name: &str, size: u32) {
            self.name(name, 4);
            self.values.extend(size.to_le_bytes());
        }

        pub(in super::super) fn float(&mut self, name: &str, value: f32) {
            self.name(name, 6);
            self.values.extend(value.to_le_bytes());
        }

        pub(in super::super) fn texts(&mut self, name: &str, texts: &[&str]) {
            self.name(name, 9);
            self.values.extend(8u32.to_le_bytes());
            self.values.extend((texts.len() as u64).to_le_bytes());
            texts.iter().for_each(|text| put_text(&mut self.values, text));
        }

        pub(in super::super) fn floats(&mut self, name: &str, values: &[f32]) {
            self.name(name, 9);
            self.values.extend(6u32.to_le_bytes());
            self.values.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| self.values.extend(value.to_le_bytes()));
        }

        pub(in super::super) fn tensor(&mut self, name: &str, weights: &Array2<f32>) {
            put_text(&mut self.table, name);
            let (rows, columns) = weights.dim();
            self.table.extend(2u32.to_le_bytes());
            [columns, rows].iter().for_each(|&n| self.table.extend((n as u64).to_le_bytes()));
            self.table.extend(0u32.to_le_bytes());
            self.table.extend((self.data.len() as u64).to_le_bytes());
            weights.iter().for_each(|w| self.data.extend(w.to_le_bytes()));
            self.data.resize(self.data.len().next_multiple_of(ALIGNMENT), 0);
            self.tensor_count += 1;
        }

        pub(in super::super) fn finish(self) -> Vec<u8> {
            let mut out = b"GGUF".to_vec();
            out.extend(3u32.to_le_bytes());
            out.extend(self.tensor_count.to_le_bytes());
            out.extend(self.value_count.to_le_bytes());
            out.extend(self.values);
            out.extend(self.table);
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(self.data);
            out
        }
    }

    #[test]
    fn a_file_is_read_and_every_cut_of_it_is_refused() {
        let mut writer = Writer::default();
        writer.text("general.name", "made");
        writer.size("size", 7);
        writer.texts("words", &["a", "b"]);
        let weights = Array2::from_shape_fn((2, 3), |(i, j)| (i * 3 + j) as f32);
        writer.tensor("w", &weights);
        let bytes = writer.finish();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        let open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Gguf::open(&path)
        };
        let file = open(&bytes).unwrap();
        assert_eq!((file.text("general.name").unwrap(), file.size("size").unwrap()), ("made", 7));
        assert_eq!((file.texts("words").unwrap().len(), file.weights("w", (2, 3)).unwrap()), (2, weights));
        assert!(file.weights("w", (3, 2)).unwrap_err().to_string().contains("shape of tensor w"));
        assert!(file.weights("v", (3, 2)).unwrap_err().to_string().contains("no such name"));
        // The data section ends with padding, whose loss does no harm.
        for length in 0..bytes.len() - ALIGNMENT {
            let outcome = open(&bytes[..length]).and_then(|file| file.weights("w", (2, 3)));
            assert!(outcome.is_err(), "{length} bytes were enough");
        }
        assert!(open(b"GGML1234").unwrap_err().to_string().contains("does not begin with GGUF"));
    }
}
