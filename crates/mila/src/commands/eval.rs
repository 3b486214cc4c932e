//! `mila eval`: scores of a classifier on a dataset.

use mila::classify::Classifier;
use mila::data::{ImageSource, Loader, LoaderOptions, Samples, Scores, Split, has_splits};
use mila::model;
use serde_json::json;

use crate::cli::{Eval, Format, Machine, SplitName};
use crate::csv;
use crate::failure::Failure;
use crate::sizes;
use crate::terminal::Terminal;

pub(crate) fn run(args: Eval, machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    if args.min_top1.is_some_and(|least| !(0.0..=1.0).contains(&least)) {
        return Err(Failure::usage("--min-top1: expected a fraction from 0 to 1"));
    }
    let request = args.model.request(false);
    let (mut samples, scored) = open(&args, request.seed)?;
    terminal.note(scored);
    let resolved = model::resolve(&request)?;
    resolved.notes.iter().for_each(|note| terminal.note(note));
    sizes::check(&resolved, args.size)?;
    let classifier = Classifier::new(&resolved, machine.cpu(args.precision, terminal), args.size)?;
    // An input size that no picture can have is the option's fault, not each picture's.
    classifier.transform().check()?;
    let names = match_classes(&mut samples, &classifier)?;
    let total = samples.items.len();
    let options = LoaderOptions { batch: args.batch as usize, threads: 1, ..LoaderOptions::default() };
    let loader = Loader::new(ImageSource::Folder(samples), classifier.transform().clone(), options)?;
    let mut scores = Scores::new(classifier.classes());
    let bar = terminal.bar(total as u64, "images");
    let mut epoch = loader.epoch(0);
    for batch in epoch.by_ref() {
        scores.add(&classifier.logits(&batch.images, batch.n)?, &batch.labels);
        bar.inc(batch.n as u64);
    }
    bar.finish_and_clear();
    for (path, error) in epoch.skipped() {
        terminal.error(format_args!("{}: {error}", path.display()));
    }
    let skipped = epoch.skipped().len();
    show(&scores, &names, skipped, args.format, terminal)?;
    if skipped > 0 {
        return Err(Failure::data(format!("{skipped} of {total} images could not be read")));
    }
    match args.min_top1 {
        Some(least) if scores.top1() < least => {
            Err(Failure::threshold(format!("top-1 is {:.4}, expected at least {least}", scores.top1())))
        }
        _ => Ok(()),
    }
}

/// The images to score, and a sentence on which they are.
fn open(args: &Eval, seed: u64) -> Result<(Samples, String), Failure> {
    let data = &args.data;
    let all = |samples: Samples, what: String| {
        let sentence = format!("scoring {} images: {what} of {}", samples.items.len(), data.display());
        (samples, sentence)
    };
    if let Some(name) = args.split {
        let (split, name) = match name {
            SplitName::Train => (Split::Train, "train"),
            SplitName::Validation => (Split::Validation, "validation"),
            SplitName::Test => (Split::Test, "test"),
        };
        return Ok(all(Samples::open_split(data, split)?, format!("the split {name}")));
    }
    let set = if has_splits(data)? {
        for (split, name) in [(Split::Validation, "validation"), (Split::Test, "test")] {
            match Samples::open_split(data, split) {
                Err(mila::data::Error::NoSplit { .. }) => {}
                Ok(_) if args.val_fraction.is_some() => {
                    let data = data.display();
                    return Err(Failure::usage(format!("--val-fraction: {data} has a split {name}, which is scored")));
                }
                samples => return Ok(all(samples?, format!("the split {name}"))),
            }
        }
        Samples::open_split(data, Split::Train)?
    } else {
        Samples::open(data)?
    };
    match args.val_fraction {
        Some(fraction) => {
            let (_, held_out) = set.divide(fraction, seed)?;
            if held_out.items.is_empty() {
                return Err(Failure::usage(format!("--val-fraction {fraction}: no image is held out")));
            }
            Ok(all(held_out, format!("what training with val_fraction = {fraction} and seed = {seed} holds out")))
        }
        None => {
            let hint = "images that a model was trained on count too, --val-fraction 0.1 scores what training held out";
            let (samples, sentence) = all(set, "the whole set".into());
            Ok((samples, format!("{sentence}; {hint}")))
        }
    }
}

