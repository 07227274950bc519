//! Bounded best-k of scored rows.
//!
//! The easy version is a sort of all pairs `(score, id)`, best score first, lower id first where scores are equal. The
//! departures from it:
//!
//! 1. **One `u64` a pair** ([`order_key`]): the score's bits, made order-preserving, above the inverted id. Comparing two
//!    candidates is comparing two integers, ties are settled by the same comparison, and the order is total, so the
//!    answer does not depend on the order of arrival nor on the number of threads.
//! 2. **A reservoir of 2N instead of a heap of N** ([`Reservoir`]): a candidate is appended, and only when 2N are held a
//!    selection keeps the best N. That is a constant amortised cost a candidate, without a heap's branches, and
//!    yields the score that a later candidate must reach: the threshold of the scan.
//!
//! Scores must not be NaN; that is asserted, for callers check their input.

/// A key that orders as `(score descending, id ascending)` when keys are compared descending: larger is better.
///
/// Positive and negative zero are the same score.
///
/// # Panics
/// If `score` is NaN.
#[inline]
pub fn order_key(score: f32, id: u32) -> u64 {
    assert!(!score.is_nan(), "the score of row {id} is NaN");
    // Adding +0.0 turns -0.0 into +0.0 and leaves every other value as it is.
    let bits = (score + 0.0).to_bits();
    // IEEE floats order like sign-magnitude integers: flip all bits of negatives, the sign bit of the others.
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
    u64::from(ordered) << 32 | u64::from(!id)
}

/// The score and the id that [`order_key`] was given.
#[inline]
pub fn split_key(key: u64) -> (f32, u32) {
    let ordered = (key >> 32) as u32;
    let bits = if ordered >> 31 == 1 { ordered & 0x7fff_ffff } else { !ordered };
    (f32::from_bits(bits), !(key as u32))
}

/// Keeps the best `n` of any number of keys in at most `2n` places.
///
/// Reusable: after [`Reservoir::reset`] no memory is allocated unless `n` grows.
#[derive(Clone, Debug, Default)]
pub struct Reservoir {
    /// Up to `2n` keys, unordered.
    keys: Vec<u64>,
    n: usize,
    /// A key must be larger than this to count: the nth best at the last tightening; 0, below every key, before it.
    floor: u64,
}

impl Reservoir {
    /// An empty reservoir for the best `n`; it allocates when keys come.
    pub fn new(n: usize) -> Self {
        let mut reservoir = Reservoir::default();
        reservoir.reset(n);
        reservoir
    }

    /// Forgets all keys and keeps the best `n` from now on.
    pub fn reset(&mut self, n: usize) {
        self.keys.clear();
        self.n = n;
        self.floor = if n == 0 { u64::MAX } else { 0 };
    }

    /// Whether a key made by [`order_key`] may still count.
    #[inline]
    pub fn admits(&self, key: u64) -> bool {
        key > self.floor
    }

    /// Offers a key made by [`order_key`].
    #[inline]
    pub fn push(&mut self, key: u64) {
        if self.admits(key) {
            self.keys.push(key);
            if self.keys.len() >= 2 * self.n {
                self.tighten();
            }
        }
    }

    /// Drops everything but the best `n` and raises the threshold to the nth best, if as many are held.
    pub fn tighten(&mut self) {
        if self.n > 0 && self.keys.len() >= self.n {
            let (_, nth, _) = self.keys.select_nth_unstable_by(self.n - 1, |a, b| b.cmp(a));
            self.floor = *nth;
            self.keys.truncate(self.n);
        }
    }

    /// The score of the nth best at the last tightening; a key with a lower score can no longer count, one with an equal
    /// score may. `None` before the first tightening. It only rises.
    pub fn threshold(&self) -> Option<f32> {
        (self.n > 0 && self.floor > 0).then(|| split_key(self.floor).0)
    }

    /// The keys held: between all that could still count and `2n`, unordered.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// The best `n` (or all, if fewer came) by ascending id. The reservoir stays usable.
    pub fn by_id(&mut self) -> &mut [u64] {
        self.tighten();
        self.keys.sort_unstable_by_key(|&key| !(key as u32));
        &mut self.keys
    }

    /// Of the best `n` (or all, if fewer came) the best `k` (at least one), and of the others those that reach the score that `least` makes of
    /// the `k`th best score; best first. The reservoir stays usable, but has forgotten the rest.
    pub fn finish_near(&mut self, k: usize, least: impl FnOnce(f32) -> f32) -> &mut [u64] {
        self.tighten();
        let k = k.max(1);
        if k < self.keys.len() {
            let (_, kth, _) = self.keys.select_nth_unstable_by(k - 1, |a, b| b.cmp(a));
            let least = order_key(least(split_key(*kth).0), u32::MAX);
            let mut before = 0;
            self.keys.retain(|&key| {
                before += 1;
                before <= k || key >= least
            });
        }
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        &mut self.keys
    }

    /// The best `n` (or all, if fewer came), best first. The reservoir stays usable.
    pub fn finish(&mut self) -> &mut [u64] {
        self.tighten();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        &mut self.keys
    }
}

/// The best `k` pairs `(score, id)`: a [`Reservoir`] for callers that do not handle keys.
#[derive(Clone, Debug, Default)]
pub struct TopK {
    reservoir: Reservoir,
}

