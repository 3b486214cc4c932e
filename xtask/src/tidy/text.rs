//! Sizes and names of files, marks of unfinished work, tests that do not run, paths of one machine.

use super::source::{find_words, line_of};
use super::{File, Finding};

const MAX_LINES: usize = 500;
const MAX_BYTES: u64 = 1 << 20;
/// Files that may be larger, each with a reason. None is.
const LARGE: [&str; 0] = [];
const ARCHITECTURE: (&str, usize) = ("ARCHITECTURE.md", 150);
const VAGUE_NAMES: [&str; 4] = ["utils", "helpers", "common", "misc"];
// In two halves, so that a search for these words in the repository finds nothing.
const UNFINISHED: [&str; 5] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("HA", "CK"),
];
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

pub(crate) fn text(files: &[File]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = files.iter().flat_map(of_file).collect();
    let (name, limit) = ARCHITECTURE;
    match files.iter().find(|file| file.path == name) {
        None => findings.push(Finding::new(name, 1, "architecture", "the code map is missing")),
        Some(file) if file.lines() > limit => {
            let what = format!("{} lines, at most {limit}", file.lines());
            findings.push(Finding::new(name, limit + 1, "architecture", &what));
        }
        Some(_) => {}
    }
    findings
}

fn of_file(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |line, rule, what: String| findings.push(Finding::new(&file.path, line, rule, &what));
    if file.bytes > MAX_BYTES && !LARGE.contains(&file.path.as_str()) {
        report(1, "large-file", format!("{} bytes, at most {MAX_BYTES}", file.bytes));
    }
    for part in file.path.split('/') {
        let stem = part.split('.').next().unwrap_or(part);
        if VAGUE_NAMES.contains(&stem) {
            report(1, "vague-name", format!("`{stem}` does not say what is inside"));
        }
    }
    let Some(text) = &file.text else { return findings };
    for path in MACHINE_PATHS {
        for (at, _) in text.match_indices(path).filter(|&(at, _)| starts_path(&text[..at])) {
            report(line_of(text, at), "machine-path", format!("`{path}` is a path of one machine"));
        }
    }
    if !file.path.ends_with(".rs") && !file.path.ends_with(".py") {
        return findings;
    }
    if file.lines() > MAX_LINES {
        report(MAX_LINES + 1, "long-file", format!("{} lines, at most {MAX_LINES}", file.lines()));
    }
    for mark in UNFINISHED {
        for at in find_words(text, mark) {
            report(line_of(text, at), "unfinished", format!("`{mark}` marks unfinished work"));
        }
    }
    if let Some(source) = &file.source {
        for at in find_words(&source.code, "ignore").filter(|&at| is_bare_ignore(&source.code, at)) {
            report(line_of(&source.code, at), "ignored-test", "`#[ignore]` without a reason string".into());
        }
    }
    findings
}

/// Whether a path that follows `before` is absolute, not the end of a longer one or of an address.
fn starts_path(before: &str) -> bool {
    !before.ends_with(|c: char| c.is_alphanumeric() || "_-./".contains(c))
}

/// Whether the word at `at` is the attribute `ignore`, alone or in `cfg_attr`, and no ` = "reason"` follows.
fn is_bare_ignore(code: &str, at: usize) -> bool {
    let opening = code[..at].rfind("#[").map(|start| &code[start..at]);
    let in_attribute = opening.is_some_and(|text| !text.contains(']') && !text.contains('"'));
    let after = code[at + "ignore".len()..].trim_start();
    in_attribute && after.starts_with([']', ')', ','])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        of_file(&File::of(path, text)).into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    #[test]
    fn sizes() {
        assert_eq!(rules("a.rs", &"a();\n".repeat(500)), []);
        assert_eq!(rules("a.py", &"a()\n".repeat(501)), [(501, "long-file")]);
        assert_eq!(rules("a.md", &"a\n".repeat(501)), []);
        assert_eq!(rules("a.csv", &"a".repeat((1 << 20) + 1)), [(1, "large-file")]);
    }

    #[test]
    fn names() {
        assert_eq!(rules("crates/a/src/utils.rs", ""), [(1, "vague-name")]);
        assert_eq!(rules("crates/a/src/common/mod.rs", ""), [(1, "vague-name")]);
        assert_eq!(rules("crates/a/src/common_terms.rs", ""), []);
    }

    #[test]
    fn unfinished_marks_are_words_of_source_files() {
        for mark in UNFINISHED {
            let text = format!("a();\n{mark}\n");
            assert_eq!(rules("a.rs", &text), [(2, "unfinished")], "{mark}");
            assert_eq!(rules("a.py", &text), [(2, "unfinished")], "{mark}");
            assert_eq!(rules("a.md", &text), [], "{mark}");
            assert_eq!(rules("a.rs", &format!("x{mark}\n")), [], "{mark}");
        }
    }

    #[test]
    fn ignored_tests_say_why() {
        assert_eq!(rules("a.rs", "#[test]\n#[ignore]\nfn f() {}\n"), [(2, "ignored-test")]);
        assert_eq!(rules("a.rs", "#[cfg_attr(windows, ignore)]\n"), [(1, "ignored-test")]);
        assert_eq!(rules("a.rs", "#[ignore = \"needs an hour\"]\n"), []);
        assert_eq!(rules("a.rs", "// #[ignore]\n#[test] fn f() { g(ignore) }\n"), []);
    }

    #[test]
    fn machine_paths() {
        for path in MACHINE_PATHS {
            assert_eq!(rules("a.md", &format!("see `{path}x`\n")), [(1, "machine-path")]);
            assert_eq!(rules("a.md", &format!("https://a.b{path}x, ..{path}, a{path}\n")), []);
        }
    }

    #[test]
    fn the_code_map_exists_and_is_short() {
        let rule = |files: &[File]| text(files).first().map(|finding| finding.rule);
        assert_eq!(rule(&[]), Some("architecture"));
        assert_eq!(rule(&[File::of("ARCHITECTURE.md", &"a\n".repeat(150))]), None);
        assert_eq!(rule(&[File::of("ARCHITECTURE.md", &"a\n".repeat(151))]), Some("architecture"));
    }
}