/// Gives the samples the class numbers of the model, by name where it has names; returns the names by number.
fn match_classes(samples: &mut Samples, classifier: &Classifier) -> Result<Vec<String>, Failure> {
    let Some(labels) = classifier.labels() else {
        if samples.classes.len() != classifier.classes() {
            let (found, wanted) = (samples.classes.len(), classifier.classes());
            return Err(Failure::data(format!(
                "the data have {found} classes, the model {wanted}, and it has no names to match them by"
            )));
        }
        return Ok(samples.classes.clone());
    };
    let place = |class: &String| labels.iter().position(|label| label == class);
    let unknown: Vec<&str> = samples.classes.iter().filter(|c| place(c).is_none()).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(Failure::data(format!("classes that the model does not know: {}", unknown.join(", "))));
    }
    let places: Vec<u32> = samples.classes.iter().map(|c| place(c).unwrap_or_default() as u32).collect();
    samples.items.iter_mut().for_each(|item| item.class = places[item.class as usize]);
    Ok(labels.to_vec())
}

fn show(scores: &Scores, names: &[String], skipped: usize, format: Format, terminal: &Terminal) -> Result<(), Failure> {
    let classes: Vec<(usize, &String, usize, f64)> = (scores.per_class().into_iter().zip(names).enumerate())
        .map(|(class, ((images, top1), name))| (class, name, images, top1))
        .filter(|&(_, _, images, _)| images > 0)
        .collect();
    match format {
        Format::Json => {
            let class = |&(class, name, images, top1): &(usize, &String, usize, f64)| {
                let predictions = scores.predictions(class);
                json!({ "class": name, "images": images, "top1": top1, "predictions": predictions })
            };
            terminal.result(json!({
                "top1": scores.top1(),
                "top5": scores.top5(),
                "loss": scores.loss(),
                "images": scores.images(),
                "skipped": skipped,
                "labels": names,
                "classes": classes.iter().map(class).collect::<Vec<_>>(),
            }))
        }
        Format::Csv => {
            terminal.result("class,images,top1")?;
            for (_, name, images, top1) in classes {
                terminal.result(format_args!("{},{images},{top1:.6}", csv::field(name)))?;
            }
            terminal.result(format_args!("(all),{},{:.6}", scores.images(), scores.top1()))
        }
        Format::Table => {
            terminal.result(format_args!(
                "top-1 {:.2} %   top-5 {:.2} %   loss {:.4}   {} images, {skipped} skipped",
                100.0 * scores.top1(),
                100.0 * scores.top5(),
                scores.loss(),
                scores.images()
            ))?;
            let width = classes.iter().map(|(_, name, ..)| name.chars().count()).max().unwrap_or(0).max(5);
            terminal.result(format_args!("\n{:<width$}  {:>6}  {:>8}", "class", "images", "top-1"))?;
            for (_, name, images, top1) in &classes {
                terminal.result(format_args!("{name:<width$}  {images:>6}  {:>6.2} %", 100.0 * top1))?;
            }
            confusion(scores, names, terminal)
        }
    }
}

/// The whole matrix for up to twenty classes; beyond that the pairs that are confused most.
fn confusion(scores: &Scores, names: &[String], terminal: &Terminal) -> Result<(), Failure> {
    if names.len() <= 20 {
        let cell = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).clamp(5, 12);
        let short = |name: &String| name.chars().take(cell).collect::<String>();
        let header: Vec<String> = names.iter().map(|name| format!("{:>cell$}", short(name))).collect();
        terminal.result(format_args!(
            "\nconfusion: rows are labels, columns predictions\n{:<cell$} {}",
            "",
            header.join(" ")
        ))?;
        for (label, name) in names.iter().enumerate() {
            let row: Vec<String> = scores.predictions(label).iter().map(|n| format!("{n:>cell$}")).collect();
            terminal.result(format_args!("{:<cell$} {}", short(name), row.join(" ")))?;
        }
        return Ok(());
    }
    let mut pairs: Vec<(usize, usize, usize)> = (0..names.len())
        .flat_map(|label| scores.predictions(label).iter().enumerate().map(move |(p, &n)| (n, label, p)))
        .filter(|&(n, label, prediction)| n > 0 && label != prediction)
        .collect();
    pairs.sort_by_key(|&(n, label, prediction)| (std::cmp::Reverse(n), label, prediction));
    terminal.result("\nconfused most:")?;
    for (n, label, prediction) in pairs.into_iter().take(20) {
        terminal.result(format_args!("{n:>6}  {} taken for {}", names[label], names[prediction]))?;
    }
    Ok(())
}