impl TopK {
    /// Empty, for the best `k`.
    pub fn new(k: usize) -> Self {
        TopK { reservoir: Reservoir::new(k) }
    }

    /// Forgets all pairs and keeps the best `k` from now on.
    pub fn reset(&mut self, k: usize) {
        self.reservoir.reset(k);
    }

    /// Offers a pair.
    ///
    /// # Panics
    /// If `score` is NaN.
    #[inline]
    pub fn push(&mut self, score: f32, id: u32) {
        self.reservoir.push(order_key(score, id));
    }

    /// See [`Reservoir::threshold`].
    pub fn threshold(&self) -> Option<f32> {
        self.reservoir.threshold()
    }

    /// The best `k` pairs (or all, if fewer came), best score first, lower id first where scores are equal.
    pub fn finish(&mut self) -> impl ExactSizeIterator<Item = (f32, u32)> {
        self.reservoir.finish().iter().map(|&key| split_key(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The oracle: sort everything.
    fn sorted(pairs: &[(f32, u32)], k: usize) -> Vec<(f32, u32)> {
        let mut all = pairs.to_vec();
        all.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap().then(a.1.cmp(&b.1)));
        all.truncate(k);
        all
    }

    fn score() -> impl Strategy<Value = f32> {
        // Few distinct values, so that ties are common; and every float that is not NaN.
        prop_oneof![(-3i8..3).prop_map(f32::from), any::<f32>().prop_filter("NaN", |s| !s.is_nan())]
    }

    proptest! {
        #[test]
        fn equals_a_sort(pairs in prop::collection::vec((score(), 0u32..50), 0..300), k in 0usize..40) {
            let mut top = TopK::new(k);
            for &(score, id) in &pairs {
                top.push(score, id);
            }
            prop_assert_eq!(top.finish().collect::<Vec<_>>(), sorted(&pairs, k));
            let mut by_id = sorted(&pairs, k);
            by_id.sort_by_key(|pair| pair.1);
            let mut near = top.reservoir.clone();
            let ids = |pairs: &[(f32, u32)]| pairs.iter().map(|pair| pair.1).collect::<Vec<_>>();
            let found: Vec<_> = top.reservoir.by_id().iter().map(|&key| split_key(key)).collect();
            prop_assert_eq!(ids(&found), ids(&by_id));
            let some = k.min(7);
            let best = sorted(&pairs, k);
            if some > 0 {
                let least = |kth: f32| kth - 2.0;
                let kept = best.iter().enumerate();
                let kept = kept.filter(|&(at, pair)| at < some || pair.0 >= least(best[some - 1].0)).map(|(_, &pair)| pair);
                let found: Vec<_> = near.finish_near(some, least).iter().map(|&key| split_key(key)).collect();
                prop_assert_eq!(found, kept.collect::<Vec<_>>());
            }
        }

        #[test]
        fn keys_split_back_and_order(a in (score(), any::<u32>()), b in (score(), any::<u32>())) {
            let (x, y) = (order_key(a.0, a.1), order_key(b.0, b.1));
            prop_assert_eq!(split_key(x), a);
            prop_assert_eq!(x > y, a.0 > b.0 || (a.0 == b.0 && a.1 < b.1));
        }

        #[test]
        fn the_threshold_never_excludes_a_winner(scores in prop::collection::vec(score(), 1..200), k in 1usize..20) {
            let pairs: Vec<_> = scores.iter().zip(0..).map(|(&s, id)| (s, id)).collect();
            let mut kept = Reservoir::new(k);
            let mut last = f32::NEG_INFINITY;
            for &(score, id) in &pairs {
                // What a scan does: only scores that reach the threshold are offered.
                if kept.threshold().is_none_or(|t| score >= t) {
                    kept.push(order_key(score, id));
                }
                prop_assert!(kept.keys().len() < 2 * k);
                prop_assert!(kept.threshold().is_none_or(|t| t >= last));
                last = kept.threshold().unwrap_or(last);
            }
            let found: Vec<_> = kept.finish().iter().map(|&key| split_key(key)).collect();
            prop_assert_eq!(found, sorted(&pairs, k));
        }
    }

    #[test]
    fn zeros_tie_and_infinities_order() {
        assert_eq!(order_key(-0.0, 7), order_key(0.0, 7));
        assert!(order_key(f32::INFINITY, 9) > order_key(f32::MAX, 0));
        assert!(order_key(f32::NEG_INFINITY, 0) < order_key(f32::MIN, 9));
        assert!(order_key(f32::NEG_INFINITY, u32::MAX) > 0, "0 is below every key");
    }

    #[test]
    #[should_panic(expected = "the score of row 3 is NaN")]
    fn nan_is_asserted_against() {
        TopK::new(1).push(f32::NAN, 3);
    }

    #[test]
    fn reuse_allocates_nothing_and_remembers_nothing() {
        let mut kept = Reservoir::new(10);
        (0..1000).for_each(|id| kept.push(order_key(1.0, id)));
        let capacity = kept.keys.capacity();
        assert!(capacity <= 32, "bounded by 2n: {capacity}");
        kept.reset(10);
        assert_eq!((kept.threshold(), kept.finish().len()), (None, 0));
        (0..1000).for_each(|id| kept.push(order_key(-1.0, id)));
        assert_eq!(split_key(kept.finish()[9]), (-1.0, 9));
        assert_eq!(kept.keys.capacity(), capacity);
    }
}
