//! What the finished cells say together: means, spreads, differences, beside what was published.

use mila::inspect::bars::{Bar, Chart, signed};
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

    /// Its standard error; none of a single value.
    fn error(self) -> Option<f64> {
        self.deviation.map(|deviation| deviation / (self.count as f64).sqrt())
    }
}

/// The difference of two variants, seed by seed: one seed gives both the same pictures in the same order, and the parameters that
/// they share the same initial values, so that much of what a seed does cancels.
fn difference(own: &[Record], baseline: &[Record]) -> Option<Mean> {
    let of_seed = |of: &Record| {
        let other = baseline.iter().find(|record| record.seed == of.seed)?;
        Some(100.0 * (of.top1? - other.top1?))
    };
    Mean::of(&own.iter().filter_map(of_seed).collect::<Vec<_>>())
}

/// One variant over its finished seeds.
struct Row {
    variant: &'static Variant,
    records: Vec<Record>,
    /// Images a second of the fastest seed: other work disturbs a rate more than a seed does, and never to the better.
    train_rate: Option<f64>,
    inference_rate: Option<f64>,
    /// In percent.
    top1: Option<Mean>,
    /// To the baseline, in points of top-1, over the seeds that both have.
    difference: Option<Mean>,
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
                train_rate: fastest(over(&|r| whole(r).then_some(r.train_images_per_s))),
                inference_rate: fastest(over(&|r| whole(r).then_some(r.inference_images_per_s))),
                top1: Mean::of(&over(&|r| r.top1.map(|top1| 100.0 * top1))),
                difference: None,
                published: published(variant),
                published_difference: None,
                records,
            }
        };
        let mut rows: Vec<Row> = study.variants.iter().map(row).collect();
        let (baseline, printed) = (rows[0].records.clone(), rows[0].published);
        for row in &mut rows[1..] {
            row.difference = difference(&row.records, &baseline);
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
            format!("{}, {}, threads of a cell: {}{others}", r.processor, r.isa, r.threads)
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
            let rate = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.0}"));
            let top1 = row.top1.map_or("-".into(), |mean| with(format!("{:.2}", mean.value), mean.deviation));
            let difference = row.difference.map_or("-".into(), |d| with(signed(d.value), d.error()));
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
            "\nTop-1: mean of the seeds, ± their standard deviation. Difference: to the {}, in points, seed by seed, ± its standard error. \
             Images a second: of the fastest of these seeds. MACs: with recurrences.\nMeasured on: {}.\nPaper: {}.\n",
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
        let number =
            |value: Option<f64>| value.map_or_else(String::new, |v| format!("{v:.4}").replace("-0.0000", "0.0000"));
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
                number(row.difference.map(|difference| difference.value)),
                number(row.difference.and_then(Mean::error)),
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
                "difference": row.difference.map(|d| json!({ "value": d.value, "standard_error": d.error(), "seeds": d.count })),
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
            (least, most) if least == most => format!("here, {most} seeds, with standard error"),
            (least, most) => format!("here, {least} to {most} seeds, with standard error"),
        }
    }

    /// Differences to the baseline beside the published ones.
    pub(crate) fn chart(&self) -> Chart {
        let baseline = &self.study.variants[0];
        let bar = |row: &Row| Bar {
            label: row.variant.label.to_owned(),
            value: row.difference.map(|difference| difference.value),
            error: row.difference.and_then(Mean::error),
            other: row.published_difference.map(tenth),
        };
        Chart {
            title: format!("top-1, difference to the {} in points", baseline.label),
            names: [self.seeds(), "paper (ImageNet-1K)".into()],
            bars: self.rows.iter().filter(|row| row.variant.name != baseline.name).map(bar).collect(),
        }
    }
}

/// The largest rate.
fn fastest(rates: Vec<f64>) -> Option<f64> {
    rates.into_iter().max_by(f64::total_cmp)
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

    fn record(seed: u64, top1: Option<f64>) -> Record {
        let text = json!({
            "study": "", "variant": "", "arch": "", "seed": seed, "settings": "", "params": 0, "macs": 0, "steps": 0,
            "train_images_per_s": 0.0, "inference_images_per_s": 0.0, "top1": top1, "validation_loss": null,
            "diverged": null, "curve": [], "skipped": 0, "mila": "", "processor": "", "isa": "", "jobs": 1, "threads": 1,
        });
        serde_json::from_value(text).expect("a record")
    }

    #[test]
    fn differences_are_taken_seed_by_seed() {
        let own = [record(0, Some(0.5)), record(1, Some(0.75)), record(2, None), record(3, Some(1.0))];
        let baseline = [record(1, Some(0.5)), record(0, Some(0.375)), record(2, Some(0.5))];
        let of = difference(&own, &baseline).expect("two seeds that both have");
        assert_eq!((of.value, of.count), (18.75, 2));
        // 12.5 and 25: a deviation of 6.25 √2.
        assert!((of.error().expect("two values") - 6.25).abs() < 1e-12);
        assert_eq!(difference(&own[..1], &baseline).and_then(Mean::error), None);
        assert_eq!(difference(&own[3..], &baseline), None);
    }

    #[test]
    fn rates_are_those_of_the_fastest_seed() {
        for (rates, fast) in [(vec![], None), (vec![3.0], Some(3.0)), (vec![4.0, 9.0, 1.0], Some(9.0))] {
            assert_eq!(fastest(rates), fast);
        }
    }
}
