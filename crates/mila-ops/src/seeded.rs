//! Random initial values.

use std::borrow::Cow;

use crate::random::{Stream, site};
use crate::{Init, Result, Source, Values, Wanted};

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
        let values = (0..wanted.volume()).map(|_| match wanted.init {
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
}
