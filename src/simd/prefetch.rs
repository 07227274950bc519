//! A hint to the memory system: these bytes will be read soon.

/// Caches as the instruction names them.
const FIRST_LEVEL: i32 = 3;
const SECOND_LEVEL: i32 = 2;

/// Asks for every cache line of `bytes` without waiting. A hint only: nothing is read, no fault is raised, and where the
/// processor has no such instruction nothing happens.
#[inline]
pub fn prefetch(bytes: &[u8]) {
    ask::<FIRST_LEVEL>(bytes);
}

/// [`prefetch`], but into the second-level cache only: for what is more than a few kilobytes, or not wanted at once.
#[inline]
pub fn prefetch_second_level(bytes: &[u8]) {
    ask::<SECOND_LEVEL>(bytes);
}

#[inline]
fn ask<const LEVEL: i32>(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::_mm_prefetch;
        const LINE: usize = 64;
        // A record may start in the middle of a line: step from the line's start so that its last line is not missed.
        let skew = bytes.as_ptr() as usize % LINE;
        for at in (0..bytes.len() + skew).step_by(LINE) {
            // SAFETY: a prefetch accesses no memory that the program could see, and SSE is part of every x86-64; the
            // address is computed with wrapping arithmetic, so it need not lie within the slice.
            unsafe { _mm_prefetch::<LEVEL>(bytes.as_ptr().wrapping_add(at).wrapping_sub(skew).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
