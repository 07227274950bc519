//! The losses of one step over scores of views, and their gradients.
//!
//! With `s_ct` the student's score of view `t` of candidate `c`, `u_ct` the teacher's, the score of a candidate is that of its best
//! view, and candidate 0 is the right one. Mean over mentions of
//! ```text
//! CE(max_t s)  +  CE(max_t u)  +  a KL( softmax_c u_ct* || softmax_c s_ct* )  +  b mean_c KL( softmax_t u_ct || softmax_t s_ct )
//! ```
//! where `t*` is the view of a candidate that the teacher likes best: the first divergence aligns candidates, the second the views of
//! each candidate (multi-view distillation: Liu et al., 2023). The divergences have no gradient for the teacher: it learns from labels
//! alone, and is not drawn to a weaker student. Every part is a cross-entropy of a softmax, so its gradient is `softmax - target`.

use crate::train::loss::softmax;

/// Which scores belong together: mentions have equally many candidates, candidates any number of views from 1 on.
#[derive(Debug, Clone, Default)]
pub(super) struct Shape {
    /// First score of each candidate, mention by mention, then the number of scores.
    pub(super) starts: Vec<usize>,
    /// Candidates of a mention; the first is right.
    pub(super) candidates: usize,
}

impl Shape {
    pub(super) fn mentions(&self) -> usize {
        (self.starts.len() - 1) / self.candidates
    }

    /// The scores of a candidate.
    fn views(&self, mention: usize, candidate: usize) -> std::ops::Range<usize> {
        let at = mention * self.candidates + candidate;
        self.starts[at]..self.starts[at + 1]
    }
}

/// Weights of the divergences.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weights {
    pub(super) across: f32,
    pub(super) within: f32,
}

/// Mean losses over the mentions of a step, without weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Losses {
    pub(super) student: f32,
    pub(super) teacher: f32,
    pub(super) across: f32,
    pub(super) within: f32,
}

/// The losses; `student` and `teacher` scores become their gradients. Without a teacher there is the student's own loss alone.
pub(super) fn losses(shape: &Shape, weights: Weights, student: &mut [f32], teacher: Option<&mut [f32]>) -> Losses {
    let (mut sum, scores) = (Losses::default(), student.to_vec());
    student.fill(0.0);
    let share = 1.0 / shape.mentions() as f32;
    for mention in 0..shape.mentions() {
        sum.student += cross_entropy(shape, mention, &scores, student) * share;
    }
    let Some(teacher) = teacher else { return sum };
    let taught = teacher.to_vec();
    teacher.fill(0.0);
    for mention in 0..shape.mentions() {
        sum.teacher += cross_entropy(shape, mention, &taught, teacher) * share;
        sum.across += across(shape, mention, weights.across * share, &scores, &taught, student) * share;
        sum.within += within(shape, mention, weights.within * share, &scores, &taught, student) * share;
    }
    sum
}

/// The place of the best view of each candidate, the first of equal ones.
fn best_views(shape: &Shape, mention: usize, scores: &[f32]) -> Vec<usize> {
    let best = |candidate| {
        let views = shape.views(mention, candidate);
        let first = views.start;
        views.fold(first, |best, at| if scores[at] > scores[best] { at } else { best })
    };
    (0..shape.candidates).map(best).collect()
}

/// `-log softmax` of candidate 0 over best views; adds its gradient, divided by the number of mentions.
fn cross_entropy(shape: &Shape, mention: usize, scores: &[f32], gradient: &mut [f32]) -> f32 {
    let best = best_views(shape, mention, scores);
    let mut row: Vec<f32> = best.iter().map(|&at| scores[at]).collect();
    let right = row[0];
    let log_sum = softmax(&mut row, 1.0 / shape.mentions() as f32);
    best.iter().zip(&row).for_each(|(&at, p)| gradient[at] += p);
    gradient[best[0]] -= 1.0 / shape.mentions() as f32;
    log_sum - right
}

/// The divergence over the candidates, each at the teacher's best view of it; adds its gradient times `weight`.
fn across(shape: &Shape, mention: usize, weight: f32, student: &[f32], teacher: &[f32], gradient: &mut [f32]) -> f32 {
    divergence(&best_views(shape, mention, teacher), weight, student, teacher, gradient)
}

