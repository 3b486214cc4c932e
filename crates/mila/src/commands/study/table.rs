//! What the finished cells say together: means, spreads, differences, beside what was published.

use mila::inspect::bars::{Bar, Chart};
use mila::models::{Preset, Published};
use serde_json::{Value, json};

use super::cell::Record;
use super::settings::Shared;
use super::{Study, Variant};
use crate::csv;
use crate::failure::Failure;

/// A mean with what it is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mean {
    value: f64,
    /// Deviation of the values, `n - 1` in the denominator; none of fewer than two.
    deviation: Option<f64>,
    count: usize,
}

impl Mean {
    fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        if count == 0 {
            return None;
        }
        let value = values.iter().sum::<f64>() / count as f64;
        let square = values.iter().map(|v| (v - value).powi(2)).sum::<f64>();
        let deviation = (count > 1).then(|| (square / (count - 1) as f64).sqrt());
        Some(Self { value, deviation, count })
    }

    /// `self - other` and its standard error, the root of the sum of both means' squared errors.
    fn minus(self, other: Self) -> (f64, Option<f64>) {
        let square = |mean: Self| mean.deviation.map(|deviation| deviation.powi(2) / mean.count as f64);
        let error = square(self).zip(square(other)).map(|(a, b)| (a + b).sqrt());
        (self.value - other.value, error)
    }
}

/// One variant over its finished seeds.
struct Row {
    variant: &'static Variant,
    records: Vec<Record>,
    /// Images a second, the median of the seeds: other work disturbs a rate more than a seed does.
    train_rate: Option<f64>,
    inference_rate: Option<f64>,
    /// In percent.
    top1: Option<Mean>,
    /// To the baseline's mean: points of top-1 and their standard error.
    difference: Option<(f64, Option<f64>)>,
    published: Option<Published>,
    /// To the published baseline, in points.
    published_difference: Option<f64>,
}

/// The table of a study.
pub(crate) struct Table {
    study: &'static Study,
    rows: Vec<Row>,
}

