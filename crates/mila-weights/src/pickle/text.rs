//! Text of the old protocols.

use std::borrow::Cow;

/// Decodes `\uXXXX` and `\UXXXXXXXX`; `None` if one is broken or names no character.
pub(crate) fn unescape(text: &str) -> Option<Cow<'_, str>> {
    let mut left = text;
    let mut out = String::new();
    while let Some(at) = left.find("\\u").into_iter().chain(left.find("\\U")).min() {
        let digits = if left[at..].starts_with("\\u") { 4 } else { 8 };
        let code = left.get(at + 2..at + 2 + digits)?;
        out.push_str(&left[..at]);
        out.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        left = &left[at + 2 + digits..];
    }
    if out.is_empty() && left.len() == text.len() {
        return Some(Cow::Borrowed(text));
    }
    out.push_str(left);
    Some(Cow::Owned(out))
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn escapes_are_decoded() {
        assert_eq!(unescape("plain").as_deref(), Some("plain"));
        assert_eq!(unescape("a\\u0041b\\U0001F600").as_deref(), Some("aAb\u{1F600}"));
        assert_eq!(unescape("\\u00"), None);
        assert_eq!(unescape("\\ud800"), None);
        assert_eq!(unescape("\\u00é0"), None);
    }
}