/// The mean divergence over the views of each candidate; adds its gradient times `weight`.
fn within(shape: &Shape, mention: usize, weight: f32, student: &[f32], teacher: &[f32], gradient: &mut [f32]) -> f32 {
    let share = 1.0 / shape.candidates as f32;
    let of = |candidate| {
        let views: Vec<usize> = shape.views(mention, candidate).collect();
        divergence(&views, weight * share, student, teacher, gradient) * share
    };
    (0..shape.candidates).map(of).sum()
}

/// `KL(softmax of the teacher's || softmax of the student's)` scores at some places; adds `weight` times its gradient for the student.
fn divergence(places: &[usize], weight: f32, student: &[f32], teacher: &[f32], gradient: &mut [f32]) -> f32 {
    if places.len() < 2 {
        return 0.0;
    }
    let at = |scores: &[f32]| places.iter().map(|&at| scores[at]).collect::<Vec<f32>>();
    let (raw_target, raw) = (at(teacher), at(student));
    let (mut target, mut own) = (raw_target.clone(), raw.clone());
    let (target_sum, own_sum) = (softmax(&mut target, 1.0), softmax(&mut own, 1.0));
    let mut loss = 0.0;
    for (i, &place) in places.iter().enumerate() {
        gradient[place] += weight * (own[i] - target[i]);
        loss += target[i] * ((raw_target[i] - target_sum) - (raw[i] - own_sum));
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Rng;

    /// Three mentions of four candidates with one to three views.
    fn shape() -> Shape {
        let mut starts = vec![0];
        (0..12).for_each(|at| starts.push(starts[at] + 1 + at * 5 % 3));
        Shape { starts, candidates: 4 }
    }

    fn random(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed);
        (0..n).map(|_| rng.normal() * 2.0).collect()
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (shape, weights) = (shape(), Weights { across: 0.3, within: 0.7 });
        let n = *shape.starts.last().unwrap();
        let (student, teacher) = (random(n, 1), random(n, 2));
        let total = |student: &[f32], teacher: &[f32], of_teacher: bool| {
            let l = losses(&shape, weights, &mut student.to_vec(), Some(&mut teacher.to_vec()));
            match of_teacher {
                // The teacher learns from labels alone.
                true => f64::from(l.teacher),
                false => f64::from(l.student) + f64::from(0.3 * l.across) + f64::from(0.7 * l.within),
            }
        };
        let (mut by_student, mut by_teacher) = (student.clone(), teacher.clone());
        losses(&shape, weights, &mut by_student, Some(&mut by_teacher));
        for at in 0..n {
            let moved = |scores: &[f32], by: f32| {
                let mut scores = scores.to_vec();
                scores[at] += by;
                scores
            };
            let h = 5e-3;
            let student_slope = (total(&moved(&student, h), &teacher, false)
                - total(&moved(&student, -h), &teacher, false))
                / f64::from(2.0 * h);
            let teacher_slope = (total(&student, &moved(&teacher, h), true)
                - total(&student, &moved(&teacher, -h), true))
                / f64::from(2.0 * h);
            assert!(
                (student_slope - f64::from(by_student[at])).abs() < 3e-4,
                "{at}: {student_slope} {}",
                by_student[at]
            );
            assert!(
                (teacher_slope - f64::from(by_teacher[at])).abs() < 3e-4,
                "{at}: {teacher_slope} {}",
                by_teacher[at]
            );
        }
    }

    #[test]
    fn known_values() {
        // One mention, two candidates: views (1, 3) and (2).
        let shape = Shape { starts: vec![0, 2, 3], candidates: 2 };
        let weights = Weights { across: 1.0, within: 1.0 };
        let scores = vec![1.0, 3.0, 2.0];
        let same = losses(&shape, weights, &mut scores.clone(), Some(&mut scores.clone()));
        let due = (1.0 + (-1f32).exp()).ln();
        assert!((same.student - due).abs() < 1e-6 && same.teacher == same.student, "{same:?}");
        assert!(same.across.abs() < 1e-6 && same.within.abs() < 1e-6, "a student that is its teacher: {same:?}");
        let mut gradient = scores.clone();
        losses(&shape, weights, &mut gradient, None);
        assert!(gradient[0] == 0.0 && (gradient[1] + gradient[2]).abs() < 1e-6, "only best views learn: {gradient:?}");
        // A teacher that likes the other view of the first candidate makes the student look there.
        let other = losses(&shape, weights, &mut scores.clone(), Some(&mut [5.0, 0.0, 2.0]));
        assert!(other.across > 0.1 && other.within > 0.3, "{other:?}");
    }
}
