//! An array in chunks that its copies share: copying it costs a pointer a chunk, changing an element one chunk.

use std::sync::Arc;

/// Elements of a chunk. Fewer: more pointers to copy for each epoch; more: more bytes to copy for each element that changes.
const CHUNK: usize = 256;

/// A growing array of values.
#[derive(Clone)]
pub(super) struct Chunks<T> {
    /// All of [`CHUNK`] elements; those at and beyond `len` are never handed out.
    chunks: Vec<Arc<[T]>>,
    len: usize,
}

impl<T: Clone> Chunks<T> {
    pub(super) fn new() -> Chunks<T> {
        Chunks { chunks: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The element, if there is one there.
    #[inline]
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        let at = at as usize;
        if at >= self.len {
            return None;
        }
        Some(&self.chunks[at / CHUNK][at % CHUNK])
    }

    /// The element, to be changed in this copy only.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn get_mut(&mut self, at: u32) -> &mut T {
        let at = at as usize;
        assert!(at < self.len, "element {at} of {}", self.len);
        &mut Arc::make_mut(&mut self.chunks[at / CHUNK])[at % CHUNK]
    }

    pub(super) fn push(&mut self, value: T) {
        let at = self.len;
        if at.is_multiple_of(CHUNK) {
            self.chunks.push(vec![value; CHUNK].into());
            self.len += 1;
        } else {
            self.len += 1;
            *self.get_mut(at as u32) = value;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }

    /// Bytes of the elements and of the pointers to them.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * (CHUNK * size_of::<T>() + size_of::<Arc<[T]>>() + 2 * size_of::<usize>())
    }
}
