//! `mila inspect`: what the layers of a model do with a picture, as a picture and as numbers.

mod numbers;

use std::io::Write;
use std::path::Path;

use mila::cpu::Cpu;
use mila::data::{Limits, Picture, decode_file};
use mila::inspect::heat_maps::{self, Panel};
use mila::inspect::layer_chart::{self, MOST_SERIES, Scale, Series};
use mila::inspect::{Drawing, Heading, Layer, TokenMap, layers};
use mila::model::{self, Parameters, Request};
use mila::ops::Dims;
use mila::ops::reference::Array;
use mila::weights::write_whole;

use crate::cli::{Inspect, Machine, MapName};
use crate::failure::Failure;
use crate::sizes;
use crate::terminal::Terminal;

/// Characters of the image's name on a picture, at most.
const FILE_NAME: usize = 60;

/// One model and what it did.
struct Inspected {
    /// As it was typed.
    model: String,
    architecture: &'static str,
    /// Where its weights come from.
    weights: Weights,
    /// The image as the model saw it.
    picture: Picture,
    layers: Vec<Layer>,
}

/// Where weights come from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    Loaded,
    Random,
}

/// The form of a picture.
#[derive(Clone, Copy)]
enum Form {
    Png,
    Svg,
}

pub(crate) fn run(args: Inspect, machine: &Machine, terminal: &Terminal) -> Result<(), Failure> {
    let output = args.output.as_deref().map(|path| Ok::<_, Failure>((path, Form::of(path)?))).transpose()?;
    if args.beside.len() >= MOST_SERIES {
        let most = MOST_SERIES - 1;
        return Err(Failure::usage(format!("--beside: expected at most {most} models, found {}", args.beside.len())));
    }
    let picture = decode_file(&args.image, &Limits::default()).map_err(|error| match error {
        // It names the file itself.
        mila::data::Error::Io { .. } => error.into(),
        error => Failure::from(error).at(args.image.display()),
    })?;
    let first = args.model.request(false);
    let beside =
        args.beside.iter().map(|model| Request { model: model.clone(), weights: None, classes: None, ..first.clone() });
    let requests: Vec<Request> = std::iter::once(first.clone()).chain(beside).collect();
    let mut all = Vec::with_capacity(requests.len());
    for request in &requests {
        let inspected = Inspected::of(request, &args, &picture, machine, terminal)?;
        inspected.check(args.map)?;
        all.push(inspected);
    }
    numbers::write(&args, &all, terminal)?;
    if let Some((path, form)) = output {
        let drawing = draw(&args, &all);
        let content = match form {
            Form::Png => drawing.to_png(),
            Form::Svg => drawing.to_svg().into_bytes(),
        };
        write_whole(path, |file| file.write_all(&content))?;
        terminal.note(format_args!("wrote {}", path.display()));
    }
    Ok(())
}

impl Form {
    fn of(path: &Path) -> Result<Self, Failure> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        match extension.as_deref() {
            Some("png") => Ok(Self::Png),
            Some("svg") => Ok(Self::Svg),
            _ => {
                let path = path.display();
                Err(Failure::usage(format!("--output {path}: expected a name that ends in .png or .svg")))
            }
        }
    }
}

impl Inspected {
    fn of(
        request: &Request,
        args: &Inspect,
        picture: &Picture,
        machine: &Machine,
        terminal: &Terminal,
    ) -> Result<Self, Failure> {
        let resolved = model::resolve(request)?;
        for note in &resolved.notes {
            terminal.note(format_args!("{}: {note}", request.model));
        }
        sizes::check(&resolved, args.size)?;
        let mut cpu = Cpu::new(machine.isa);
        let model = resolved.preset.build(&mut cpu, &resolved.parameters, resolved.task)?;
        let mut transform = resolved.transform.clone();
        transform.input_size = args.size.unwrap_or(transform.input_size);
        let picture = transform.picture(picture)?;
        let mut values = Vec::with_capacity(picture.pixels().len());
        transform.normalise(picture.pixels(), &mut values);
        let image = Array::checked(Dims::new(1, picture.height(), picture.width(), 3), values)?;
        let layers = layers(&cpu, model.as_ref(), &image, Some(args.at.0))?;
        let weights = match resolved.parameters {
            Parameters::Random(_) => Weights::Random,
            Parameters::Loaded { .. } => Weights::Loaded,
        };
        Ok(Self { model: request.model.clone(), architecture: resolved.preset.name, weights, picture, layers })
    }

