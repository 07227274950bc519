//! Element types of other people's files and their conversion from and to `f32`.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// How one value of a vector file is stored; always little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// Unsigned byte.
    U8,
    /// Signed byte.
    I8,
    /// Signed 32-bit integer; as a vector's value it is rounded to the nearest `f32`.
    I32,
    /// Unsigned 32-bit integer: row numbers only.
    U32,
    /// Signed 64-bit integer: row numbers only.
    I64,
    /// Unsigned 64-bit integer: row numbers only.
    U64,
}

/// A value that the element type of a file cannot hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DoesNotFit {
    /// Index of the value in the slice given.
    pub position: usize,
    /// The value.
    pub value: f32,
}

impl Scalar {
    /// Bytes of one value.
    pub fn size(self) -> usize {
        match self {
            Scalar::U8 | Scalar::I8 => 1,
            Scalar::F16 => 2,
            Scalar::F32 | Scalar::I32 | Scalar::U32 => 4,
            Scalar::I64 | Scalar::U64 => 8,
        }
    }

    /// Whether an `.npy` file of this type is taken for vectors; integers of 32 and 64 bits are row numbers.
    pub(super) fn is_vector_element(self) -> bool {
        matches!(self, Scalar::F32 | Scalar::F16 | Scalar::U8 | Scalar::I8)
    }

    /// Decodes `bytes` into `out`; `bytes.len() == out.len() * self.size()`.
    ///
    /// # Panics
    /// For the types that hold row numbers only: `open` refuses them.
    pub(super) fn widen(self, bytes: &[u8], out: &mut [f32]) {
        debug_assert_eq!(bytes.len(), out.len() * self.size());
        match self {
            Scalar::F32 => each(bytes, out, f32::from_le_bytes),
            Scalar::F16 => widen_f16(bytes, out),
            Scalar::U8 => each(bytes, out, |[b]: [u8; 1]| f32::from(b)),
            Scalar::I8 => each(bytes, out, |b: [u8; 1]| f32::from(i8::from_le_bytes(b))),
            Scalar::I32 => each(bytes, out, |b| i32::from_le_bytes(b) as f32),
            Scalar::U32 | Scalar::I64 | Scalar::U64 => unreachable!("refused at open: {self:?} holds row numbers"),
        }
    }

    /// The values of `bytes`; `None` for types of row numbers and where the bytes are not a whole number of values.
    pub fn decode(self, bytes: &[u8]) -> Option<Vec<f32>> {
        if !self.is_vector_element() || !bytes.len().is_multiple_of(self.size()) {
            return None;
        }
        let mut values = vec![0.0; bytes.len() / self.size()];
        self.widen(bytes, &mut values);
        Some(values)
    }

    /// Decodes one row number; `None` where it is negative or the type is a float.
    pub(super) fn row_number(self, bytes: &[u8]) -> Option<u64> {
        match self {
            Scalar::U8 => bytes.first().map(|&b| u64::from(b)),
            Scalar::I8 => u64::try_from(i8::from_le_bytes(bytes.try_into().ok()?)).ok(),
            Scalar::I32 => u64::try_from(i32::from_le_bytes(bytes.try_into().ok()?)).ok(),
            Scalar::U32 => Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?))),
            Scalar::I64 => u64::try_from(i64::from_le_bytes(bytes.try_into().ok()?)).ok(),
            Scalar::U64 => Some(u64::from_le_bytes(bytes.try_into().ok()?)),
            Scalar::F32 | Scalar::F16 => None,
        }
    }

    /// Appends `values` to `out`. Integers are rounded to the nearest; what is out of range is refused, not clipped.
    pub(super) fn narrow(self, values: &[f32], out: &mut Vec<u8>) -> Result<(), DoesNotFit> {
        let range = match self {
            Scalar::U8 => 0.0..=255.0,
            Scalar::I8 => -128.0..=127.0,
            Scalar::I32 => -2147483648.0..=2147483520.0,
            _ => f32::NEG_INFINITY..=f32::INFINITY,
        };
        let integer = !matches!(self, Scalar::F32 | Scalar::F16);
        for (position, &value) in values.iter().enumerate() {
            if integer && !range.contains(&value.round()) {
                return Err(DoesNotFit { position, value });
            }
            match self {
                Scalar::F32 => out.extend(value.to_le_bytes()),
                Scalar::F16 => out.extend(f16::from_f32(value).to_le_bytes()),
                Scalar::U8 => out.push(value.round() as u8),
                Scalar::I8 => out.extend((value.round() as i8).to_le_bytes()),
                Scalar::I32 => out.extend((value.round() as i32).to_le_bytes()),
                Scalar::U32 | Scalar::I64 | Scalar::U64 => return Err(DoesNotFit { position, value }),
            }
        }
        Ok(())
    }
}

/// `out[i] = decode(bytes[i * N..][..N])`.
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    let (values, _) = bytes.as_chunks::<N>();
    for (out, &value) in out.iter_mut().zip(values) {
        *out = decode(value);
    }
}

/// Half floats in runs, so that the conversion uses the machine's vector instruction where it has one.
fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    let mut run = [f16::ZERO; 64];
    for (bytes, out) in bytes.chunks(2 * run.len()).zip(out.chunks_mut(run.len())) {
        let run = &mut run[..out.len()];
        for (half, &b) in run.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(b);
        }
        run.convert_to_f32_slice(out);
    }
}
