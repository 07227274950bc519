//! AdamW (Loshchilov and Hutter, 2019) with a linear warm-up, a linear decay and a bound on the gradient's norm.

use ndarray::Array2;

#[cfg(feature = "text")]
use super::sparse::SparseParameter;
use crate::error::{Error, Result};

pub(super) const BETA1: f32 = 0.9;
pub(super) const BETA2: f32 = 0.999;
/// Far below any gradient that matters here: unit vectors and mean losses give elements of about 1e-5.
pub(super) const EPSILON: f32 = 1e-10;

/// A loss may be high for this many steps: the start of training is bumpy.
const PATIENT_STEPS: u64 = 20;

/// A matrix that is trained, with its gradient and Adam's running moments.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) value: Array2<f32>,
    pub(crate) gradient: Array2<f32>,
    /// Running means of the gradient and of its square.
    pub(crate) mean: Array2<f32>,
    pub(crate) square: Array2<f32>,
    /// Highest learning rate.
    pub(crate) rate: f32,
    /// Decoupled weight decay, towards `anchor` if there is one, else towards zero.
    pub(crate) decay: f32,
    pub(crate) anchor: Option<Array2<f32>>,
}

impl Parameter {
    pub(crate) fn new(value: Array2<f32>, rate: f32) -> Parameter {
        let zeros = || Array2::zeros(value.dim());
        let (gradient, mean, square) = (zeros(), zeros(), zeros());
        Parameter { value, gradient, mean, square, rate, decay: 0.0, anchor: None }
    }

    /// Forgets what Adam knows of row-major elements `range`, whose values were replaced.
    pub(crate) fn forget(&mut self, element: (usize, usize)) {
        self.mean[element] = 0.0;
        self.square[element] = 0.0;
    }
}

/// How the learning rate runs, and how large a gradient may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Steps of linear growth.
    pub(crate) warmup: u64,
    /// Steps in all; the rate falls linearly towards zero at the last.
    pub(crate) total: u64,
    /// Largest norm of all gradients together.
    pub(crate) clip: f32,
}

impl Schedule {
    /// Factor of the learning rate at `step`, counted from 0.
    pub(crate) fn factor(&self, step: u64) -> f32 {
        if step < self.warmup {
            return (step + 1) as f32 / self.warmup as f32;
        }
        let left = self.total.saturating_sub(step) as f32;
        left / (self.total - self.warmup).max(1) as f32
    }

    /// One update of every parameter from its gradient, which is cleared. Returns the norm before it was clipped.
    pub(crate) fn step(&self, step: u64, parameters: &mut [&mut Parameter]) -> f32 {
        let square = squares(parameters);
        let scale = self.scale(square);
        self.update(step, scale, parameters);
        square.sqrt() as f32
    }

    /// The same with a table, of which a step touches few rows.
    #[cfg(feature = "text")]
    pub(super) fn step_with(&self, step: u64, parameters: &mut [&mut Parameter], table: &mut SparseParameter) -> f32 {
        let square = squares(parameters) + table.square();
        let scale = self.scale(square);
        self.update(step, scale, parameters);
        table.update(scale, self.factor(step));
        square.sqrt() as f32
    }

    /// What gradients of this squared norm are multiplied by.
    fn scale(&self, square: f64) -> f32 {
        let norm = square.sqrt() as f32;
        if norm > self.clip { self.clip / norm } else { 1.0 }
    }

    fn update(&self, step: u64, scale: f32, parameters: &mut [&mut Parameter]) {
        let factor = self.factor(step);
        let (correct1, correct2) = corrections(step + 1);
        for parameter in parameters {
            parameter.update(scale, factor, correct1, correct2);
        }
    }
}

/// Squared norm of all gradients together.
fn squares(parameters: &[&mut Parameter]) -> f64 {
    parameters.iter().flat_map(|p| p.gradient.iter()).map(|&g| f64::from(g) * f64::from(g)).sum()
}

/// What running means over `steps` steps, which start at zero, are divided by.
pub(super) fn corrections(steps: u64) -> (f32, f32) {
    let count = steps.min(i32::MAX as u64) as i32;
    (1.0 - BETA1.powi(count), 1.0 - BETA2.powi(count))
}

