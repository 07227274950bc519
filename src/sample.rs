//! Seeded random numbers and samples.
//!
//! The bytes of an index depend on these sequences, so the generator is the project's own and pinned by golden tests: a
//! crate's next major version must not change what a seed builds. It is xoshiro256++ (Blackman and Vigna, 2019) seeded
//! by SplitMix64 (Steele, Lea and Flood, 2014): four words of state, under a nanosecond a number, not for secrets.

use std::collections::HashSet;

/// One step of SplitMix64: advances `state` and returns a well-mixed word.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seeded generator of pseudo-random numbers.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
    /// The polar method makes normal numbers in pairs; this is the one not yet handed out.
    spare: Option<f64>,
}

impl Rng {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        Rng { state: std::array::from_fn(|_| split_mix(&mut state)), spare: None }
    }

    /// The `index`th independent sequence of `seed`: one a row, a list or a thread's piece of work, so that the numbers
    /// do not depend on who draws first.
    pub fn stream(seed: u64, index: u64) -> Self {
        // Mixed twice, so that neighbouring seeds and indexes do not share states: seed + index would.
        let mut state = seed;
        let mut mixed = split_mix(&mut state) ^ index;
        Rng::new(split_mix(&mut mixed))
    }

    /// 64 uniform bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        result
    }

    /// A uniform number in `0..n`, without bias (Lemire, 2019: the high word of a product, redrawn where it would favour).
    ///
    /// # Panics
    /// If `n` is 0.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "no number is below 0");
        let unfair = n.wrapping_neg() % n;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= unfair {
                return (product >> 64) as u64;
            }
        }
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    #[inline]
    pub fn unit_f32(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 * (1.0 / (1u64 << 24) as f32)
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-53.
    #[inline]
    pub fn unit_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Normal with mean 0 and variance 1 (Marsaglia's polar method).
    ///
    /// Computed in `f64` and rounded once: the logarithm's last bit, which differs between mathematical libraries, is
    /// rounded away almost always.
    pub fn normal(&mut self) -> f32 {
        if let Some(spare) = self.spare.take() {
            return spare as f32;
        }
        loop {
            let (x, y) = (2.0 * self.unit_f64() - 1.0, 2.0 * self.unit_f64() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                let factor = (-2.0 * square.ln() / square).sqrt();
                self.spare = Some(y * factor);
                return (x * factor) as f32;
            }
        }
    }

    /// Puts `items` in a uniformly random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

/// `want` distinct rows of `0..n`, ascending, every subset equally likely; all rows if `want >= n`.
///
/// Floyd's method: memory and time in proportion to `want`, whatever `n`.
pub fn sample_rows(n: u64, want: usize, seed: u64) -> Vec<u64> {
    if want as u64 >= n {
        return (0..n).collect();
    }
    let mut rng = Rng::new(seed);
    let mut chosen = HashSet::with_capacity(want);
    for last in n - want as u64..n {
        let row = rng.below(last + 1);
        // `last` cannot have been chosen before: all earlier draws were below it.
        if !chosen.insert(row) {
            chosen.insert(last);
        }
    }
    let mut rows: Vec<u64> = chosen.into_iter().collect();
    rows.sort_unstable();
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: a change here changes the bytes of every index. Never edit the numbers; add a new generator instead.
    #[test]
    fn sequences_are_pinned() {
        let mut rng = Rng::new(1);
        assert_eq!([rng.next_u64(), rng.next_u64()], [14971601782005023387, 13781649495232077965]);
        assert_eq!([rng.below(10), rng.below(1000)], [1, 746]);
        assert_eq!(rng.unit_f32().to_bits(), 1044192352);
        assert_eq!([rng.normal().to_bits(), rng.normal().to_bits()], [1024645702, 1044745842]);
        assert_eq!(Rng::stream(1, 2).next_u64(), 13502186381601466101);
        let mut items = [0, 1, 2, 3, 4, 5, 6, 7];
        Rng::new(3).shuffle(&mut items);
        assert_eq!(items, [1, 3, 7, 2, 6, 5, 4, 0]);
        assert_eq!(sample_rows(1000, 5, 7), [55, 171, 426, 716, 963]);
    }

    #[test]
    fn below_is_uniform() {
        let mut rng = Rng::new(4);
        let mut counts = [0i64; 6];
        (0..60_000).for_each(|_| counts[rng.below(6) as usize] += 1);
        // Five standard deviations of a binomial count.
        assert!(counts.iter().all(|&c| (c - 10_000).abs() < 460), "{counts:?}");
        assert!((0..100).all(|_| rng.below(1) == 0));
        assert!((0..100).any(|_| rng.below(u64::MAX) > u64::MAX / 2));
    }

    #[test]
    fn normal_has_the_moments_of_a_normal() {
        let mut rng = Rng::new(5);
        let draws: Vec<f64> = (0..100_000).map(|_| f64::from(rng.normal())).collect();
        let moment = |p: i32| draws.iter().map(|x| x.powi(p)).sum::<f64>() / draws.len() as f64;
        assert!(moment(1).abs() < 0.02, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.03, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.25, "kurtosis {}", moment(4));
    }

    #[test]
    fn units_stay_below_one() {
        let mut rng = Rng::new(6);
        assert!((0..10_000).all(|_| (0.0..1.0).contains(&rng.unit_f32()) && (0.0..1.0).contains(&rng.unit_f64())));
    }

    #[test]
    fn samples_are_ascending_distinct_and_fair() {
        let mut seen = [0i64; 20];
        for seed in 0..4_000 {
            let rows = sample_rows(20, 5, seed);
            assert_eq!(rows.len(), 5);
            assert!(rows.is_sorted_by(|a, b| a < b), "{rows:?}");
            rows.iter().for_each(|&r| seen[r as usize] += 1);
        }
        // Each row is in a quarter of the samples: 1000, five standard deviations 137.
        assert!(seen.iter().all(|&c| (c - 1000).abs() < 137), "{seen:?}");
    }

    #[test]
    fn samples_at_the_edges() {
        assert_eq!(sample_rows(3, 3, 1), [0, 1, 2]);
        assert_eq!(sample_rows(3, 9, 1), [0, 1, 2]);
        assert_eq!(sample_rows(0, 9, 1), [0u64; 0]);
        assert_eq!(sample_rows(9, 0, 1), [0u64; 0]);
        assert!(sample_rows(u64::MAX, 3, 1).iter().any(|&r| r > u64::from(u32::MAX)));
    }

    #[test]
    fn streams_differ() {
        let first: HashSet<u64> = (0..100).flat_map(|s| (0..100).map(move |i| Rng::stream(s, i).next_u64())).collect();
        assert_eq!(first.len(), 10_000);
    }
}
