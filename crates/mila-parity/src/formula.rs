//! Parameter values as a function of their names: the counterpart of `tools/golden/values.py`.

use std::borrow::Cow;

use mila_ops::{Error, Result, Source, Values, Wanted, random};

/// The source of a golden model's parameters.
#[derive(Clone, Copy, Debug)]
pub struct Formula;

impl Source for Formula {
    fn load(&self, wanted: &Wanted) -> Result<Values<'_>> {
        Ok(Values::F32(Cow::Owned(formula(&wanted.name, &wanted.shape)?)))
    }
}

/// `count` numbers in `[0, 1)`, exact in f32: the upper bits of SplitMix64 from the FNV-1a hash of `name`.
fn unit(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let mut state = random::site(name);
    (0..count).map(move |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    })
}

/// The value of the parameter or buffer `name`.
///
/// # Errors
/// For a name without a rule.
pub fn formula(name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let symmetric = |u: f32| 2.0 * u - 1.0;
    let bound = |fan_in: usize| (3.0 / fan_in as f32).sqrt();
    let (all, last) = (bound(shape.iter().skip(1).product()), bound(shape.last().copied().unwrap_or(1)));
    let rule: Box<dyn Fn(f32) -> f32> = match name.rsplit('.').next() {
        Some("running_var") => Box::new(|u| 0.5 + u),
        Some("ape") => Box::new(symmetric),
        Some("running_mean" | "bias" | "dt_projs_bias") => Box::new(move |u| 0.2 * symmetric(u)),
        Some("gamma") => Box::new(move |u| 0.5 + 0.3 * symmetric(u)),
        Some("relative_position_bias_table") => Box::new(move |u| 1.5 * symmetric(u)),
        Some("weight") if shape.len() == 1 => Box::new(move |u| 1.0 + 0.3 * symmetric(u)),
        Some("weight") => Box::new(move |u| symmetric(u) * all),
        Some("x_proj_weight" | "dt_projs_weight") => Box::new(move |u| symmetric(u) * last),
        Some("A_log" | "A_logs" | "A_b_log" | "cls_token" | "pos_embed") => Box::new(move |u| 0.5 * symmetric(u)),
        Some("D" | "Ds" | "D_b") => Box::new(move |u| 1.0 + 0.3 * symmetric(u)),
        _ => return Err(Error::parameter(name, "no rule gives its value")),
    };
    Ok(unit(name, shape.iter().product()).map(rule).collect())
}

/// The input of the goldens, two times a symmetric number, in the order of the caller's layout.
pub fn formula_input(count: usize) -> Vec<f32> {
    unit("input", count).map(|u| 2.0 * (2.0 * u - 1.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of `tools/golden/README.md`, bit by bit.
    #[test]
    fn bits_are_those_of_the_golden_tool() {
        let rows: [(&str, &[usize], [u32; 3]); 6] = [
            ("head.weight", &[10, 128], [0x3d8e_de40, 0x3db0_6e27, 0xb98f_52e8]),
            ("head.bias", &[10], [0xbde9_4520, 0x3e21_8eca, 0xbd2c_e793]),
            ("norm.weight", &[128], [0x3f5b_96b9, 0x3f37_5588, 0x3f85_6a8a]),
            ("patch_embed.conv1.norm.running_var", &[8], [0x3f1e_e7fe, 0x3f5b_0a8c, 0x3f79_91c3]),
            ("patch_embed.conv1.norm.running_mean", &[8], [0x3e24_2ca3, 0xbd93_1abd, 0x3d5b_c927]),
            ("stages.0.blocks.0.gamma", &[16], [0x3eb9_20ca, 0x3ef1_1c55, 0x3f33_9198]),
        ];
        for (name, shape, bits) in rows {
            let values = formula(name, shape).expect("a rule");
            assert_eq!([0, 1, 2].map(|i| values[i].to_bits()), bits, "{name}");
        }
        let input = formula_input(48);
        assert_eq!([0, 1, 2].map(|i| input[i].to_bits()), [0xbfcd_eac2, 0x3f1c_045c, 0xbf97_be90]);
    }
}
