//! A growing set of numbers whose copies share what is equal.

use std::sync::Arc;

/// Words of a piece: 8 KiB, 65,536 numbers.
const WORDS: usize = 1024;

/// One bit a number, in pieces that are copied when they are written to while another copy of the set has them.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    pieces: Vec<Option<Arc<[u64; WORDS]>>>,
    count: usize,
}

/// Piece, word and bit of a number.
fn place(number: usize) -> (usize, usize, u64) {
    (number / 64 / WORDS, number / 64 % WORDS, 1 << (number % 64))
}

impl Bits {
    #[inline]
    pub(super) fn contains(&self, number: usize) -> bool {
        let (piece, word, bit) = place(number);
        self.pieces.get(piece).is_some_and(|piece| piece.as_ref().is_some_and(|words| words[word] & bit != 0))
    }

    /// Adds a number; whether it is new.
    pub(super) fn insert(&mut self, number: usize) -> bool {
        let (piece, word, bit) = place(number);
        if self.pieces.len() <= piece {
            self.pieces.resize(piece + 1, None);
        }
        let words = Arc::make_mut(self.pieces[piece].get_or_insert_with(|| Arc::new([0; WORDS])));
        let new = words[word] & bit == 0;
        words[word] |= bit;
        self.count += usize::from(new);
        new
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The numbers, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        let words = self.pieces.iter().enumerate().filter_map(|(at, piece)| Some((at, piece.as_ref()?)));
        words.flat_map(|(at, words)| {
            (0..WORDS * 64)
                .filter(move |bit| words[bit / 64] >> (bit % 64) & 1 == 1)
                .map(move |bit| at * WORDS * 64 + bit)
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.pieces.len() * 8 + self.pieces.iter().flatten().count() * WORDS * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_until_written_to() {
        let mut bits = Bits::default();
        for number in [5, 70_000, 64, 5] {
            bits.insert(number);
        }
        let before = bits.clone();
        assert!(bits.insert(6) && !bits.insert(64));
        assert_eq!(bits.iter().collect::<Vec<_>>(), [5, 6, 64, 70_000]);
        assert_eq!((before.iter().collect::<Vec<_>>(), before.count()), (vec![5, 64, 70_000], 3));
        assert!(bits.contains(6) && !before.contains(6) && !bits.contains(1 << 40));
        assert!(Arc::ptr_eq(bits.pieces[1].as_ref().unwrap(), before.pieces[1].as_ref().unwrap()));
    }
}
