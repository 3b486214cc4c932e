//! One pass through a model, over which every layer that mixes tokens is looked at.

use mila_models::Model;
use mila_ops::reference::Array;
use mila_ops::{Dims, Error, Executor, Mechanism, Numeric, RecurrenceOn, Result, Tap, TokenPlace};

use crate::gates::{self, PerToken};
use crate::{attention, implied};

/// What a layer that mixes tokens was seen to do with an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The parameter path of the mixing, which is also the tap of its output: `layers.2.blocks.4.attn`.
    pub name: String,
    /// Its input gate, token by token: the mean over channels, and over scans where there are several. None if it has none.
    ///
    /// The Δ of the MILA paper (arXiv 2405.16605, Figure 4a), above 0; that it is the mean over channels which the figure shows is
    /// inferred.
    pub input_gate: Option<TokenMap>,
    /// The forget gate of each of its scans, the mean over tokens and all elements of the state; empty if it has none.
    ///
    /// The Ã = exp(Δ A) of the MILA paper (Figure 4b), in (0, 1).
    pub forget_gates: Vec<f64>,
    /// How much the token that was asked about looks at every token: of linear attention the mean over heads, of recurrences how
    /// much the value of every token counts for it, the mean over channels, summed over scans. None if no token was asked about,
    /// if the layer's mixing is neither, or if a recurrence starts from a carried state.
    pub attention: Option<TokenMap>,
    /// The L2 lengths of the mixing's output tokens, before any projection, as in the MILA paper's Figure 5. Whether the figure
    /// takes them there is inferred.
    pub token_norms: Option<Spread>,
}

/// A number for every token of the image: `[height, width]`, row-major. A class token is left out.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenMap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Values.
    pub values: Vec<f64>,
}

/// Mean and deviation of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of all of them, not of a sample.
    pub std: f64,
}

impl Layer {
    fn new(name: &str) -> Self {
        let name = name.to_owned();
        Self { name, input_gate: None, forget_gates: Vec::new(), attention: None, token_norms: None }
    }

    /// The mean over its scans of [`forget_gates`](Self::forget_gates).
    pub fn forget_gate(&self) -> Option<f64> {
        (!self.forget_gates.is_empty()).then(|| mean(&self.forget_gates))
    }
}

impl TokenMap {
    /// The least and the largest value.
    pub fn range(&self) -> (f64, f64) {
        self.values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &v| (low.min(v), high.max(v)))
    }

    /// The mean of all values.
    pub fn mean(&self) -> f64 {
        mean(&self.values)
    }
}

impl Spread {
    /// Of `values`; both are NaN without any.
    pub fn of(values: &[f64]) -> Self {
        let mean = mean(values);
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        Self { mean, std: variance.sqrt() }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Runs `model` on one image, `[1, height, width, 3]`, normalised, and returns what each layer that mixes tokens did with it, in
/// the order of the pass.
///
/// `looking` is the place from which [`Layer::attention`] looks, from the upper left corner of the image at (0, 0) to the lower
/// right one at (1, 1), as row and column.
///
/// # Errors
/// [`Error::Shape`] for another number of images than one, and for a place outside the image; those of the model and of the executor.
pub fn layers<E: Numeric>(
    e: &E,
    model: &dyn Model<E>,
    image: &Array<f32>,
    looking: Option<[f64; 2]>,
) -> Result<Vec<Layer>> {
    if image.dims.batch != 1 {
        return Err(Error::shape("inspection", "one image", image.dims.batch));
    }
    if let Some([y, x]) = looking
        && !((0.0..=1.0).contains(&y) && (0.0..=1.0).contains(&x))
    {
        return Err(Error::shape("inspection", "a place from (0, 0) to (1, 1)", format_args!("({y}, {x})")));
    }
    let mut observer = Observer { e, looking, row: None, layers: Vec::new() };
    model.forward(e, e.map(image.dims, &image.values)?, &mut observer)?;
    Ok(observer.layers)
}

/// Fills in the layers as the pass goes by.
struct Observer<'a, E> {
    e: &'a E,
    looking: Option<[f64; 2]>,
    /// Where tokens stand in a row: the grid that they are of, and the place of a class token among them.
    row: Option<([usize; 2], TokenPlace)>,
    layers: Vec<Layer>,
}

impl<E: Numeric> Observer<'_, E> {
    /// The layer `name`, which is the last one if it has told something before.
    fn layer(&mut self, name: &str) -> &mut Layer {
        if self.layers.last().is_none_or(|layer| layer.name != name) {
            self.layers.push(Layer::new(name));
        }
        let last = self.layers.len() - 1;
        &mut self.layers[last]
    }

