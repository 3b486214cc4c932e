//! Rust source, split into what the compiler reads and what people read.

/// A source file in two views of the same lines. What belongs to the other view, and the content of literals, is blank.
pub(crate) struct Source {
    /// Without comments; literals keep their quotes only.
    pub(crate) code: String,
    /// Comments with their markers, doc comments too.
    pub(crate) comments: String,
}

impl Source {
    /// Splits `text`. Text that is no Rust gives views that mean nothing, but no failure.
    pub(crate) fn new(text: &str) -> Self {
        let mut scanner = Scanner { rest: text, code: String::new(), comments: String::new() };
        while let Some(next) = scanner.rest.chars().next() {
            scanner.token(next);
        }
        Self { code: scanner.code, comments: scanner.comments }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Code,
    Comment,
    Literal,
}

struct Scanner<'a> {
    rest: &'a str,
    code: String,
    comments: String,
}

impl Scanner<'_> {
    fn token(&mut self, next: char) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.take(rest.find('\n').unwrap_or(rest.len()), Kind::Comment);
        } else if rest.starts_with("/*") {
            self.take(block_comment(rest), Kind::Comment);
        } else if let Some((prefix, hashes)) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let body = rest[prefix..].find(&end).unwrap_or(rest.len() - prefix);
            self.quoted(prefix, body, end.len());
        } else if next == '"' {
            self.quoted(1, literal(&rest[1..], '"'), 1);
        } else if next == '\'' {
            match char_literal(rest) {
                Some(body) => self.quoted(1, body, 1),
                None => self.take(1, Kind::Code), // The quote of a lifetime.
            }
        } else if is_word(next) {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            // `b"..."` and `c"..."`: the prefix is a word of its own, which no rule looks for.
            self.take(end, Kind::Code);
        } else {
            self.take(next.len_utf8(), Kind::Code);
        }
    }

    fn quoted(&mut self, open: usize, body: usize, close: usize) {
        self.take(open, Kind::Code);
        self.take(body, Kind::Literal);
        self.take(close.min(self.rest.len()), Kind::Code);
    }

    fn take(&mut self, bytes: usize, kind: Kind) {
        let (taken, rest) = self.rest.split_at(bytes);
        let blank: String = taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        let (code, comment) = match kind {
            Kind::Code => (taken, blank.as_str()),
            Kind::Comment => (blank.as_str(), taken),
            Kind::Literal => (blank.as_str(), blank.as_str()),
        };
        self.code.push_str(code);
        self.comments.push_str(comment);
        self.rest = rest;
    }
}

/// Bytes of the comment that `text` opens with; comments nest.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Bytes up to and with the opening quote, and the number of hashes, if `text` opens with a raw string.
fn raw_string(text: &str) -> Option<(usize, usize)> {
    let after = ["r", "br", "cr"].into_iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = after.bytes().take_while(|&byte| byte == b'#').count();
    let quote = after[hashes..].strip_prefix('"')?;
    Some((text.len() - quote.len(), hashes))
}

/// Bytes before the closing quote, which a backslash escapes.
fn literal(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at,
            _ => {}
        }
    }
    text.len()
}

/// Bytes between the quotes, if `text` opens with a character and not with a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let body = &text[1..];
    let first = body.chars().next()?;
    let end = if first == '\\' { literal(body, '\'') } else { first.len_utf8() };
    body[end..].starts_with('\'').then_some(end)
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where `word` stands in `text` with no letter, digit or underscore beside it, in bytes. The ends of `word` that are no
/// such characters match anything.
pub(crate) fn find_words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    text.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        let joins_before = word.starts_with(is_word) && before.is_some_and(is_word);
        let joins_after = word.ends_with(is_word) && after.is_some_and(is_word);
        !joins_before && !joins_after
    })
}

/// The number of the line that holds byte `at`, from 1.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    1 + text[..at].bytes().filter(|&byte| byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_leave_the_code() {
        let text = "let a = \"x // y\"; // why \"z\"\n/* one /* two */ three */ let b = 'c';\n";
        let source = Source::new(text);
        assert_eq!(source.code, "let a = \"      \";           \n                          let b = ' ';\n");
        assert_eq!(
            source.comments.lines().map(str::trim).collect::<Vec<_>>(),
            ["// why \"z\"", "/* one /* two */ three */"]
        );
    }

    #[test]
    fn escapes_raw_strings_and_lifetimes() {
        let code = |text: &str| Source::new(text).code.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code(r#"f("a\"b", '\'', '"', x)"#), r#"f(" ", ' ', ' ', x)"#);
        assert_eq!(code(r###"f(r#"a"b\"#, br"\", x)"###), r###"f(r#" "#, br" ", x)"###);
        assert_eq!(code("fn f<'a>(x: &'a str) {} // 'b"), "fn f<'a>(x: &'a str) {}");
        assert_eq!(code("'outer: loop { break 'outer }"), "'outer: loop { break 'outer }");
    }

    #[test]
    fn lines_stay_and_broken_text_ends() {
        for text in ["\"a\nb", "/* a\nb", "r#\"a\nb", "'", "'\\", "é'é'\n", "b'\\''\n\"\n\""] {
            let source = Source::new(text);
            let lines = text.matches('\n').count();
            assert_eq!(source.code.matches('\n').count(), lines, "{text:?}");
            assert_eq!(source.comments.matches('\n').count(), lines, "{text:?}");
        }
    }

    #[test]
    fn words_have_ends() {
        let found: Vec<usize> = find_words("unsafe_code unsafe {x.unsafe}", "unsafe").collect();
        assert_eq!(found, [12, 22]);
        assert_eq!(find_words("eprintln!()", "println!").count(), 0);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