/// Refuses a loss that is not finite, or so far above that of guessing among `columns` that it never comes back.
pub(crate) fn check_divergence(step: u64, loss: f32, norm: f32, columns: usize) -> Result<()> {
    let guessing = (columns as f32).ln();
    if loss.is_finite() && norm.is_finite() && (step < PATIENT_STEPS || loss < 3.0 * guessing + 3.0) {
        return Ok(());
    }
    Err(Error::Diverged {
        step,
        reason: format!("the loss is {loss} where guessing has {guessing:.2}, the norm of the gradient {norm}"),
        remedy: "lower the learning rate or raise the temperature".into(),
    })
}

impl Parameter {
    fn update(&mut self, scale: f32, factor: f32, correct1: f32, correct2: f32) {
        let rate = self.rate * factor;
        if self.decay > 0.0 {
            match &self.anchor {
                Some(anchor) => self.value.zip_mut_with(anchor, |v, a| *v -= rate * self.decay * (*v - a)),
                None => self.value.mapv_inplace(|v| v * (1.0 - rate * self.decay)),
            }
        }
        let slices = [&mut self.value, &mut self.gradient, &mut self.mean, &mut self.square]
            .map(|a| a.as_slice_mut().expect("C order"));
        let [value, gradient, mean, square] = slices;
        for (((v, g), m), s) in value.iter_mut().zip(gradient).zip(mean).zip(square) {
            let g1 = *g * scale;
            *m = BETA1 * *m + (1.0 - BETA1) * g1;
            *s = BETA2 * *s + (1.0 - BETA2) * g1 * g1;
            *v -= rate * (*m / correct1) / ((*s / correct2).sqrt() + EPSILON);
            *g = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_grows_then_falls_to_zero() {
        let schedule = Schedule { warmup: 4, total: 12, clip: 1.0 };
        let factors: Vec<f32> = (0..13).map(|s| schedule.factor(s)).collect();
        assert_eq!(factors[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert!(factors[4..].is_sorted_by(|a, b| a > b) && factors[12] == 0.0);
    }

    #[test]
    fn finds_the_minimum_of_a_quadratic_and_clears_gradients() {
        let mut p = Parameter::new(Array2::from_elem((1, 2), 3.0), 0.1);
        let schedule = Schedule { warmup: 1, total: 400, clip: 1.0 };
        for step in 0..400 {
            p.gradient = p.value.mapv(|v| 2.0 * (v - 1.0));
            schedule.step(step, &mut [&mut p]);
            assert!(p.gradient.iter().all(|&g| g == 0.0));
        }
        assert!(p.value.iter().all(|v| (v - 1.0).abs() < 1e-2), "{}", p.value);
    }

    #[test]
    fn the_first_step_has_the_length_of_the_rate_and_the_norm_is_that_of_the_gradient() {
        let mut p = Parameter::new(Array2::zeros((1, 2)), 0.5);
        p.gradient = ndarray::arr2(&[[30.0, -40.0]]);
        let norm = Schedule { warmup: 1, total: 10, clip: 1.0 }.step(0, &mut [&mut p]);
        assert!((norm - 50.0).abs() < 1e-4);
        assert!((p.value[[0, 0]] + 0.5).abs() < 1e-4 && (p.value[[0, 1]] - 0.5).abs() < 1e-4);
    }

    #[test]
    fn losses_that_never_come_back_are_refused() {
        assert!(check_divergence(100, 8.0, 1.0, 1000).is_ok() && check_divergence(3, 90.0, 1.0, 1000).is_ok());
        for (loss, norm) in [(f32::NAN, 1.0), (1.0, f32::INFINITY), (90.0, 1.0)] {
            let message = check_divergence(100, loss, norm, 1000).unwrap_err().to_string();
            assert!(message.contains("step 100") && message.contains("lower the learning rate"), "{message}");
        }
    }

    #[test]
    fn decay_pulls_towards_the_anchor() {
        let mut p = Parameter::new(Array2::from_elem((1, 1), 2.0), 0.5);
        (p.decay, p.anchor) = (0.1, Some(Array2::ones((1, 1))));
        Schedule { warmup: 1, total: 10, clip: 1.0 }.step(0, &mut [&mut p]);
        assert!((p.value[[0, 0]] - 1.95).abs() < 1e-6);
    }
}
