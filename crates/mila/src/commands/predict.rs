//! `mila predict`: the best classes of pictures.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use mila::classify::{Classifier, Prediction};
use mila::data::{Limits, decode_file};
use mila::model;
use rayon::prelude::*;
use serde_json::json;

use crate::cli::{Format, Machine, Predict};
use crate::csv;
use crate::failure::Failure;
use crate::sizes;
use crate::terminal::Terminal;

const EXTENSIONS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];

pub(crate) fn run(args: Predict, machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let mut broken = Vec::new();
    let pictures = gather(&args.paths, &mut broken)?;
    let inputs = pictures.len() + broken.len();
    let resolved = model::resolve(&args.model.request(false))?;
    resolved.notes.iter().for_each(|note| terminal.note(note));
    sizes::check(&resolved, args.size)?;
    let classifier = Classifier::new(&resolved, machine.cpu(args.precision, terminal), args.size)?;
    // An input size that no picture can have is the option's fault, not each picture's.
    classifier.transform().check()?;
    if args.format == Format::Csv {
        terminal.result("path,rank,class,label,probability")?;
    }
    for chunk in pictures.chunks(args.batch as usize) {
        let decoded: Vec<_> = chunk.par_iter().map(|path| (path, prepare(path, &classifier))).collect();
        let mut images = Vec::new();
        let mut read = Vec::new();
        for (path, image) in decoded {
            match image {
                Ok(image) => {
                    images.extend(image);
                    read.push(path);
                }
                Err(error) => broken.push((path.clone(), error.to_string())),
            }
        }
        if read.is_empty() {
            continue;
        }
        let logits = classifier.logits(&images, read.len())?;
        for (path, logits) in read.iter().zip(logits.chunks_exact(classifier.classes())) {
            let best = classifier.top(logits, args.top_k as usize);
            show(path, &best, &classifier, args.format, terminal)?;
        }
    }
    for (path, reason) in &broken {
        terminal.error(format_args!("{}: {reason}", path.display()));
    }
    if broken.is_empty() {
        return Ok(());
    }
    Err(Failure::data(format!("{} of {inputs} inputs could not be read", broken.len())))
}

fn prepare(path: &Path, classifier: &Classifier) -> mila::data::Result<Vec<f32>> {
    classifier.transform().to_nhwc(&decode_file(path, &Limits::default())?)
}

fn show(
    path: &Path,
    best: &[Prediction],
    classifier: &Classifier,
    format: Format,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let shown = path.display();
    match format {
        Format::Table => {
            terminal.result(&shown)?;
            for p in best {
                terminal.result(format_args!("  {:>6.2} %  {}", 100.0 * p.probability, classifier.label(p.class)))?;
            }
            Ok(())
        }
        Format::Json => {
            let label = |p: &Prediction| classifier.labels().map(|labels| labels[p.class].clone());
            let entry = |p: &Prediction| json!({ "class": p.class, "label": label(p), "probability": p.probability });
            let predictions: Vec<_> = best.iter().map(entry).collect();
            terminal.result(json!({ "path": shown.to_string(), "predictions": predictions }))
        }
        Format::Csv => best.iter().enumerate().try_for_each(|(rank, p)| {
            let (path, label) = (shown.to_string(), classifier.label(p.class));
            let (path, label) = (csv::field(&path), csv::field(&label));
            terminal.result(format_args!("{path},{},{},{label},{:.6}", rank + 1, p.class, p.probability))
        }),
    }
}

/// The pictures that the arguments name, folders and globs expanded; what names nothing goes to `broken`.
fn gather(arguments: &[PathBuf], broken: &mut Vec<(PathBuf, String)>) -> Result<Vec<PathBuf>, Failure> {
    let mut pictures = Vec::new();
    for argument in arguments {
        if argument == Path::new("-") {
            for line in std::io::stdin().lock().lines() {
                let line = line.map_err(|e| Failure::run(format_args!("standard input: {e}")))?;
                if !line.is_empty() {
                    expand(Path::new(&line), &mut pictures, broken)?;
                }
            }
        } else {
            expand(argument, &mut pictures, broken)?;
        }
    }
    Ok(pictures)
}

fn expand(path: &Path, pictures: &mut Vec<PathBuf>, broken: &mut Vec<(PathBuf, String)>) -> Result<(), Failure> {
    if path.is_dir() {
        let before = pictures.len();
        walk(path, pictures)?;
        if pictures.len() == before {
            broken.push((path.to_owned(), "expected pictures in this folder, found none".into()));
        }
        return Ok(());
    }
    if path.exists() {
        pictures.push(path.to_owned());
        return Ok(());
    }
    let pattern = path.to_string_lossy();
    let before = (pictures.len(), broken.len());
    if let Ok(paths) = glob::glob(&pattern)
        && pattern.contains(['*', '?', '['])
    {
        for found in paths {
            match found {
                Ok(found) if found.is_dir() => {}
                Ok(found) => pictures.push(found),
                Err(error) => broken.push((error.path().to_owned(), error.error().to_string())),
            }
        }
    }
    if (pictures.len(), broken.len()) == before {
        broken.push((path.to_owned(), "no such file".into()));
    }
    Ok(())
}

/// The pictures below a folder, in the order of their names.
fn walk(folder: &Path, pictures: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::run(format_args!("{}: {error}", folder.display()));
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        entries.push(entry.map_err(failed)?.path());
    }
    entries.sort();
    for path in entries {
        // A link to a folder above would never end.
        if path.is_dir() && !path.is_symlink() {
            walk(&path, pictures)?;
        } else if path.extension().is_some_and(|e| EXTENSIONS.contains(&e.to_string_lossy().to_lowercase().as_str())) {
            pictures.push(path);
        }
    }
    Ok(())
}
