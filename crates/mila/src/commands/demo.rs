//! `mila demo`: the main job on an embedded default.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mila::burn::Form;
use mila::classify::Classifier;
use mila::cpu::Cpu;
use mila::data::{ImageSource, Loader, LoaderOptions, Picture, Scores};
use mila::digits::{self, Digits};
use mila::inspect::contact_sheet::{self, Entry};
use mila::model::{self, Request};
use mila::ops::Seeded;
use mila::train::{Config, Data, Run};
use mila::weights::write_whole;

use crate::cli::{Demo, Machine};
use crate::commands::train;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Share of each class that is never trained on.
const TEST_FRACTION: f64 = 0.2;
const EPOCHS: u64 = 12;
/// Test digits on the picture.
const SHOWN: usize = 40;

pub(crate) fn run(args: Demo, machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let out = args.out.unwrap_or_else(|| free_name(Path::new("mila-demo")));
    let digits = digits::load(TEST_FRACTION, digits::SPLIT_SEED);
    terminal.note(format_args!(
        "handwritten digits: {} to train on, {} to test on (UCI optical digits, CC BY 4.0)",
        digits.train.len(),
        digits.test.len()
    ));
    let config = Config {
        arch: "mila-nano".into(),
        data: PathBuf::from(digits::NAME),
        out: train::absolute(&out)?,
        val_fraction: TEST_FRACTION,
        seed: args.seed,
        epochs: args.epochs.unwrap_or(EPOCHS),
        warmup_epochs: 1.0,
        flip: 0.0,
        ..Config::default()
    };
    let Digits { train: images, test, classes } = digits;
    let data = Data { train: images, validation: test.clone(), classes };
    let started = Instant::now();
    let run = Run::create(config, data, &Seeded::new(args.seed), &train::environment(machine))?;
    train::train(run.with_form(Form::Kernels(machine.isa)), terminal)?;
    let seconds = started.elapsed().as_secs_f64();

    let directory = out.join("last");
    let request = Request { model: directory.display().to_string(), ..Request::default() };
    let classifier = Classifier::new(&model::resolve(&request)?, Cpu::new(machine.isa), None)?;
    let scores = evaluate(&classifier, &test)?;
    let picture = out.join("digits.png");
    write_picture(&picture, &classifier, &test, &scores)?;

    terminal.result(format_args!(
        "trained in {seconds:.1} s; top-1 {:.2} % of {} test digits with the last epoch's model",
        100.0 * scores.top1(),
        scores.images()
    ))?;
    terminal.result(format_args!("model    {}", directory.display()))?;
    terminal.result(format_args!("picture  {}", picture.display()))?;
    terminal.result("\nnext:")?;
    for line in [
        format!("  mila predict {} YOUR-DIGIT.png", directory.display()),
        format!("  mila run {} --input x.npy --output y.npy", directory.display()),
        "  mila models mila-t".to_owned(),
        "  mila train --data YOUR-FOLDER-OF-CLASS-FOLDERS --arch mila-nano --out runs/first".to_owned(),
    ] {
        terminal.result(line)?;
    }
    Ok(())
}

/// `stem`, or the first of `stem-2`, `stem-3`, ... that is not there yet.
fn free_name(stem: &Path) -> PathBuf {
    let named = |n: usize| if n == 1 { stem.to_owned() } else { PathBuf::from(format!("{}-{n}", stem.display())) };
    (1..).map(named).find(|path| !path.exists()).unwrap_or_else(|| stem.to_owned())
}

/// Scores the written model with the fast executor: the numbers are those of the files, not of the trainer.
fn evaluate(classifier: &Classifier, test: &ImageSource) -> Result<Scores, Failure> {
    let options = LoaderOptions { batch: 64, ..LoaderOptions::default() };
    let loader = Loader::new(test.clone(), classifier.transform().clone(), options)?;
    let mut scores = Scores::new(classifier.classes());
    for batch in loader.epoch(0) {
        scores.add(&classifier.logits(&batch.images, batch.n)?, &batch.labels);
    }
    Ok(scores)
}

/// Every wrong test digit, then right ones until the sheet is full.
fn write_picture(path: &Path, classifier: &Classifier, test: &ImageSource, scores: &Scores) -> Result<(), Failure> {
    let ImageSource::Memory { pictures, labels } = test else { return Ok(()) };
    let mut judged: Vec<(&Picture, usize, usize, f32)> = Vec::with_capacity(pictures.len());
    for (picture, &label) in pictures.iter().zip(labels) {
        let logits = classifier.logits(&classifier.transform().to_nhwc(picture)?, 1)?;
        let best = classifier.top(&logits, 1)[0];
        judged.push((picture, label as usize, best.class, best.probability));
    }
    judged.sort_by_key(|&(_, label, predicted, _)| label == predicted);
    judged.truncate(SHOWN);
    let names: Vec<String> = (0..classifier.classes()).map(|class| classifier.label(class)).collect();
    let entry = |&(picture, label, predicted, probability): &(_, usize, usize, f32)| Entry {
        picture,
        label: Some(&names[label]),
        prediction: &names[predicted],
        probability,
    };
    let entries: Vec<Entry> = judged.iter().map(entry).collect();
    let title = format!("mila-nano: {:.2} % of {} test digits", 100.0 * scores.top1(), scores.images());
    let png = contact_sheet::to_png(&contact_sheet::render(&title, &entries, 10));
    Ok(write_whole(path, |file| file.write_all(&png))?)
}
