//! AdamW for a table of which a step touches few rows.
//!
//! The easy version updates every row in every step, most of them by an old mean of gradients alone. Here a row that no text of
//! the batch holds is left as it is, with its running means; the bias of these means is corrected by the number of steps that
//! touched *the row*, so that the first step of a rare token is as long as that of a frequent one. To each row this is AdamW over
//! the steps that touch it.

use ndarray::Array2;

use super::optimiser::{BETA1, BETA2, EPSILON, corrections};

/// A table that is trained (rows x e).
#[derive(Debug, Clone)]
pub(super) struct SparseParameter {
    pub(super) value: Array2<f32>,
    /// Zero outside of `touched`.
    gradient: Array2<f32>,
    mean: Array2<f32>,
    square: Array2<f32>,
    /// Steps that touched each row.
    steps: Vec<u32>,
    /// Rows of this step, in the order in which they came.
    touched: Vec<u32>,
    is_touched: Vec<bool>,
    /// Highest learning rate.
    rate: f32,
}

impl SparseParameter {
    pub(super) fn new(value: Array2<f32>, rate: f32) -> SparseParameter {
        let rows = value.nrows();
        let zeros = || Array2::zeros(value.dim());
        let (gradient, mean, square) = (zeros(), zeros(), zeros());
        let (steps, is_touched) = (vec![0; rows], vec![false; rows]);
        SparseParameter { value, gradient, mean, square, steps, touched: Vec::new(), is_touched, rate }
    }

    /// Adds `factor g` to the gradient of a row.
    pub(super) fn add(&mut self, row: u32, factor: f32, g: &[f32]) {
        if !std::mem::replace(&mut self.is_touched[row as usize], true) {
            self.touched.push(row);
        }
        let mut target = self.gradient.row_mut(row as usize);
        target.iter_mut().zip(g).for_each(|(t, g)| *t += factor * g);
    }

    /// Squared norm of the gradient.
    pub(super) fn square(&self) -> f64 {
        let of_row =
            |&row: &u32| -> f64 { self.gradient.row(row as usize).iter().map(|&g| f64::from(g) * f64::from(g)).sum() };
        self.touched.iter().map(of_row).sum()
    }

    /// Updates the rows of this step from their gradients, times `scale`, and clears these.
    pub(super) fn update(&mut self, scale: f32, factor: f32) {
        let rate = self.rate * factor;
        for row in std::mem::take(&mut self.touched) {
            let row = row as usize;
            self.is_touched[row] = false;
            self.steps[row] += 1;
            let (correct1, correct2) = corrections(u64::from(self.steps[row]));
            let [mut value, mut gradient, mut mean, mut square] =
                [&mut self.value, &mut self.gradient, &mut self.mean, &mut self.square].map(|a| a.row_mut(row));
            for (((v, g), m), s) in value.iter_mut().zip(&mut gradient).zip(&mut mean).zip(&mut square) {
                let g1 = *g * scale;
                *m = BETA1 * *m + (1.0 - BETA1) * g1;
                *s = BETA2 * *s + (1.0 - BETA2) * g1 * g1;
                *v -= rate * (*m / correct1) / ((*s / correct2).sqrt() + EPSILON);
                *g = 0.0;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn gradient(&self) -> &Array2<f32> {
        &self.gradient
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;
    use crate::train::optimiser::{Parameter, Schedule};

    #[test]
    fn a_row_is_dense_adam_over_the_steps_that_touch_it() {
        let mut rng = Rng::new(1);
        let start = Array2::from_shape_fn((3, 4), |_| rng.normal());
        let schedule = Schedule { warmup: 1, total: u64::MAX, clip: 1e9 };
        let mut table = SparseParameter::new(start.clone(), 0.1);
        // A dense parameter of its own for each row.
        let mut dense: Vec<Parameter> =
            (0..3).map(|i| Parameter::new(start.select(ndarray::Axis(0), &[i]), 0.1)).collect();
        let mut counts = [0u64; 3];
        for step in 0..40u64 {
            for row in 0..3u32 {
                // Row 0 in every step, row 1 in every third, row 2 never.
                if row == 2 || (row == 1 && step % 3 != 0) {
                    continue;
                }
                let g: Vec<f32> = (0..4).map(|_| rng.normal()).collect();
                table.add(row, 0.5, &g);
                table.add(row, 0.5, &g);
                let own = &mut dense[row as usize];
                own.gradient.iter_mut().zip(&g).for_each(|(t, g)| *t = *g);
                schedule.step(counts[row as usize], &mut [own]);
                counts[row as usize] += 1;
            }
            schedule.step_with(step, &mut [], &mut table);
            assert!(table.gradient().iter().all(|&g| g == 0.0));
        }
        for (row, dense) in dense.iter().enumerate() {
            let near = table.value.row(row).iter().zip(dense.value.row(0)).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near, "row {row}");
        }
        assert_eq!(table.value.row(2), start.row(2));
    }

    #[test]
    fn the_norm_is_that_of_all_gradients_together() {
        let mut table = SparseParameter::new(Array2::zeros((2, 2)), 0.5);
        let mut p = Parameter::new(Array2::zeros((1, 1)), 0.5);
        table.add(1, 1.0, &[12.0, 3.0]);
        p.gradient[[0, 0]] = -4.0;
        let norm = Schedule { warmup: 1, total: 10, clip: 1.0 }.step_with(0, &mut [&mut p], &mut table);
        assert!((norm - 13.0).abs() < 1e-4, "{norm}");
        assert!((table.value[[1, 0]] + 0.5).abs() < 1e-3 && (p.value[[0, 0]] - 0.5).abs() < 1e-3);
    }
}
