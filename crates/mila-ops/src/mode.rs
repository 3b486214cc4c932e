//! What differs between training and evaluation. The mode is a property of the executor's value, never of a model.

use crate::random;

/// Whether an executor trains or evaluates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics in batch norm; drop path is the identity.
    Eval,
    /// Batch statistics; drop path draws by `(seed, step, site, sample)`.
    Train {
        /// Seed of the run.
        seed: u64,
        /// Optimiser step, so that every step draws anew and a resumed run draws the same.
        step: u64,
    },
}

/// Stochastic depth on one residual branch: a sample's branch is dropped with probability `rate`, and divided by
/// `1 - rate` when kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropPath {
    /// Probability of dropping, in `[0, 1)`.
    pub rate: f32,
    /// Identity of the branch, from its parameter path.
    pub site: u64,
}

impl DropPath {
    /// What the branch of image `sample` is multiplied by: zero, or one over the probability of keeping it.
    pub fn factor(self, mode: Mode, sample: usize) -> f32 {
        match mode {
            Mode::Eval => 1.0,
            Mode::Train { seed, step } => {
                let keep = 1.0 - self.rate;
                if random::uniform(&[seed, step, self.site, sample as u64]) < f64::from(keep) {
                    1.0 / keep
                } else {
                    0.0
                }
            }
        }
    }
}

/// Statistics of one batch norm in one training step, for the running averages.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchStatistics {
    /// Parameter path of the norm, such as `patch_embed.conv1.norm`.
    pub name: String,
    /// Mean per channel.
    pub mean: Vec<f32>,
    /// Unbiased variance per channel: divided by `n - 1`, as PyTorch's running variance is.
    pub variance: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_path_keeps_its_rate_and_expectation() {
        let drop = DropPath { rate: 0.3, site: random::site("layers.0.blocks.1.mlp") };
        let draws: Vec<f32> = (0..20_000).map(|i| drop.factor(Mode::Train { seed: 5, step: 9 }, i)).collect();
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        assert!((mean - 1.0).abs() < 0.02, "mean {mean}");
        assert!(draws.iter().all(|&f| f == 0.0 || f == 1.0 / 0.7), "a factor that is neither dropped nor kept");
        assert_eq!(drop.factor(Mode::Eval, 0), 1.0);
    }
}
