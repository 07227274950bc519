//! The rate that a server can just hold.

use bigrain::error::Result;

/// Doublings and halvings before the search gives up: a factor of about a million.
const STRIDES: usize = 20;
/// Halvings of the interval, in ratio: the answer is within 2^(1/2^4), 4.4 %, of the limit.
const HALVINGS: usize = 4;

/// The largest rate found for which `holds`: doubled (or halved) from `start` until that changes, then narrowed down. None where
/// no rate holds.
///
/// # Errors
/// Those of `holds`.
pub fn saturation(start: f64, holds: &mut dyn FnMut(f64) -> Result<bool>) -> Result<Option<f64>> {
    let first = holds(start)?;
    let stride = if first { 2.0 } else { 0.5 };
    let (mut last, mut turned) = (start, None);
    for _ in 0..STRIDES {
        let next = last * stride;
        if holds(next)? != first {
            turned = Some(next);
            break;
        }
        last = next;
    }
    let Some(turned) = turned else { return Ok(first.then_some(last)) };
    let (mut good, mut bad) = if first { (last, turned) } else { (turned, last) };
    for _ in 0..HALVINGS {
        let middle = (good * bad).sqrt();
        match holds(middle)? {
            true => good = middle,
            false => bad = middle,
        }
    }
    Ok(Some(good))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_found_from_below_and_from_above() {
        for (start, limit) in [(50.0, 777.0), (50.0, 51.0), (5000.0, 777.0), (1000.0, 3.0)] {
            let mut asked = 0;
            let found = saturation(start, &mut |rate| {
                asked += 1;
                Ok(rate <= limit)
            });
            let found = found.unwrap().unwrap();
            assert!(found <= limit && found > limit / 1.05, "{found} for {limit} from {start}");
            assert!(asked < 16, "{asked} loads");
        }
        assert_eq!(saturation(50.0, &mut |_| Ok(false)).unwrap(), None);
        assert!(saturation(50.0, &mut |_| Ok(true)).unwrap().unwrap() > 1e6);
    }
}
