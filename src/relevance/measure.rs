//! How well a task is done.

use ndarray::ArrayView2;
use serde::{Deserialize, Serialize};

use super::{Kind, Target};

/// Of two classes, the rarer one is *rare* below this share of the training rows: accuracy says little then.
const RARE: f32 = 0.25;

/// The figure by which a task is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Share of the classes that are right.
    Accuracy,
    /// Of a rare class, the average precision of the rows in the order of its score: no threshold has to be right for it.
    AveragePrecision {
        /// The rare class's place.
        class: usize,
    },
    /// Rank correlation of values.
    RankCorrelation,
}

impl Measure {
    /// The one for a task with these training labels; what is judged later has no say in it.
    pub fn of(target: &Target, labels: &[f32]) -> Measure {
        match target {
            Target::Value { .. } => Measure::RankCorrelation,
            Target::Classes(classes) if classes.len() == 2 => {
                let count = |class: usize| labels.iter().filter(|&&label| label == class as f32).count();
                let class = usize::from(count(1) <= count(0));
                match (count(class) as f32) < RARE * labels.len() as f32 {
                    true => Measure::AveragePrecision { class },
                    false => Measure::Accuracy,
                }
            }
            Target::Classes(_) => Measure::Accuracy,
        }
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Accuracy => "accuracy",
            Measure::AveragePrecision { .. } => "avg. precision",
            Measure::RankCorrelation => "rank corr.",
        }
    }
}

/// Figures of one task; what does not apply to its labels is None.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Quality {
    /// Rows that were judged.
    pub rows: usize,
    /// Share of the classes that are right.
    pub accuracy: Option<f32>,
    /// Of two classes: F1 of class 1, or of the rare one. Of more: the mean of every class's.
    pub f1: Option<f32>,
    /// Of a rare class.
    pub average_precision: Option<f32>,
    /// Rank correlation of values.
    pub spearman: Option<f32>,
    /// The one that counts.
    pub score: f32,
    /// Which of them that is.
    pub measure: &'static str,
}

impl Quality {
    /// That of a model's outputs (rows x classes, or rows x 1), beside the labels.
    pub fn of(kind: &Kind, outputs: ArrayView2<'_, f32>, labels: &[f32]) -> Quality {
        let mut quality = Quality { rows: labels.len(), measure: kind.measure.name(), ..Quality::default() };
        let rare = match kind.measure {
            Measure::RankCorrelation => {
                quality.score = spearman(&outputs.column(0).to_vec(), labels);
                quality.spearman = Some(quality.score);
                return quality;
            }
            Measure::AveragePrecision { class } => Some(class),
            Measure::Accuracy => None,
        };
        let answers: Vec<f32> = outputs.rows().into_iter().map(|row| best(row.iter().copied()) as f32).collect();
        let right = answers.iter().zip(labels).filter(|(a, l)| a == l).count();
        let accuracy = right as f32 / labels.len().max(1) as f32;
        let classes = outputs.ncols();
        let f1 = match classes {
            2 => f1(&answers, labels, rare.unwrap_or(1) as f32),
            _ => (0..classes).map(|class| f1(&answers, labels, class as f32)).sum::<f32>() / classes as f32,
        };
        (quality.accuracy, quality.f1, quality.score) = (Some(accuracy), Some(f1), accuracy);
        if let Some(class) = rare {
            let margins: Vec<f32> = outputs.rows().into_iter().map(|row| row[class] - row[1 - class]).collect();
            let right: Vec<bool> = labels.iter().map(|&label| label == class as f32).collect();
            quality.score = average_precision(&margins, &right);
            quality.average_precision = Some(quality.score);
        }
        quality
    }
}

/// The place of the largest; the first of equals.
pub(super) fn best(values: impl Iterator<Item = f32>) -> usize {
    let larger = |best: (usize, f32), now: (usize, f32)| if now.1 > best.1 { now } else { best };
    values.enumerate().reduce(larger).map_or(0, |(place, _)| place)
}

/// Harmonic mean of precision and recall of a class; 0 where it is never found.
fn f1(answers: &[f32], labels: &[f32], class: f32) -> f32 {
    let count = |wanted: fn(bool, bool) -> bool| {
        answers.iter().zip(labels).filter(|(a, l)| wanted(**a == class, **l == class)).count() as f32
    };
    let (both, either) = (count(|a, l| a && l), count(|a, l| a != l));
    if both == 0.0 { 0.0 } else { 2.0 * both / (2.0 * both + either) }
}

