//! Numbers and names on pictures.

/// Three significant digits, without an exponent between a thousandth and a million: `0.0213`, `1.25`, `312`, `4.10e-7`.
pub(crate) fn number(value: f64) -> String {
    significant(value, 3)
}

/// A least and a largest value, with as many digits, up to five, as it takes to see that they differ.
pub(crate) fn range(low: f64, high: f64) -> String {
    if low == high {
        return format!("{} everywhere", number(low));
    }
    let digits = (3..5).find(|&digits| significant(low, digits) != significant(high, digits)).unwrap_or(5);
    format!("{} to {}", significant(low, digits), significant(high, digits))
}

fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if !value.is_finite() {
        return format!("{value}");
    }
    let rounded = format!("{value:.*e}", digits - 1);
    let exponent = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or(0);
    if !(-3..6).contains(&exponent) {
        return rounded;
    }
    let places = digits as i32 - 1 - exponent;
    format!("{value:.*}", usize::try_from(places).unwrap_or(0))
}

/// The names of layers without the last part, where all have the same: `layers.2.blocks.4` for `layers.2.blocks.4.attn`.
pub(crate) fn short<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let parts: Option<Vec<(&str, &str)>> = names.iter().map(|name| name.rsplit_once('.')).collect();
    match parts {
        Some(parts) if parts.windows(2).all(|pair| pair[0].1 == pair[1].1) => {
            parts.into_iter().map(|(front, _)| front).collect()
        }
        _ => names.to_vec(),
    }
}

/// At most `most` characters of a text, the first two of them `..` where some are left out.
pub(crate) fn ending(text: &str, most: usize) -> String {
    let surplus = text.chars().count().saturating_sub(most);
    if surplus == 0 {
        return text.to_owned();
    }
    format!("..{}", text.chars().skip(surplus + 2).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_what_all_end_in() {
        assert_eq!(short(&["layers.0.attn", "layers.1.attn"]), ["layers.0", "layers.1"]);
        assert_eq!(short(&["a.0.attn", "a.1.conv"]), ["a.0.attn", "a.1.conv"]);
        assert_eq!(short(&["mixer", "a.mixer"]), ["mixer", "a.mixer"]);
        assert!(short(&[]).is_empty());
        assert_eq!((ending("runs/a/best", 8), ending("short", 5)), ("..a/best".into(), "short".into()));
    }

    #[test]
    fn three_digits_count() {
        let cases = [
            (0.0, "0"),
            (0.021_345, "0.0213"),
            (-1.2549, "-1.25"),
            (0.9999, "1.00"),
            (99.96, "100"),
            (312.4, "312"),
            (45_678.0, "45678"),
            (4.1e-7, "4.10e-7"),
            (2e9, "2.00e9"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(range(0.02081, 0.020921), "0.0208 to 0.0209");
        assert_eq!(range(0.020861, 0.020921), "0.02086 to 0.02092");
        assert_eq!(range(0.5, 0.5), "0.500 everywhere");
        assert_eq!(range(7.9e-4, 1.281e-3), "7.90e-4 to 0.00128");
    }
}