impl Table {
    /// Of the finished cells; variants without any are left out.
    pub(crate) fn of(study: &'static Study, records: Vec<Record>) -> Self {
        let published = |variant: &Variant| Preset::find(variant.published).ok().and_then(|preset| preset.published);
        let row = |variant: &'static Variant| {
            let records: Vec<Record> = records.iter().filter(|r| r.variant == variant.name).cloned().collect();
            let over = |f: &dyn Fn(&Record) -> Option<f64>| records.iter().filter_map(f).collect::<Vec<_>>();
            let whole = |record: &Record| record.diverged.is_none();
            Row {
                variant,
                train_rate: median(over(&|r| whole(r).then_some(r.train_images_per_s))),
                inference_rate: median(over(&|r| whole(r).then_some(r.inference_images_per_s))),
                top1: Mean::of(&over(&|r| r.top1.map(|top1| 100.0 * top1))),
                difference: None,
                published: published(variant),
                published_difference: None,
                records,
            }
        };
        let mut rows: Vec<Row> = study.variants.iter().map(row).collect();
        let (baseline, printed) = (rows[0].top1, rows[0].published);
        for row in &mut rows[1..] {
            row.difference = row.top1.zip(baseline).map(|(own, baseline)| own.minus(baseline));
            row.published_difference =
                row.published.zip(printed).map(|(own, of)| f64::from(own.top1) - f64::from(of.top1));
        }
        rows.retain(|row| !row.records.is_empty());
        Self { study, rows }
    }

    /// Pictures that the cells could not read.
    pub(crate) fn skipped(&self) -> usize {
        self.records().map(|record| record.skipped).sum()
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.rows.iter().flat_map(|row| &row.records)
    }

    /// Where the rates are from, with everything by which the cells differ.
    fn machines(&self) -> String {
        let machine = |r: &Record| {
            let others = match r.jobs {
                1 => String::new(),
                jobs => format!("; in training {jobs} at a time, in inference while the others wait"),
            };
            format!("{}, {}, {} threads a cell{others}", r.processor, r.isa, r.threads)
        };
        let mut machines: Vec<String> = self.records().map(machine).collect();
        machines.sort();
        machines.dedup();
        machines.join(" | ")
    }

    /// For people.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from(
            "| variant | seeds | parameters | MACs | training, images/s | inference, images/s | top-1, % | difference | \
             paper: parameters | FLOPs | images/s | top-1, % | difference |\n|-|-|-|-|-|-|-|-|-|-|-|-|-|\n",
        );
        for row in &self.rows {
            let [params, macs] = [row.params() as f64, row.macs() as f64].map(|n| format!("{:.3} M", n / 1e6));
            let rate = |median: Option<f64>| median.map_or("-".into(), |rate| format!("{rate:.0}"));
            let top1 = row.top1.map_or("-".into(), |mean| with(format!("{:.2}", mean.value), mean.deviation));
            let difference = row.difference.map_or("-".into(), |(value, error)| with(format!("{value:+.2}"), error));
            let printed = row.published.map_or(["-".into(), "-".into(), "-".into(), "-".into()], |p| {
                let images = p.images_per_s.map_or("-".into(), |n| n.to_string());
                [p.parameters.into(), p.macs.into(), images, format!("{:.1}", p.top1)]
            });
            let printed_difference = row.published_difference.map_or("-".into(), |d| format!("{d:+.1}"));
            let seeds = row.seeds();
            text += &format!(
                "| {} | {seeds} | {params} | {macs} | {} | {} | {top1} | {difference} | {} | {printed_difference} |\n",
                row.variant.label,
                rate(row.train_rate),
                rate(row.inference_rate),
                printed.join(" | ")
            );
        }
        text + &format!(
            "\nTop-1: mean of the seeds, ± their standard deviation. Difference: to the {}, in points, ± its standard error. \
             Images a second: median of the seeds. MACs: with recurrences.\nMeasured on: {}.\nPaper: {}.\n",
            self.study.variants[0].label,
            self.machines(),
            self.study.source
        )
    }

    /// For programs that read tables.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::from(
            "variant,label,arch,seeds,diverged,params,macs,train_images_per_s,inference_images_per_s,top1,top1_deviation,\
             difference,difference_standard_error,paper_params,paper_macs,paper_images_per_s,paper_top1,paper_difference\n",
        );
        let number = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.4}"));
        for row in &self.rows {
            let fields = [
                row.variant.name.to_owned(),
                csv::field(row.variant.label).into_owned(),
                row.variant.arch.to_owned(),
                row.records.len().to_string(),
                row.diverged().to_string(),
                row.params().to_string(),
                row.macs().to_string(),
                number(row.train_rate),
                number(row.inference_rate),
                number(row.top1.map(|mean| mean.value)),
                number(row.top1.and_then(|mean| mean.deviation)),
                number(row.difference.map(|difference| difference.0)),
                number(row.difference.and_then(|difference| difference.1)),
                row.published.map_or_else(String::new, |p| p.parameters.to_owned()),
                row.published.map_or_else(String::new, |p| p.macs.to_owned()),
                row.published.and_then(|p| p.images_per_s).map_or_else(String::new, |n| n.to_string()),
                row.published.map_or_else(String::new, |p| format!("{:.1}", p.top1)),
                row.published_difference.map_or_else(String::new, |d| format!("{d:.1}")),
            ];
            text += &fields.join(",");
            text.push('\n');
        }
        text
    }

    /// For everything else, with the settings of the cells. Accuracies are in percent, differences in points.
    pub(crate) fn json(&self, shared: &Shared) -> Result<Vec<u8>, Failure> {
        let mean = |mean: Mean| json!({ "mean": mean.value, "deviation": mean.deviation, "count": mean.count });
        let row = |row: &Row| {
            json!({
                "variant": row.variant.name,
                "label": row.variant.label,
                "arch": row.variant.arch,
                "seeds": row.records.iter().map(|record| record.seed).collect::<Vec<_>>(),
                "diverged": row.diverged(),
                "params": row.params(),
                "macs": row.macs(),
                "train_images_per_s": row.train_rate,
                "inference_images_per_s": row.inference_rate,
                "top1": row.top1.map(mean),
                "difference": row.difference.map(|(value, error)| json!({ "value": value, "standard_error": error })),
                "published": row.published.map(|p| json!({
                    "params": p.parameters,
                    "macs": p.macs,
                    "images_per_s": p.images_per_s,
                    "top1": p.top1,
                    "difference": row.published_difference.map(tenth),
                })),
            })
        };
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        let table = json!({
            "study": self.study.name,
            "source": self.study.source,
            "settings": shared.described(),
            "rows": rows,
        });
        serde_json::to_vec_pretty(&table).map_err(Failure::run)
    }

    /// What the bars are means of.
    fn seeds(&self) -> String {
        let counts = || self.rows.iter().map(|row| row.records.len() - row.diverged());
        match (counts().min().unwrap_or(0), counts().max().unwrap_or(0)) {
            (_, 0 | 1) => "here, one seed".into(),
            (least, most) if least == most => format!("here, {most} seeds, ± standard error"),
            (least, most) => format!("here, {least} to {most} seeds, ± standard error"),
        }
    }

    /// Differences to the baseline beside the published ones.
    pub(crate) fn chart(&self) -> Chart {
        let baseline = &self.study.variants[0];
        let bar = |row: &Row| Bar {
            label: row.variant.label.to_owned(),
            value: row.difference.map(|difference| difference.0),
            error: row.difference.and_then(|difference| difference.1),
            other: row.published_difference.map(tenth),
        };
        Chart {
            title: format!("top-1, difference to the {} in points", baseline.label),
            names: [self.seeds(), "paper (ImageNet-1K)".into()],
            bars: self.rows.iter().filter(|row| row.variant.name != baseline.name).map(bar).collect(),
        }
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len().is_multiple_of(2) { (values[middle - 1] + upper) / 2.0 } else { upper })
}