    /// Fails if no layer has what `map` shows.
    fn check(&self, map: MapName) -> Result<(), Failure> {
        let has = |map: &MapName| self.layers.iter().any(|layer| shows(layer, *map));
        if has(&map) {
            return Ok(());
        }
        let found: Vec<&str> = MapName::ALL.iter().filter(|map| has(map)).map(|map| map.name()).collect();
        let has = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        let (wanted, name) = (map.name(), self.architecture);
        Err(Failure::usage(format!("--map {wanted}: no layer of {name} has one; what its layers have: {has}")))
    }

    /// The layers with the map of tokens that `map` shows.
    fn token_maps(&self, map: MapName) -> Vec<(&str, &TokenMap)> {
        self.layers.iter().filter_map(|layer| Some((layer.name.as_str(), token_map(layer, map)?))).collect()
    }
}

/// Whether a layer has what `map` shows.
fn shows(layer: &Layer, map: MapName) -> bool {
    match map {
        MapName::InputGate | MapName::Attention => token_map(layer, map).is_some(),
        MapName::ForgetGate => layer.forget_gate().is_some(),
        MapName::TokenNorm => layer.token_norms.is_some(),
    }
}

fn token_map(layer: &Layer, map: MapName) -> Option<&TokenMap> {
    match map {
        MapName::InputGate => layer.input_gate.as_ref(),
        MapName::Attention => layer.attention.as_ref(),
        MapName::ForgetGate | MapName::TokenNorm => None,
    }
}

fn draw(args: &Inspect, all: &[Inspected]) -> Drawing {
    let names: Vec<String> = all.iter().map(|one| name(one, all)).collect();
    let titled = |what: &str| match &names[..] {
        [name] => format!("{what} of {name}"),
        _ => what.to_owned(),
    };
    let file = args.image.file_name().unwrap_or_default().to_string_lossy();
    let seen = format!("image: {}", file.chars().take(FILE_NAME).collect::<String>());
    let mark = (args.map == MapName::Attention).then_some(args.at.0);
    let heat_maps = |what: &str, about: &[&str]| {
        let maps: Vec<_> = all.iter().map(|one| one.token_maps(args.map)).collect();
        let together = all.iter().zip(&names).zip(&maps);
        let panels: Vec<Panel> =
            together.map(|((one, name), maps)| Panel { name, picture: &one.picture, mark, maps }).collect();
        heat_maps::draw(&Heading { title: &titled(what), about }, &panels)
    };
    let chart = |what: &str, about: [&str; 2], scale, value: fn(&Layer) -> Option<f64>| {
        let of = |(one, name): (&Inspected, &String)| {
            let layers = one.layers.iter().filter_map(|layer| Some((layer.name.clone(), value(layer)?)));
            Series { name: name.clone(), layers: layers.collect() }
        };
        let series: Vec<Series> = all.iter().zip(&names).map(of).collect();
        layer_chart::draw(&Heading { title: &titled(what), about: &[about[0], about[1], &seen] }, scale, &series)
    };
    match args.map {
        MapName::InputGate => heat_maps("Input gate", &["How much of each token is let in,", "mean over channels"]),
        MapName::Attention => heat_maps(
            "Attention",
            &["How much the marked token looks at each token,", "mean over heads, of recurrences over channels"],
        ),
        MapName::ForgetGate => {
            let about = ["What is left of the state from one token to the next,", "mean over tokens and state"];
            chart("Forget gate", about, Scale::Share, Layer::forget_gate)
        }
        MapName::TokenNorm => {
            let about =
                ["Standard deviation of the lengths of all tokens", "behind the mixing of each layer, logarithmic"];
            chart("Token norms", about, Scale::Logarithm, |layer| layer.token_norms.map(|norms| norms.std))
        }
    }
}

/// What a model is called on a picture: its architecture, or what was typed where two have the same. A picture travels without
/// what was said on stderr, so it says itself that it shows random weights.
fn name(one: &Inspected, all: &[Inspected]) -> String {
    let alike = all.iter().filter(|other| other.architecture == one.architecture).count();
    let name = if alike > 1 { one.model.as_str() } else { one.architecture };
    match one.weights {
        Weights::Loaded => name.to_owned(),
        Weights::Random => format!("{name}, random weights"),
    }
}
