//! Scores of a classifier's predictions against the labels of a dataset.

/// Counts over a set of predictions. Sums are in f64 and in the order of the calls, so one order gives one result.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    classes: usize,
    images: usize,
    top1: usize,
    top5: usize,
    loss: f64,
    /// `[label][prediction]`, row-major.
    confusion: Vec<usize>,
}

impl Scores {
    /// Of nothing yet.
    pub fn new(classes: usize) -> Self {
        Self { classes, images: 0, top1: 0, top5: 0, loss: 0.0, confusion: vec![0; classes * classes] }
    }

    /// Adds the predictions of a batch: `logits` is `[labels.len(), classes]`.
    ///
    /// A label's rank is the number of classes with a larger logit, or an equal one and a lower index; a NaN ranks
    /// last. Labels that are no class count as wrong and stay out of the confusion matrix.
    pub fn add(&mut self, logits: &[f32], labels: &[u32]) {
        for (row, &label) in logits.chunks_exact(self.classes.max(1)).zip(labels) {
            self.images += 1;
            let label = label as usize;
            let Some(&own) = row.get(label) else { continue };
            let above = |&(class, &value): &(usize, &f32)| value > own || (value == own && class < label);
            let rank = if own.is_nan() { self.classes } else { row.iter().enumerate().filter(above).count() };
            self.top1 += usize::from(rank == 0);
            self.top5 += usize::from(rank < 5);
            self.confusion[label * self.classes + best(row)] += 1;
            let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&v| f64::from(v - largest).exp()).sum();
            self.loss += sum.ln() - f64::from(own - largest);
        }
    }

    /// Predictions so far.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Share of images whose label has the largest logit.
    pub fn top1(&self) -> f64 {
        self.share(self.top1)
    }

    /// Share of images whose label is among the five largest logits.
    pub fn top5(&self) -> f64 {
        self.share(self.top5)
    }

    /// Mean cross entropy.
    pub fn loss(&self) -> f64 {
        if self.images == 0 { 0.0 } else { self.loss / self.images as f64 }
    }

    /// How often each prediction was made for the images of `label`.
    pub fn predictions(&self, label: usize) -> &[usize] {
        &self.confusion[label * self.classes..][..self.classes]
    }

    /// For each class: its images, and the share of them that was right.
    pub fn per_class(&self) -> Vec<(usize, f64)> {
        let class = |label: usize| {
            let row = self.predictions(label);
            let images: usize = row.iter().sum();
            (images, if images == 0 { 0.0 } else { row[label] as f64 / images as f64 })
        };
        (0..self.classes).map(class).collect()
    }

    fn share(&self, count: usize) -> f64 {
        if self.images == 0 { 0.0 } else { count as f64 / self.images as f64 }
    }
}

/// Index of the largest value, the first of equal ones; NaN is never larger.
fn best(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &v)| if v > row[best] || row[best].is_nan() { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_ranks_and_confusion() {
        let mut scores = Scores::new(6);
        scores.add(&[0.0, 3.0, 1.0, 0.0, 0.0, -1.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0], &[1, 5]);
        assert_eq!((scores.images(), scores.top1(), scores.top5()), (2, 0.5, 0.5));
        assert_eq!(scores.predictions(5), [1, 0, 0, 0, 0, 0]);
        assert_eq!(scores.per_class()[1], (1, 1.0));
    }

    #[test]
    fn loss_is_the_mean_cross_entropy() {
        let mut scores = Scores::new(2);
        scores.add(&[0.0, 0.0, 2.0, 0.0], &[0, 0]);
        let wanted = (2f64.ln() + (1.0 + (-2f64).exp()).ln()) / 2.0;
        assert!((scores.loss() - wanted).abs() < 1e-9, "{}", scores.loss());
    }

    #[test]
    fn equal_and_broken_logits_are_never_right_by_chance() {
        let mut scores = Scores::new(3);
        scores.add(&[1.0, 1.0, 1.0, f32::NAN, f32::NAN, f32::NAN], &[2, 0]);
        assert_eq!((scores.images(), scores.top1()), (2, 0.0));
    }

    #[test]
    fn nothing_scores_nothing() {
        let scores = Scores::new(3);
        assert_eq!((scores.top1(), scores.loss()), (0.0, 0.0));
    }
}
