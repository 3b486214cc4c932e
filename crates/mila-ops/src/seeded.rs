//! Random initial values.

use std::borrow::Cow;

use crate::random::{Stream, site};
use crate::{Init, Result, Source, Values, Wanted};

/// Deviation of the standard normal distribution when it is cut at two.
const TRUNCATED_DEVIATION: f64 = 0.879_625_661_034_239_8;
/// Where Mamba's step sizes start.
const STEP_SIZES: [f64; 2] = [0.001, 0.1];

/// Initial values from a seed. Each tensor has a stream of its own, keyed by its name, so that a tensor's values do not
/// depend on what else a model has.
#[derive(Clone, Copy, Debug)]
pub struct Seeded {
    seed: u64,
}

impl Seeded {
    /// The initialiser of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl Source for Seeded {
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>> {
        let mut stream = Stream::new(&[self.seed, site(&wanted.name)]);
        let last = wanted.shape.last().copied().unwrap_or(1);
        let values = (0..wanted.volume()).map(|at| match wanted.init {
            Init::Zeros => 0.0,
            Init::Ones => 1.0,
            Init::Constant { value } => value,
            Init::Uniform { bound } => ((2.0 * stream.uniform() - 1.0) * f64::from(bound)) as f32,
            Init::TruncatedNormal { std } => loop {
                let value = (stream.normal() * f64::from(std)) as f32;
                if value.abs() <= 2.0 {
                    break value;
                }
            },
            Init::LecunNormal { fan_in } => loop {
                let value = stream.normal();
                if value.abs() <= 2.0 {
                    break (value / (TRUNCATED_DEVIATION * (fan_in as f64).sqrt())) as f32;
                }
            },
            Init::LogCount => ((at % last + 1) as f64).ln() as f32,
            Init::StepSizeBias => {
                let [least, most] = STEP_SIZES.map(f64::ln);
                let step = (least + (most - least) * stream.uniform()).exp();
                // The inverse of softplus.
                (step + (-(-step).exp_m1()).ln()) as f32
            }
        });
        Ok(Values::F32(Cow::Owned(values.collect())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_follow_name_and_seed_only() {
        let wanted = |name: &str| Wanted::parameter(name.into(), &[40, 50], Init::TruncatedNormal { std: 0.02 });
        let load = |seed, name| Seeded::new(seed).fetch(&wanted(name)).unwrap().into_f32().into_owned();
        assert_eq!(load(1, "a"), load(1, "a"));
        assert_ne!(load(1, "a"), load(2, "a"));
        assert_ne!(load(1, "a"), load(1, "b"));
        let values = load(7, "a");
        let std = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!((std - 0.02).abs() < 1e-3, "deviation {std}");
    }

    #[test]
    fn uniform_fills_its_interval() {
        let wanted = Wanted::parameter("w".into(), &[1000], Init::Uniform { bound: 0.25 });
        let values = Seeded::new(0).fetch(&wanted).unwrap().into_f32().into_owned();
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest <= 0.25 && largest > 0.24, "largest {largest}");
    }

    #[test]
    fn lecun_normal_has_the_variance_of_its_fan_in() {
        let wanted = Wanted::parameter("w".into(), &[200, 100], Init::LecunNormal { fan_in: 100 });
        let values = Seeded::new(0).fetch(&wanted).unwrap().into_f32().into_owned();
        let std = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        assert!((std - 0.1).abs() < 2e-3, "deviation {std}");
        assert!(values.iter().all(|v| v.abs() <= 0.2 / 0.8796), "beyond two deviations");
    }

    /// Section 9.2 of the specification of the operator, and Mamba's own constants.
    #[test]
    fn mamba_starts_from_counted_rates_and_small_steps() {
        let values = |shape: &[usize], init| {
            let wanted = Wanted::parameter("w".into(), shape, init);
            Seeded::new(0).fetch(&wanted).unwrap().into_f32().into_owned()
        };
        assert_eq!(values(&[2, 3], Init::LogCount), [1f32, 2., 3., 1., 2., 3.].map(f32::ln));
        let biases = values(&[4000], Init::StepSizeBias);
        let steps: Vec<f32> = biases.iter().map(|b| b.exp().ln_1p()).collect();
        assert!(steps.iter().all(|&s| (0.000_999..0.100_1).contains(&s)), "a step beyond its bounds");
        let below = steps.iter().filter(|&&s| s < 0.01).count();
        assert!((1800..2200).contains(&below), "{below} of 4000 below the middle");
        assert!(biases.iter().all(|b| (-6.908..=-2.252).contains(b)), "a bias beyond its bounds");
    }
}