/// Mean, over the right rows, of the share of right ones among the rows that score as high or higher. 0 where nothing is right.
pub fn average_precision(scores: &[f32], right: &[bool]) -> f32 {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let (mut seen, mut found, mut sum) = (0usize, 0usize, 0f64);
    for equal in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let new = equal.iter().filter(|&&at| right[at]).count();
        (seen, found) = (seen + equal.len(), found + new);
        sum += new as f64 * found as f64 / seen as f64;
    }
    (sum / found.max(1) as f64) as f32
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
    use ndarray::{Array2, arr2};

    fn classes(names: &[&str], measure: Measure) -> Kind {
        let target = Target::Classes(names.iter().map(|name| (*name).to_string()).collect());
        Kind { target, measure, pairs: true }
    }

    /// Outputs that choose these classes.
    fn choosing(answers: &[usize], classes: usize) -> Array2<f32> {
        Array2::from_shape_fn((answers.len(), classes), |(row, class)| f32::from(u8::from(answers[row] == class)))
    }

    #[test]
    fn figures_are_those_of_their_definitions() {
        let labels = [0., 0., 0., 0., 0., 0., 0., 1., 1., 0.];
        let two = classes(&["0", "1"], Measure::Accuracy);
        let quality = Quality::of(&two, choosing(&[0, 0, 0, 0, 0, 0, 1, 1, 0, 0], 2).view(), &labels);
        assert_eq!((quality.accuracy, quality.f1, quality.score), (Some(0.8), Some(0.5), 0.8));
        let three = classes(&["a", "b", "c"], Measure::Accuracy);
        let quality = Quality::of(&three, choosing(&[0, 1, 2, 2], 3).view(), &[0., 1., 1., 2.]);
        assert_eq!(quality.score, 0.75);
        assert!((quality.f1.unwrap() - (1.0 + 2.0 / 3.0 + 2.0 / 3.0) / 3.0).abs() < 1e-6);
        let target = Target::Value { mean: 0.0, deviation: 1.0 };
        let value = Kind { target, measure: Measure::RankCorrelation, pairs: true };
        assert_eq!(Quality::of(&value, arr2(&[[1.], [2.], [9.]]).view(), &[10., 20., 21.]).score, 1.0);
    }

    #[test]
    fn a_rare_class_is_judged_by_its_order_whatever_the_threshold() {
        let two = Target::Classes(vec!["0".into(), "1".into()]);
        let labels = [0., 0., 0., 0., 0., 0., 0., 1., 0., 1.];
        let measure = Measure::of(&two, &labels);
        assert_eq!(measure, Measure::AveragePrecision { class: 1 });
        assert_eq!(Measure::of(&two, &labels.map(|l| 1.0 - l)), Measure::AveragePrecision { class: 0 });
        assert_eq!(Measure::of(&two, &[0., 1., 0., 1.]), Measure::Accuracy);
        let kind = classes(&["0", "1"], measure);
        // The right ones are first and third of all, and neither is chosen.
        let outputs = Array2::from_shape_fn((10, 2), |(row, class)| {
            let margin = [-9., -8., -7., -6., -5., -4., -3., -0.5, -1.0, -2.0][row];
            margin * class as f32
        });
        let quality = Quality::of(&kind, outputs.view(), &labels);
        assert_eq!((quality.f1, quality.measure), (Some(0.0), "avg. precision"));
        assert!((quality.score - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-6, "{}", quality.score);
        let alike = Quality::of(&kind, Array2::zeros((10, 2)).view(), &labels);
        assert!((alike.score - 0.2).abs() < 1e-6, "one answer for all is worth the share of the class");
        assert_eq!(average_precision(&[1.0, 2.0], &[false, false]), 0.0);
    }

    #[test]
    fn rank_correlation_shares_ranks_among_equals() {
        assert!((spearman(&[1., 2., 3., 4.], &[4., 3., 2., 1.]) + 1.0).abs() < 1e-6);
        // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
        assert!((spearman(&[1., 2., 2., 3.], &[1., 2., 3., 4.]) - 4.5 / (4.5f32 * 5.0).sqrt()).abs() < 1e-6);
        assert_eq!(spearman(&[1., 1.], &[1., 2.]), 0.0);
    }
}