/// Rounded to what is printed: differences of printed numbers have no more digits.
fn tenth(value: f64) -> f64 {
    (10.0 * value).round() / 10.0
}

/// `value ± error`.
fn with(value: String, error: Option<f64>) -> String {
    match error {
        Some(error) => format!("{value} ± {error:.2}"),
        None => value,
    }
}

impl Row {
    fn params(&self) -> usize {
        self.records.first().map_or(0, |record| record.params)
    }

    fn macs(&self) -> u64 {
        self.records.first().map_or(0, |record| record.macs)
    }

    fn diverged(&self) -> usize {
        self.records.iter().filter(|record| record.diverged.is_some()).count()
    }

    fn seeds(&self) -> String {
        match self.diverged() {
            0 => self.records.len().to_string(),
            diverged => format!("{}, {diverged} diverged", self.records.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_differ_with_the_error_of_both() {
        let [a, b] = [[1.0, 3.0].as_slice(), &[5.0, 6.0, 7.0]].map(|values| Mean::of(values).expect("values"));
        assert_eq!((a.value, a.deviation, a.count), (2.0, Some(2f64.sqrt()), 2));
        let (difference, error) = b.minus(a);
        assert_eq!(difference, 4.0);
        assert!((error.expect("two means of several") - (2.0 / 2.0 + 1.0 / 3.0f64).sqrt()).abs() < 1e-12);
        let one = Mean::of(&[4.0]).expect("a value");
        assert_eq!(one.minus(a), (2.0, None));
        assert_eq!(Mean::of(&[]), None);
    }

    #[test]
    fn medians_are_in_the_middle() {
        for (values, middle) in
            [(vec![], None), (vec![3.0], Some(3.0)), (vec![4.0, 1.0], Some(2.5)), (vec![9.0, 1.0, 2.0], Some(2.0))]
        {
            assert_eq!(median(values), middle);
        }
    }
}
