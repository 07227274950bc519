//! When requests are to be sent: a thread that sleeps from one to the next.
//!
//! The timer of the asynchronous runtime counts in milliseconds, as long as whole searches take; a sleeping thread is right to
//! a tenth of one and costs next to nothing.

use std::thread;
use std::time::{Duration, Instant};

use bigrain::sample::Rng;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The moments of a Poisson process of `rate` a second between `start` and `until`, each when it has come. The receiver may
/// fall behind: moments are what was intended, not when they are taken.
pub(super) fn arrivals(rate: f64, seed: u64, start: Instant, until: Instant) -> UnboundedReceiver<Instant> {
    let (sender, receiver) = unbounded_channel();
    thread::spawn(move || {
        let mut rng = Rng::new(seed);
        let mut next = start;
        loop {
            // Times between Poisson arrivals are exponential.
            next += Duration::from_secs_f64(-(1.0 - rng.unit_f64()).ln() / rate);
            if next >= until {
                return;
            }
            thread::sleep(next.saturating_duration_since(Instant::now()));
            if sender.send(next).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_a_poisson_process_and_come_in_time() {
        let start = Instant::now();
        let mut arrivals = arrivals(2000.0, 7, start, start + Duration::from_millis(500));
        let mut moments = Vec::new();
        while let Some(moment) = arrivals.blocking_recv() {
            assert!(Instant::now() >= moment, "not before its time");
            moments.push(moment);
        }
        assert!((840..1160).contains(&moments.len()), "{} for 1,000", moments.len());
        let gaps: Vec<f64> = moments.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 2000.0).collect();
        // Of exponential gaps, a share 1/e is longer than the mean; of equal ones, none or all.
        let long = gaps.iter().filter(|gap| **gap > 1.0).count() as f64 / gaps.len() as f64;
        assert!((0.3..0.44).contains(&long), "{long} are longer than the mean");
    }
}