    /// A number for every token of a map of `dims`, without that of a class token, on the image's grid.
    fn on_grid(&self, dims: Dims, mut values: Vec<f64>) -> TokenMap {
        match self.row {
            Some(([height, width], place)) if dims.tokens() == height * width + 1 => {
                values.remove(place.index(height * width));
                TokenMap { height, width, values }
            }
            _ => TokenMap { height: dims.height, width: dims.width, values },
        }
    }

    /// The token at a place of the image, among those of a map of `dims`.
    fn token(&self, dims: Dims, place: [f64; 2]) -> usize {
        match self.row {
            Some((grid, class_token)) if dims.tokens() == grid[0] * grid[1] + 1 => {
                let patch = patch(grid, place);
                patch + usize::from(patch >= class_token.index(grid[0] * grid[1]))
            }
            _ => patch([dims.height, dims.width], place),
        }
    }

    /// The attention that recurrences imply whose outputs are added up.
    fn implied(&self, all: &[RecurrenceOn<'_, E>], place: [f64; 2]) -> Result<Option<TokenMap>> {
        let mut sum: Option<PerToken> = None;
        for recurrence in all {
            let Some(weights) = implied::weights(self.e, recurrence, |dims| self.token(dims, place))? else {
                return Ok(None);
            };
            sum = Some(match sum {
                None => weights,
                Some(sum) => sum.plus(weights),
            });
        }
        Ok(sum.map(|sum| self.on_grid(sum.dims, sum.values)))
    }
}

/// Which of a grid's squares, by rows, a place given by its shares of height and width is in.
fn patch([height, width]: [usize; 2], [y, x]: [f64; 2]) -> usize {
    let at = |share: f64, extent: usize| ((share * extent as f64) as usize).min(extent.saturating_sub(1));
    at(y, height) * width + at(x, width)
}

impl<E: Numeric> Tap<E> for Observer<'_, E> {
    fn wants(&self, name: &str) -> bool {
        self.layers.last().is_some_and(|layer| layer.name == name)
    }

    fn see(&mut self, name: &str, map: <E as Executor>::Map) -> Result<<E as Executor>::Map> {
        let tokens = self.e.read(&map)?;
        let lengths: Vec<f64> = tokens.values.chunks_exact(tokens.dims.channels.max(1)).map(length).collect();
        self.layer(name).token_norms = Some(Spread::of(&lengths));
        Ok(map)
    }

    fn mechanism(&mut self, name: &str, what: Mechanism<'_, E>) -> Result<()> {
        match what {
            Mechanism::Row { grid, class_token } => self.row = Some((grid, class_token)),
            Mechanism::Local => {
                self.layer(name);
            }
            Mechanism::InputGate(gate) => {
                let gate = gates::mean_channels(&self.e.read(gate)?);
                let map = self.on_grid(gate.dims, gate.values);
                self.layer(name).input_gate = Some(map);
            }
            Mechanism::LinearAttention { qk, form } => {
                let attention = match self.looking {
                    None => None,
                    Some(place) => {
                        let qk = self.e.read(qk)?;
                        let weights = attention::weights(&qk, form, self.token(qk.dims, place))?;
                        Some(self.on_grid(qk.dims, weights))
                    }
                };
                self.layer(name).attention = attention;
            }
            Mechanism::Recurrences(all) => {
                let mut forget_gates = Vec::new();
                let mut input_gates = Vec::new();
                for recurrence in all {
                    forget_gates.extend(gates::mean_forget_gate(self.e, recurrence)?);
                    input_gates.extend(gates::input_gate(self.e, recurrence)?);
                }
                let attention = match self.looking {
                    None => None,
                    Some(place) => self.implied(all, place)?,
                };
                let scans = input_gates.len() as f64;
                let sum = input_gates.into_iter().reduce(PerToken::plus);
                let map = sum.map(|sum| self.on_grid(sum.dims, sum.values.iter().map(|sum| sum / scans).collect()));
                let layer = self.layer(name);
                layer.forget_gates = forget_gates;
                layer.input_gate = map.or(layer.input_gate.take());
                layer.attention = attention;
            }
        }
        Ok(())
    }
}

fn length(token: &[f32]) -> f64 {
    token.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_squares() {
        let places = [([0.0, 0.0], 0), ([0.5, 0.5], 6), ([1.0, 1.0], 11), ([0.34, 0.24], 4)];
        assert!(places.iter().all(|&(place, wanted)| patch([3, 4], place) == wanted));
    }
}
