//! Pictures in, probabilities out: a classifier on the fast executor.

use mila_cpu::{Cpu, awake};
use mila_data::EvalTransform;
use mila_models::{Model, Task};
use mila_ops::{Dims, Error, NoTap, Numeric, Result};

use crate::model::Resolved;

/// A classifier with everything that turns a picture into class probabilities.
pub struct Classifier {
    cpu: Cpu,
    model: Box<dyn Model<Cpu>>,
    classes: usize,
    labels: Option<Vec<String>>,
    transform: EvalTransform,
}

/// A class and how sure the model is of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Index of the class.
    pub class: usize,
    /// Softmax over all classes.
    pub probability: f32,
}

impl Classifier {
    /// Prepares a resolved model on `cpu`; `size` takes the place of its own input height and width.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a pyramid and for no classes; those of the weights.
    pub fn new(resolved: &Resolved, mut cpu: Cpu, size: Option<(usize, usize)>) -> Result<Self> {
        let Task::Classify { classes: classes @ 1.. } = resolved.task else {
            return Err(Error::Unsupported { what: "classifying".into(), why: "the model has no classes".into() });
        };
        let model = resolved.preset.build(&mut cpu, &resolved.parameters, resolved.task)?;
        let mut transform = resolved.transform.clone();
        transform.input_size = size.unwrap_or(transform.input_size);
        let labels = resolved.labels.clone().filter(|labels| labels.len() == classes);
        Ok(Self { cpu, model, classes, labels, transform })
    }

    /// How many classes it tells apart.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Names of the classes, where the model has them.
    pub fn labels(&self) -> Option<&[String]> {
        self.labels.as_deref()
    }

    /// The name of a class, or its number.
    pub fn label(&self, class: usize) -> String {
        self.labels.as_ref().map_or_else(|| class.to_string(), |labels| labels[class].clone())
    }

    /// How a picture becomes an input.
    pub fn transform(&self) -> &EvalTransform {
        &self.transform
    }

    /// Logits `[n, classes]` of `n` prepared pictures, `[n, height, width, 3]`.
    ///
    /// # Errors
    /// Those of the model.
    pub fn logits(&self, images: &[f32], n: usize) -> Result<Vec<f32>> {
        let (height, width) = self.transform.input_size;
        let image = self.cpu.map(Dims::new(n, height, width, 3), images)?;
        let output = awake(|| self.model.forward(&self.cpu, image, &mut NoTap))?;
        let logits = output.logits().map(|logits| self.cpu.read(&logits)).transpose()?;
        Ok(logits.map(|logits| logits.values).unwrap_or_default())
    }

    /// The `k` best classes of one picture's logits, best first; of equal ones the first.
    pub fn top(&self, logits: &[f32], k: usize) -> Vec<Prediction> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|v| (v - largest).exp()).sum();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let prediction = |&class: &usize| Prediction { class, probability: (logits[class] - largest).exp() / sum };
        order.iter().take(k).map(prediction).collect()
    }
}
