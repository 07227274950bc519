//! A figure of several seeds: their mean, and how far they lie from each other.

use std::fmt;

use serde::Serialize;

/// Mean and standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Mean; 0 of nothing.
    pub mean: f64,
    /// Standard deviation of the sample; 0 of one.
    pub deviation: f64,
    /// How many there are.
    pub count: usize,
}

impl Spread {
    /// That of some figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let figures: Vec<f64> = figures.into_iter().collect();
        let count = figures.len();
        let mean = figures.iter().sum::<f64>() / count.max(1) as f64;
        let squares: f64 = figures.iter().map(|f| (f - mean).powi(2)).sum();
        Spread { mean, deviation: (squares / count.saturating_sub(1).max(1) as f64).sqrt(), count }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 | 1 => write!(f, "{:.2}", self.mean),
            _ => write!(f, "{:.2} +- {:.2}", self.mean, self.deviation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_that_of_a_sample() {
        let spread = Spread::of([1.0, 2.0, 6.0]);
        assert_eq!((spread.mean, spread.count), (3.0, 3));
        assert!((spread.deviation - 7f64.sqrt()).abs() < 1e-12);
        assert_eq!(spread.to_string(), "3.00 +- 2.65");
        assert_eq!(Spread::of([2.0]).to_string(), "2.00");
    }
}
