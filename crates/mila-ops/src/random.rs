//! Random numbers keyed by what they are for, so that no draw depends on the order or the thread of another.
//!
//! The generator is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).

/// A stream of SplitMix64 outputs.
#[derive(Clone, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream of `key`. Equal keys give equal streams.
    pub fn new(key: &[u64]) -> Self {
        Self(key.iter().fold(0x6d69_6c61, |state, &part| Self(state ^ part).next()))
    }

    /// The next 64 bits.
    #[allow(clippy::should_implement_trait, reason = "an infinite generator is no iterator: it has no `None`")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number of the uniform distribution on `[0, 1)`.
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The next number of the standard normal distribution (Box and Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// One number of the uniform distribution on `[0, 1)`, a pure function of `key`.
pub fn uniform(key: &[u64]) -> f64 {
    Stream::new(key).uniform()
}

/// The number that stands for a parameter path in a key: 64-bit FNV-1a of its bytes.
pub fn site(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_both_distributions() {
        let mut stream = Stream::new(&[3, 4]);
        let n = 40_000;
        let (mut mean, mut square, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let z = stream.normal();
            mean += z / n as f64;
            square += z * z / n as f64;
            uniform += stream.uniform() / n as f64;
        }
        assert!(mean.abs() < 0.02 && (square - 1.0).abs() < 0.03 && (uniform - 0.5).abs() < 0.01, "{mean} {square}");
    }

    #[test]
    fn keys_are_ordered_and_sites_are_fnv1a() {
        assert_ne!(uniform(&[1, 2]), uniform(&[2, 1]));
        assert_eq!(uniform(&[1, 2]), uniform(&[1, 2]));
        assert_eq!(site("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
