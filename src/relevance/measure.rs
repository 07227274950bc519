//! How well a task is done.

use serde::Serialize;

use super::Target;

/// Figures of one task; what does not apply to its labels is None.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Rows that were judged.
    pub rows: usize,
    /// Share of the classes that are right.
    pub accuracy: Option<f32>,
    /// Of two classes: F1 of the rarer one, by the labels that were judged. Of more: the mean of every class's.
    pub f1: Option<f32>,
    /// Rank correlation of values.
    pub spearman: Option<f32>,
    /// The one that counts: rank correlation of values; F1 where the rarer of two classes has less than a quarter of the
    /// rows, for which accuracy says little; else accuracy.
    pub score: f32,
    /// Which of them that is.
    pub measure: &'static str,
}

impl Quality {
    /// That of answers: the class that was chosen or the value, beside the labels.
    pub fn of(target: &Target, answers: &[f32], labels: &[f32]) -> Quality {
        let rows = labels.len();
        let Target::Classes(classes) = target else {
            let correlation = spearman(answers, labels);
            let measure = "rank corr.";
            return Quality { rows, spearman: Some(correlation), score: correlation, measure, ..Quality::default() };
        };
        let right = answers.iter().zip(labels).filter(|(a, l)| a == l).count();
        let accuracy = right as f32 / rows.max(1) as f32;
        let count = |class: usize| labels.iter().filter(|&&label| label == class as f32).count();
        let (f1, rare) = if classes.len() == 2 {
            let rarer = usize::from(count(1) <= count(0));
            (f1(answers, labels, rarer as f32), (count(rarer) as f32) < 0.25 * rows as f32)
        } else {
            let each = (0..classes.len()).map(|class| f1(answers, labels, class as f32));
            (each.sum::<f32>() / classes.len() as f32, false)
        };
        let (score, measure) = if rare { (f1, "F1") } else { (accuracy, "accuracy") };
        Quality { rows, accuracy: Some(accuracy), f1: Some(f1), spearman: None, score, measure }
    }
}

/// Harmonic mean of precision and recall of a class; 0 where it is never found.
fn f1(answers: &[f32], labels: &[f32], class: f32) -> f32 {
    let count = |wanted: fn(bool, bool) -> bool| {
        answers.iter().zip(labels).filter(|(a, l)| wanted(**a == class, **l == class)).count() as f32
    };
    let (both, either) = (count(|a, l| a && l), count(|a, l| a != l));
    if both == 0.0 { 0.0 } else { 2.0 * both / (2.0 * both + either) }
}

/// Spearman's rank correlation: Pearson's of the ranks, equal values having the mean of theirs. 0 where either does not vary.
pub fn spearman(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len().max(1) as f64;
    let (ma, mb) = (mean(&a), mean(&b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&b) {
        let (x, y) = (x - ma, y - mb);
        (ab, aa, bb) = (ab + x * y, aa + x * x, bb + y * y);
    }
    if aa == 0.0 || bb == 0.0 { 0.0 } else { (ab / (aa * bb).sqrt()) as f32 }
}

fn ranks(values: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = first as f64 + (equal.len() - 1) as f64 / 2.0;
        equal.iter().for_each(|&at| ranks[at] = rank);
        first += equal.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_their_definitions() {
        let two = Target::Classes(vec!["0".into(), "1".into()]);
        let labels = [0., 0., 0., 0., 0., 0., 0., 1., 1., 0.];
        let quality = Quality::of(&two, &[0., 0., 0., 0., 0., 0., 1., 1., 0., 0.], &labels);
        assert_eq!((quality.accuracy, quality.f1, quality.score), (Some(0.8), Some(0.5), 0.5));
        assert_eq!(Quality::of(&two, &[0.; 10], &labels).score, 0.0, "one answer for all is worth nothing");
        let three = Target::Classes(["a", "b", "c"].map(String::from).to_vec());
        let quality = Quality::of(&three, &[0., 1., 2., 2.], &[0., 1., 1., 2.]);
        assert_eq!(quality.score, 0.75);
        assert!((quality.f1.unwrap() - (1.0 + 2.0 / 3.0 + 2.0 / 3.0) / 3.0).abs() < 1e-6);
        let value = Target::Value { mean: 0.0, deviation: 1.0 };
        assert_eq!(Quality::of(&value, &[1., 2., 9.], &[10., 20., 21.]).score, 1.0);
    }

    #[test]
    fn rank_correlation_shares_ranks_among_equals() {
        assert!((spearman(&[1., 2., 3., 4.], &[4., 3., 2., 1.]) + 1.0).abs() < 1e-6);
        // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
        assert!((spearman(&[1., 2., 2., 3.], &[1., 2., 3., 4.]) - 4.5 / (4.5f32 * 5.0).sqrt()).abs() < 1e-6);
        assert_eq!(spearman(&[1., 1.], &[1., 2.]), 0.0);
    }
}
