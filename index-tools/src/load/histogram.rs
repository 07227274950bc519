//! Durations by bucket, each at most 1/128 wide of what it holds, from nanoseconds to a day: quantiles without keeping
//! every value.

use std::time::Duration;

use serde_json::{Value, json};

/// Buckets of each power of two, as a power of two.
const BITS: u32 = 7;

/// How often each duration was seen.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Grown to the largest value seen.
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    most: u64,
}

/// Below 2^BITS a value is its own bucket; above, its BITS + 1 leading bits choose it.
fn bucket(value: u64) -> usize {
    let shift = (64 - value.leading_zeros()).saturating_sub(BITS + 1);
    (u64::from(shift) << BITS) as usize + (value >> shift) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let shift = (bucket >> BITS).saturating_sub(1) as u32;
    let leading = (bucket as u64) - (u64::from(shift) << BITS);
    ((leading + 1) << shift) - 1
}

impl Histogram {
    /// Adds one duration.
    pub fn record(&mut self, duration: Duration) {
        let value = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(1 << 47);
        let bucket = bucket(value);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        self.buckets[bucket] += 1;
        self.count += 1;
        self.sum += u128::from(value);
        self.most = self.most.max(value);
    }

    /// Durations seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration, in milliseconds, that a share `q` (0 to 1) of all do not exceed: at most 1/128 too large; 0 where
    /// nothing was seen.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        let found = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        });
        found.map_or(0.0, |bucket| upper(bucket).min(self.most) as f64 / 1e6)
    }

    /// Mean in milliseconds; 0 where nothing was seen.
    pub fn mean_ms(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64 / 1e6
    }

    /// The quantiles that reports have, in milliseconds; null where nothing was seen.
    pub fn json(&self) -> Value {
        if self.count == 0 {
            return Value::Null;
        }
        json!({
            "mean": self.mean_ms(), "p50": self.quantile_ms(0.5), "p90": self.quantile_ms(0.9), "p99": self.quantile_ms(0.99),
            "p99_9": self.quantile_ms(0.999), "max": self.most as f64 / 1e6,
        })
    }
}

#[cfg(test)]
mod tests {
    use bigrain::sample::Rng;

    use super::*;

    #[test]
    fn buckets_follow_each_other_and_hold_their_values() {
        let mut last = 0;
        for value in (0..5000).chain((5..47).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let bucket = bucket(value);
            assert!(upper(bucket) >= value, "{value}");
            assert!(upper(bucket) - value <= value / 128, "{value} in a bucket up to {}", upper(bucket));
            assert!(bucket == 0 || upper(bucket - 1) < value, "{value} is above the bucket before");
            last = last.max(bucket);
        }
        assert!(last < 6000, "{last} buckets for a day and a half");
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut rng = Rng::new(3);
        let mut values: Vec<u64> = (0..10_000).map(|_| (rng.unit_f64() * 20.0).exp() as u64).collect();
        let mut all = Histogram::default();
        for value in &values {
            all.record(Duration::from_nanos(*value));
        }
        values.sort_unstable();
        for q in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = ((q * 10_000.0) as usize).clamp(1, 10_000);
            let exact = values[rank - 1] as f64 / 1e6;
            let found = all.quantile_ms(q);
            assert!(found >= exact && found <= exact * (1.0 + 1.0 / 127.0), "{q}: {found} for {exact}");
        }
        assert_eq!(all.count(), 10_000);
        assert_eq!(Histogram::default().quantile_ms(0.5), 0.0);
        assert!(Histogram::default().json().is_null());
    }
}
