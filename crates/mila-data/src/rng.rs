//! The keyed random generator: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, doi:10.1145/2660193.2660195).
//!
//! A stream is named by a list of numbers, such as (seed, epoch, sample). Equal names give equal streams on every platform,
//! and a stream does not depend on what other streams have drawn; so work may be spread over threads in any way. It is for
//! shuffling and augmentation, not for secrets.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng {
    state: u64,
}

const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of a name. The order of its parts matters.
    pub fn keyed(name: &[u64]) -> Self {
        let state = name.iter().fold(0, |state: u64, part| mix(state.wrapping_add(GOLDEN_GAMMA) ^ mix(*part)));
        Self { state }
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        mix(self.state)
    }

    /// A whole number in `0..bound`, without bias (Lemire, arXiv:1805.10941). A bound of 0 gives 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let rejected = bound.wrapping_neg().checked_rem(bound).unwrap_or(0);
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            if product as u64 >= rejected {
                return (product >> 64) as u64;
            }
        }
    }

    /// A number in `[0, 1)` with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Permutes the items uniformly (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_is_splitmix64() {
        // The first outputs of the published algorithm for seed 0.
        let mut rng = Rng { state: 0 };
        let found = [rng.next_u64(), rng.next_u64(), rng.next_u64()];
        assert_eq!(found, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    #[test]
    fn names_make_streams_of_their_own() {
        let first = |name: &[u64]| Rng::keyed(name).next_u64();
        assert_eq!(first(&[1, 2]), first(&[1, 2]));
        let streams = [first(&[1, 2]), first(&[2, 1]), first(&[1, 3]), first(&[1]), first(&[1, 2, 0]), first(&[])];
        for (index, stream) in streams.iter().enumerate() {
            assert!(!streams[..index].contains(stream));
        }
    }

    #[test]
    fn bounds_are_kept_and_shuffles_are_permutations() {
        let mut rng = Rng::keyed(&[7]);
        let mut counts = [0; 6];
        for _ in 0..6000 {
            counts[rng.below(6) as usize] += 1;
        }
        // Six standard deviations of a binomial with n = 6000, p = 1/6 are 173.
        assert!(counts.iter().all(|&count: &i32| (count - 1000).abs() < 173), "{counts:?}");
        assert_eq!((rng.below(0), rng.below(1)), (0, 0));
        assert!((0..1000).all(|_| (0.0..1.0).contains(&rng.unit())));
        let mut items: Vec<u32> = (0..100).collect();
        rng.shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
