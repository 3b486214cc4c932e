//! What was measured, as Markdown.

use std::fmt::Write;

use super::contestant::Precision;

/// One program in one case.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// Who, the same in each case.
    pub(crate) who: &'static str,
    /// Version, and which export it ran.
    pub(crate) detail: String,
    pub(crate) precision: Precision,
    /// Whether it is this project.
    pub(crate) is_ours: bool,
    /// Milliseconds a call, the median of each round.
    pub(crate) rounds: Vec<f64>,
}

/// One and all threads of ours, in f32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scaling {
    pub(crate) threads: usize,
    /// How much faster than one thread.
    pub(crate) gain: f64,
    /// The same of the roof.
    pub(crate) roof_gain: f64,
}

/// Every program in one case, in turns.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Model and size.
    pub(crate) name: String,
    pub(crate) batch: usize,
    /// Billions of operations of a call.
    pub(crate) gflop: f64,
    /// Billions of operations a second, of a precision.
    pub(crate) roofs: Vec<(Precision, f64)>,
    pub(crate) rows: Vec<Row>,
    pub(crate) scaling: Option<Scaling>,
    /// Ours in f32, if the case is one image.
    pub(crate) one_image: Option<OneImage>,
}

/// Ours in f32 on one square image.
#[derive(Debug)]
pub(crate) struct OneImage {
    pub(crate) model: String,
    pub(crate) side: usize,
    /// Milliseconds.
    pub(crate) time: f64,
    /// The most memory that the process had, in MB of a million bytes.
    pub(crate) peak_mb: Option<f64>,
}

/// The value below which half of them are.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Between the two nearest of the sorted values; of nothing, no number.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

impl Measured {
    /// The fastest of rows, in milliseconds a call.
    fn fastest(&self, matches: impl Fn(&Row) -> bool) -> Option<f64> {
        self.rows.iter().filter(|row| matches(row)).map(|row| median(&row.rounds)).min_by(f64::total_cmp)
    }

    fn roof(&self, precision: Precision) -> Option<f64> {
        self.roofs.iter().find(|roof| roof.0 == precision).map(|roof| roof.1)
    }

    /// One line for each program: its time, and what that is of the peers of its precision and of the roof.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("### {}, batch {}\n\n", self.name, self.batch);
        text += "| | ms an image | p10 to p90 of rounds | of OpenVINO | of the fastest peer | share of the roof |\n";
        text += "|---|---|---|---|---|---|\n";
        for row in &self.rows {
            let time = median(&row.rounds);
            let [least, most] = [0.1, 0.9].map(|share| quantile(&row.rounds, share) / self.batch as f64);
            let is_peer = |other: &Row| !other.is_ours && other.precision == row.precision;
            let ratio = |of: Option<f64>| of.map_or("-".into(), |of| format!("{:.2}", time / of));
            let openvino = ratio(self.fastest(|other| is_peer(other) && other.who.starts_with("OpenVINO")));
            let fastest = ratio(self.fastest(is_peer));
            let share = self.roof(row.precision).map(|roof| 100.0 * self.gflop / (time / 1e3) / roof);
            let share = share.map_or("-".into(), |share| format!("{share:.0} %"));
            let per_image = time / self.batch as f64;
            let name = if row.detail.is_empty() { row.who.into() } else { format!("{} ({})", row.who, row.detail) };
            let _ = writeln!(
                text,
                "| {name} | {per_image:.2} | {least:.2} to {most:.2} | {openvino} | {fastest} | {share} |"
            );
        }
        text
    }
}

