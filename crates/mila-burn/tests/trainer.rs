//! The trainer: it learns, resumes bit for bit, does not depend on the number of threads, and refuses bad input.

use std::borrow::Cow;
use std::collections::HashMap;

use mila_burn::{AdamW, Burn, Form, ImageBatch, Trainer};
use mila_kernels::isa::Isa;
use mila_models::{Architecture, Task, mila};
use mila_ops::{Builder, Dims, Error, Result, Seeded, Source, Values, Wanted, random};
use mila_parity::{CONVNEXT_REDUCED, MILA_REDUCED};

const CLASSES: usize = 10;
const LR: f64 = 1e-3;
const LABELS: [u32; 4] = [3, 7, 0, 3];
/// Four small images, neither square nor a multiple of 32.
const DIMS: Dims = Dims::new(4, 40, 24, 3);

/// The reduced MILA with drop path.
const MILA: Architecture = Architecture::Mila(mila::Config { drop_path: 0.4, ..MILA_REDUCED });

fn trainer(architecture: Architecture, source: &dyn Source) -> Trainer {
    let task = Task::Classify { classes: CLASSES };
    let build = |declared: &mut Burn| architecture.build(&mut Builder::new(declared, source), task);
    Trainer::new(AdamW::default(), Some(5.0), 11, build).expect("a model")
}

/// Images whose mean depends on their class, with noise that depends on the step.
fn images(step: u64, dims: Dims) -> Vec<f32> {
    let pixel = |(image, label): (usize, &u32)| {
        let mut stream = random::Stream::new(&[step, image as u64]);
        let level = f64::from(*label) / 5.0 - 1.0;
        (0..dims.volume() / dims.batch).map(move |_| (level + 0.5 * stream.normal()) as f32).collect::<Vec<_>>()
    };
    LABELS.iter().enumerate().flat_map(pixel).collect()
}

/// Steps `from..to`; the loss of each.
fn run(trainer: &mut Trainer, dims: Dims, from: u64, to: u64) -> Vec<f64> {
    let step = |step| {
        let values = images(step, dims);
        trainer.step(ImageBatch { dims, values: &values }, &LABELS, LR).expect("a step").loss
    };
    (from..to).map(step).collect()
}

/// Everything that training changes, as bits.
fn bits(trainer: &Trainer) -> Vec<(String, Vec<u32>)> {
    let tensors = trainer.tensors().expect("the tensors").into_iter().map(|(wanted, values)| (wanted.name, values));
    let state = trainer.state().expect("the state");
    let step = ("step".to_owned(), vec![state.step as f32]);
    let all = tensors.chain(state.tensors).chain([step]);
    all.map(|(name, values)| (name, values.iter().map(|v| v.to_bits()).collect())).collect()
}

fn assert_same(what: &str, found: &[(String, Vec<u32>)], wanted: &[(String, Vec<u32>)]) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of tensors");
    for ((name, found), (other, wanted)) in found.iter().zip(wanted) {
        assert_eq!(name, other, "{what}: order of the tensors");
        assert!(found == wanted, "{what}: {name} differs");
    }
}

/// A saved set of tensors.
struct Saved(HashMap<String, Vec<f32>>);

impl Source for Saved {
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>> {
        let values = self.0.get(&wanted.name).ok_or_else(|| Error::parameter(&wanted.name, "not saved"))?;
        Ok(Values::F32(Cow::Borrowed(values)))
    }
}

#[test]
fn the_loss_of_a_fixed_batch_falls() {
    for form in [Form::Kernels(Isa::detect()), Form::Portable] {
        let architecture = Architecture::Mila(MILA_REDUCED);
        let mut trainer = trainer(architecture, &Seeded::new(1)).with_form(form);
        let values = images(0, DIMS);
        let batch = ImageBatch { dims: DIMS, values: &values };
        let steps: Vec<_> = (0..30).map(|_| trainer.step(batch, &LABELS, LR).expect("a step")).collect();
        let (first, last) = (steps[0], steps[29]);
        eprintln!("{form:?}: loss {} to {}", first.loss, last.loss);
        assert!((first.loss - (CLASSES as f64).ln()).abs() < 0.5, "{form:?}: the first loss is {}", first.loss);
        assert!(last.loss < 0.1 * first.loss, "{form:?}: the loss went from {} to {}", first.loss, last.loss);
        assert_eq!(last.correct, LABELS.len(), "{form:?}: images that are right in the end");
        assert_eq!(trainer.steps(), 30);
        let logits = trainer.evaluate(batch).expect("logits");
        assert!(logits.len() == LABELS.len() * CLASSES && logits.iter().all(|v| v.is_finite()), "{form:?}: {logits:?}");
    }
}

#[test]
fn resuming_is_exact_to_the_bit() {
    let mut whole = trainer(MILA, &Seeded::new(2));
    let losses = run(&mut whole, DIMS, 0, 6);
    let mut half = trainer(MILA, &Seeded::new(2));
    assert_eq!(run(&mut half, DIMS, 0, 3), losses[..3], "the same start twice");
    let tensors = half.tensors().expect("the tensors").into_iter().map(|(wanted, values)| (wanted.name, values));
    let (source, state) = (Saved(tensors.collect()), half.state().expect("the state"));
    drop(half);
    let mut resumed = trainer(MILA, &source);
    resumed.restore(state).expect("the saved state");
    assert_eq!(resumed.steps(), 3);
    assert_eq!(run(&mut resumed, DIMS, 3, 6), losses[3..], "losses after resuming");
    assert_same("resumed", &bits(&resumed), &bits(&whole));
}

