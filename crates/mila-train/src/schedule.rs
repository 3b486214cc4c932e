//! The learning rate: linear warm-up, then a cosine that is not shifted by it, per step.

use std::f64::consts::PI;

/// Learning rate as a function of the step. The cosine runs over all steps from the first one on, so the rate drops
/// where the warm-up ends, as timm's does with `warmup_prefix=False`, which the official recipe uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Rate at the end of the warm-up.
    pub base: f64,
    /// Rate of the first step.
    pub warmup: f64,
    /// Rate that the cosine ends at.
    pub min: f64,
    /// Steps of the warm-up.
    pub warmup_steps: u64,
    /// Steps of the run.
    pub steps: u64,
}

impl Schedule {
    /// The rate of optimiser step `step`, counted from zero.
    pub fn at(&self, step: u64) -> f64 {
        let share = |steps: u64| step as f64 / steps.max(1) as f64;
        if step < self.warmup_steps {
            return self.warmup + (self.base - self.warmup) * share(self.warmup_steps);
        }
        // Past the end the cosine would rise again.
        self.min + 0.5 * (self.base - self.min) * (1.0 + (PI * share(self.steps).min(1.0)).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anchors of the official recipe at batch 4096, with 1000 steps an epoch (spec section 2.1).
    #[test]
    fn anchors() {
        let s = Schedule { base: 4e-3, warmup: 4e-6, min: 4e-5, warmup_steps: 20_000, steps: 300_000 };
        for (epoch, rate) in [
            (0.0, 4e-6),
            (1.0, 2.038e-4),
            (10.0, 2.002e-3),
            (19.999, 3.999_800_20e-3),
            (20.0, 3.956_732_25e-3),
            (75.0, 3.420_071_43e-3),
            (150.0, 2.02e-3),
            (225.0, 6.199_285_73e-4),
            (299.0, 4.010_856_47e-5),
            (299.999, 4.000_000_01e-5),
        ] {
            let found = s.at((epoch * 1000.0_f64).round() as u64);
            assert!((found / rate - 1.0).abs() < 1e-8, "epoch {epoch}: {found} for {rate}");
        }
        assert_eq!(s.at(400_000), 4e-5);
    }

    #[test]
    fn no_warm_up_starts_at_the_base() {
        let s = Schedule { base: 1.0, warmup: 0.0, min: 0.0, warmup_steps: 0, steps: 10 };
        assert_eq!(s.at(0), 1.0);
    }
}