/// One line for each program, one column for each case: medians.
pub(crate) fn overview(cases: &[Measured]) -> String {
    let mut text = String::from("| ms an image |");
    for case in cases {
        let _ = write!(text, " {}, batch {} |", case.name, case.batch);
    }
    let _ = write!(text, "\n|---|{}\n", "---|".repeat(cases.len()));
    let mut names: Vec<&str> = Vec::new();
    for row in cases.iter().flat_map(|case| &case.rows) {
        if !names.contains(&row.who) {
            names.push(row.who);
        }
    }
    for name in names {
        let _ = write!(text, "| {name} |");
        for case in cases {
            let row = case.rows.iter().find(|row| row.who == name);
            let cell = row.map_or("-".into(), |row| format!("{:.1}", median(&row.rounds) / case.batch as f64));
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    text
}

/// What more threads give, beside what they give at the roof.
pub(crate) fn scaling(cases: &[Measured]) -> String {
    let mut text = String::from("| mila, f32 | threads | faster than one | roof | share |\n|---|---|---|---|---|\n");
    for case in cases {
        if let Some(Scaling { threads, gain, roof_gain }) = case.scaling {
            let (name, batch, share) = (&case.name, case.batch, gain / roof_gain);
            let _ = writeln!(text, "| {name}, batch {batch} | {threads} | {gain:.2} | {roof_gain:.2} | {share:.2} |");
        }
    }
    text
}

/// One image by size: the time of a pixel, beside that of a pixel of 512x512 if that is there.
pub(crate) fn by_size(rows: &[OneImage]) -> String {
    let mut text = String::from(
        "| mila, f32, one image | ms | ns a pixel | of that at 512x512 | peak resident |\n|---|---|---|---|---|\n",
    );
    let per_pixel = |row: &OneImage| 1e6 * row.time / (row.side * row.side) as f64;
    for row in rows {
        let at_512 = rows.iter().find(|other| other.model == row.model && other.side == 512);
        let ratio = at_512.map_or("-".into(), |of| format!("{:.2}", per_pixel(row) / per_pixel(of)));
        let peak = row.peak_mb.map_or("-".into(), |mb| format!("{mb:.0} MB"));
        let (OneImage { model, side, time, .. }, pixel) = (row, per_pixel(row));
        let _ = writeln!(text, "| {model}, {side}x{side} | {time:.1} | {pixel:.0} | {ratio} | {peak} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let row = |who, is_ours, precision, rounds: &[f64]| Row {
            who,
            detail: String::new(),
            precision,
            is_ours,
            rounds: rounds.to_vec(),
        };
        Measured {
            name: "mila-t, 224x224".into(),
            batch: 2,
            gflop: 20.0,
            roofs: vec![(Precision::F32, 500.0)],
            rows: vec![
                row("mila", true, Precision::F32, &[100.0, 80.0, 120.0]),
                row("rten", false, Precision::F32, &[250.0]),
                row("OpenVINO", false, Precision::F32, &[200.0, 200.0]),
                row("OpenVINO, bf16", false, Precision::Bf16, &[50.0]),
            ],
            scaling: Some(Scaling { threads: 2, gain: 1.8, roof_gain: 1.9 }),
            one_image: None,
        }
    }

    #[test]
    fn medians_and_quantiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(quantile(&[0.0, 10.0], 0.9), 9.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_to_peers_of_the_same_precision() {
        let table = measured().table();
        let lines: Vec<&str> = table.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "| mila | 50.00 | 42.00 to 58.00 | 0.50 | 0.50 | 40 % |",
                "| rten | 125.00 | 125.00 to 125.00 | 1.25 | 1.25 | 16 % |",
                "| OpenVINO | 100.00 | 100.00 to 100.00 | 1.00 | 1.00 | 20 % |",
                "| OpenVINO, bf16 | 25.00 | 25.00 to 25.00 | 1.00 | 1.00 | - |",
            ]
        );
    }

    #[test]
    fn who_was_not_timed_in_a_case_has_a_dash_there() {
        let mut other = measured();
        other.rows.truncate(1);
        let overview = overview(&[measured(), other]);
        assert!(overview.contains("| mila | 50.0 | 50.0 |\n"), "{overview}");
        assert!(overview.contains("| rten | 125.0 | - |\n"), "{overview}");
    }

    #[test]
    fn scaling_and_large_sizes() {
        assert!(scaling(&[measured()]).contains("batch 2 | 2 | 1.80 | 1.90 | 0.95 |"));
        let one = |side, time, peak_mb| OneImage { model: "mila-t".into(), side, time, peak_mb };
        let rows = [one(512, 250.0, None), one(1024, 1048.576, Some(1234.5))];
        let text = by_size(&rows);
        assert!(text.contains("| mila-t, 512x512 | 250.0 | 954 | 1.00 | - |\n"), "{text}");
        assert!(text.contains("| mila-t, 1024x1024 | 1048.6 | 1000 | 1.05 | 1234 MB |\n"), "{text}");
        assert!(by_size(&rows[1..]).contains("| 1000 | - |"));
    }
}
