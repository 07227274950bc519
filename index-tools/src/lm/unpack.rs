//! Packed weights to floats. Each kind packs a block of 32 or 256 weights; layouts are those of GGML.
//!
//! | kind | number | weights a block | bytes a block |
//! |---|---|---|---|
//! | F32, F16 | 0, 1 | 1 | 4, 2 |
//! | Q5_0 | 6 | 32 | scale f16, 32 fifth bits, 16 bytes of low nibbles |
//! | Q8_0 | 8 | 32 | scale f16, 32 signed bytes |
//! | Q4_K | 12 | 256 | two scales f16, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles |
//! | Q6_K | 14 | 256 | 128 bytes of low nibbles, 64 of high bits, 16 scales i8, scale f16 |

/// A way of packing weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    F32,
    F16,
    Q5,
    Q8,
    Q4K,
    Q6K,
}

impl Packing {
    /// The packing with this number, if it is known here.
    pub(super) fn of(number: u32) -> Option<Packing> {
        Some(match number {
            0 => Packing::F32,
            1 => Packing::F16,
            6 => Packing::Q5,
            8 => Packing::Q8,
            12 => Packing::Q4K,
            14 => Packing::Q6K,
            _ => return None,
        })
    }

    /// Weights of a block, and its bytes.
    pub(super) fn block(self) -> (usize, usize) {
        match self {
            Packing::F32 => (1, 4),
            Packing::F16 => (1, 2),
            Packing::Q5 => (32, 22),
            Packing::Q8 => (32, 34),
            Packing::Q4K => (256, 144),
            Packing::Q6K => (256, 210),
        }
    }

    /// Unpacks whole blocks; `out` has as many values as `bytes` packs.
    pub(super) fn unpack(self, bytes: &[u8], out: &mut [f32]) {
        let (weights, size) = self.block();
        for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(weights)) {
            match self {
                Packing::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Packing::F16 => out[0] = half(block),
                Packing::Q5 => q5(block, out),
                Packing::Q8 => q8(block, out),
                Packing::Q4K => q4k(block, out),
                Packing::Q6K => q6k(block, out),
            }
        }
    }
}

/// A little-endian f16 at the start of `bytes`.
fn half(bytes: &[u8]) -> f32 {
    let bits = u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let (sign, exponent, fraction) = ((bits & 0x8000) << 16, bits >> 10 & 31, bits & 0x3ff);
    match exponent {
        // Below the normal numbers: the fraction counts in steps of 2^-24.
        0 => f32::from_bits(sign | (fraction as f32 * 2f32.powi(-24)).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

fn q8(block: &[u8], out: &mut [f32]) {
    let scale = half(block);
    out.iter_mut().zip(&block[2..]).for_each(|(out, &b)| *out = scale * f32::from(b as i8));
}

fn q5(block: &[u8], out: &mut [f32]) {
    let scale = half(block);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for (j, &b) in block[6..22].iter().enumerate() {
        let low = (u32::from(b & 15) | (high >> j & 1) << 4) as f32;
        let upper = (u32::from(b >> 4) | (high >> (j + 16) & 1) << 4) as f32;
        (out[j], out[j + 16]) = (scale * (low - 16.0), scale * (upper - 16.0));
    }
}

/// The `j`th of eight pairs of a 6-bit scale and a 6-bit minimum in 12 bytes.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

fn q4k(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block), half(&block[2..]));
    let (packed, nibbles) = (&block[4..16], &block[16..]);
    for (j, (out, nibbles)) in out.chunks_exact_mut(64).zip(nibbles.chunks_exact(32)).enumerate() {
        let (first, second) = (scale_and_minimum(packed, 2 * j), scale_and_minimum(packed, 2 * j + 1));
        for (l, &b) in nibbles.iter().enumerate() {
            out[l] = scale * first.0 * f32::from(b & 15) - least * first.1;
            out[l + 32] = scale * second.0 * f32::from(b >> 4) - least * second.1;
        }
    }
}

fn q6k(block: &[u8], out: &mut [f32]) {
    let scale = half(&block[208..]);
    for (n, out) in out.chunks_exact_mut(128).enumerate() {
        let (low, high, scales) = (&block[64 * n..], &block[128 + 32 * n..], &block[192 + 8 * n..]);
        for l in 0..32 {
            let nibbles = [low[l] & 15, low[l + 32] & 15, low[l] >> 4, low[l + 32] >> 4];
            for (part, nibble) in nibbles.into_iter().enumerate() {
                let value = i32::from(nibble | (high[l] >> (2 * part) & 3) << 4) - 32;
                out[l + 32 * part] = scale * f32::from(scales[l / 16 + 2 * part] as i8) * value as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_read() {
        for (bits, value) in [(0x3c00u16, 1.0), (0xc000, -2.0), (0x0001, 2f32.powi(-24)), (0x3555, 0.333_251_95)] {
            assert_eq!(half(&bits.to_le_bytes()), value);
        }
    }

    /// 1.0 as f16.
    const ONE: [u8; 2] = [0, 0x3c];

    #[test]
    fn blocks_unpack_to_the_weights_that_were_packed() {
        let mut out = vec![0.0; 32];
        let block: Vec<u8> = ONE.into_iter().chain((0..32u8).map(|i| i.wrapping_sub(16))).collect();
        Packing::Q8.unpack(&block, &mut out);
        assert_eq!((out[0], out[31]), (-16.0, 15.0));
        // Weight 0 is 17 - 16 (nibble 1, fifth bit), weight 16 is 2 - 16.
        let mut block = vec![0u8; 22];
        block[..2].copy_from_slice(&ONE);
        (block[2], block[6]) = (1, 0x21);
        Packing::Q5.unpack(&block, &mut out);
        assert_eq!((out[0], out[16], out[1]), (1.0, -14.0, -16.0));
    }

    #[test]
    fn the_k_blocks_apply_the_scales_of_their_parts() {
        let mut out = vec![0.0; 256];
        let mut block = vec![0u8; 144];
        block[..2].copy_from_slice(&ONE);
        block[2..4].copy_from_slice(&ONE);
        // Part 0: scale 3, minimum 2. Part 4: scale 5 | 1 << 4 = 21, minimum 6 (low four bits in the last bytes).
        (block[4], block[8], block[12]) = (3 | 1 << 6, 2, 5 | 6 << 4);
        (block[16], block[16 + 64]) = (7, 9);
        Packing::Q4K.unpack(&block, &mut out);
        assert_eq!((out[0], out[1], out[128], out[129]), (3.0 * 7.0 - 2.0, -2.0, 21.0 * 9.0 - 6.0, -6.0));
        let mut block = vec![0u8; 210];
        block[208..].copy_from_slice(&ONE);
        // Weight 32 of the first half: nibble 5 of byte 32, high bits 1: 21 - 32; its scale is the third.
        (block[32], block[128], block[194]) = (5, 1 << 2, 2);
        Packing::Q6K.unpack(&block, &mut out);
        assert_eq!((out[32], out[0]), (-22.0, 0.0));
    }
}