/// Otherwise the test above would not see whether drop path goes on from the step where it stopped.
#[test]
fn drop_path_draws_anew_at_every_step() {
    let losses = |restore: Option<u64>| {
        let mut trainer = trainer(MILA, &Seeded::new(2));
        let mut state = trainer.state().expect("the state");
        state.step = restore.unwrap_or(0);
        trainer.restore(state).expect("the state");
        let values = images(0, DIMS);
        trainer.step(ImageBatch { dims: DIMS, values: &values }, &LABELS, LR).expect("a step").loss
    };
    assert_eq!(losses(None), losses(Some(0)));
    assert_ne!(losses(None), losses(Some(1)));
}

/// The images are large enough that the kernels cut the first stages' maps into pieces.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let dims = Dims::new(4, 96, 80, 3);
    for form in [Form::Kernels(Isa::detect()), Form::Portable] {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| {
                let mut trainer = trainer(MILA, &Seeded::new(3)).with_form(form);
                (run(&mut trainer, dims, 0, 3), bits(&trainer))
            })
        };
        let one = on(1);
        for threads in [2, 3] {
            let many = on(threads);
            assert_eq!(many.0, one.0, "{form:?}: losses on {threads} threads");
            assert_same(&format!("{form:?} on {threads} threads"), &many.1, &one.1);
        }
    }
}

#[test]
fn what_is_not_finite_is_refused_and_changes_nothing() {
    for architecture in [MILA, Architecture::ConvNext(CONVNEXT_REDUCED)] {
        for form in [Form::Kernels(Isa::detect()), Form::Portable] {
            let mut trainer = trainer(architecture, &Seeded::new(4)).with_form(form);
            run(&mut trainer, DIMS, 0, 1);
            let before = bits(&trainer);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for position in [0, DIMS.volume() / 2, DIMS.volume() - 1] {
                    let mut values = images(1, DIMS);
                    values[position] = bad;
                    let found = trainer.step(ImageBatch { dims: DIMS, values: &values }, &LABELS, LR);
                    assert!(matches!(found, Err(Error::NotFinite { .. })), "{form:?}, {bad} at {position}: {found:?}");
                    assert_same("a refused step", &bits(&trainer), &before);
                }
            }
            run(&mut trainer, DIMS, 1, 2);
        }
    }
}

/// A batch variance that overflows makes the normed map constant, and leaves loss and gradients finite.
#[test]
fn a_running_statistic_that_overflows_is_refused_and_changes_nothing() {
    for form in [Form::Kernels(Isa::detect()), Form::Portable] {
        let mut trainer = trainer(MILA, &Seeded::new(4)).with_form(form);
        let before = bits(&trainer);
        let mut values = images(0, DIMS);
        values[0] = f32::MAX;
        let found = trainer.step(ImageBatch { dims: DIMS, values: &values }, &LABELS, LR);
        assert!(matches!(found, Err(Error::NotFinite { .. })), "{form:?}: {found:?}");
        assert_same("a refused step", &bits(&trainer), &before);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut trainer = trainer(MILA, &Seeded::new(5));
    let before = bits(&trainer);
    let values = images(0, DIMS);
    let step = |trainer: &mut Trainer, dims: Dims, values: &[f32], labels: &[u32]| {
        trainer.step(ImageBatch { dims, values }, labels, LR).expect_err("a step that has to fail")
    };
    let one = &values[..32 * 32 * 3];
    let errors = [
        ("too few labels", step(&mut trainer, DIMS, &values, &LABELS[..3])),
        ("too many labels", step(&mut trainer, DIMS, &values, &[3; 5])),
        ("a label out of range", step(&mut trainer, DIMS, &values, &[3, 7, 10, 0])),
        ("the largest label", step(&mut trainer, DIMS, &values, &[3, 7, u32::MAX, 0])),
        ("too few values", step(&mut trainer, DIMS, &values[1..], &LABELS)),
        ("four planes", step(&mut trainer, Dims::new(3, 40, 24, 4), &values, &LABELS[..3])),
        ("no rows", step(&mut trainer, Dims { height: 0, ..DIMS }, &[], &LABELS)),
        ("no images", step(&mut trainer, Dims { batch: 0, ..DIMS }, &[], &[])),
        ("one value a channel", step(&mut trainer, Dims::new(1, 32, 32, 3), one, &LABELS[..1])),
    ];
    for (what, error) in errors {
        assert!(matches!(error, Error::Shape { .. }), "{what}: {error}");
        assert_same(what, &bits(&trainer), &before);
    }
}

/// No batch norm refuses an empty batch here.
#[test]
fn an_empty_batch_is_refused() {
    let mut trainer = trainer(Architecture::ConvNext(CONVNEXT_REDUCED), &Seeded::new(6));
    let before = bits(&trainer);
    let error = trainer.step(ImageBatch { dims: Dims { batch: 0, ..DIMS }, values: &[] }, &[], LR);
    assert!(matches!(error, Err(Error::Shape { .. })), "{error:?}");
    assert_same("a refused step", &bits(&trainer), &before);
}

#[test]
fn a_state_of_another_model_is_refused() {
    let mut mila = trainer(MILA, &Seeded::new(7));
    let other = trainer(Architecture::ConvNext(CONVNEXT_REDUCED), &Seeded::new(7));
    let error = mila.restore(other.state().expect("the state")).expect_err("moments of another model");
    assert!(matches!(error, Error::Parameter { .. }), "{error}");
    let mut short = mila.state().expect("the state");
    short.tensors[0].1.pop();
    assert!(matches!(mila.restore(short), Err(Error::Parameter { .. })), "a moment that is too short");
}
