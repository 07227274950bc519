//! The functions between the products of a transformer, written so that the compiler vectorises them.

/// `e^x` to about 1e-7 of its value, for x between -87 and 88; below that next to zero.
///
/// `e^x = 2^n e^f` with `n` the nearest integer to `x log2(e)`; `e^f` for |f| <= ln(2)/2 by its series.
#[inline]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it leaves the nearest integer in the low bits.
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that n ln 2 loses nothing.
    let f = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let series =
        1.0 + f * (1.0 + f * (0.5 + f * (0.166_666_67 + f * (0.041_666_67 + f * (0.008_333_334 + f * 0.001_388_889)))));
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    series * power
}

/// The Gaussian error function to 2e-7 (Abramowitz and Stegun, 7.1.26).
#[inline]
fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let series = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    (1.0 - series * exp(-a * a)).copysign(x)
}

/// `x <- x Phi(x)`, the Gaussian error linear unit.
pub(super) fn gelu(x: &mut [f32]) {
    for v in x {
        *v *= 0.5 * (1.0 + erf(*v * std::f32::consts::FRAC_1_SQRT_2));
    }
}

/// The same by its approximation with a hyperbolic tangent: `x / (1 + e^-2u)`, `u = sqrt(2/pi) (x + 0.044715 x^3)`.
pub(super) fn gelu_tanh(x: &mut [f32]) {
    for v in x {
        let u = 0.797_884_6 * (*v + 0.044_715 * *v * *v * *v);
        *v /= 1.0 + exp(-2.0 * u);
    }
}

/// `x <- max(x, 0)`.
pub(super) fn relu(x: &mut [f32]) {
    x.iter_mut().for_each(|v| *v = v.max(0.0));
}

/// `x <- softmax(scale x)`.
pub(super) fn softmax(x: &mut [f32], scale: f32) {
    let most = x.iter().fold(f32::NEG_INFINITY, |most, &v| most.max(v));
    x.iter_mut().for_each(|v| *v = exp(scale * (*v - most)));
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|v| *v /= sum);
}

/// Scales a row to mean 0 and variance 1, then by `weight`, and adds `bias`.
pub(super) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    let n = x.len() as f32;
    let mean = x.iter().sum::<f32>() / n;
    let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / n;
    let scale = 1.0 / (variance + epsilon).sqrt();
    for ((v, w), b) in x.iter_mut().zip(weight).zip(bias) {
        *v = (*v - mean) * scale * w + b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_near() {
        for i in -8700..8800 {
            let x = i as f32 * 0.01;
            let near = f64::from(exp(x)) / f64::from(x).exp();
            assert!((near - 1.0).abs() < 4e-7, "{x}: {near}");
        }
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
    }

    /// The series of the error function.
    fn erf_by_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn units_are_those_of_the_definition() {
        for i in -400..400 {
            let x = i as f32 * 0.01;
            let expected = f64::from(x) * 0.5 * (1.0 + erf_by_series(f64::from(x) / 2f64.sqrt()));
            let (mut exact, mut tanh) = ([x], [x]);
            gelu(&mut exact);
            gelu_tanh(&mut tanh);
            assert!((f64::from(exact[0]) - expected).abs() < 1e-6, "{x}");
            assert!((f64::from(tanh[0]) - expected).abs() < 1e-3, "{x}");
        }
        let mut x = [-1.0, 2.0];
        relu(&mut x);
        assert_eq!(x, [0.0, 2.0]);
    }

    #[test]
    fn rows_are_scaled() {
        let mut x = [1.0, 2.0, 3.0];
        softmax(&mut x, 2.0);
        let expected = [(-4f32).exp(), (-2f32).exp(), 1.0].map(|v| v / (1.0 + (-2f32).exp() + (-4f32).exp()));
        assert!(x.iter().zip(expected).all(|(x, e)| (x - e).abs() < 1e-6), "{x:?}");
        let mut x = [1.0, 3.0];
        layer_norm(&mut x, &[2.0, 1.0], &[0.0, 5.0], 0.0);
        assert_eq!(x, [-2.0, 6.0]);
    }
}
