//! No file, clock, environment or print access in the crates that only compute: it comes in from the edge.

use std::collections::HashSet;

use super::source::{find_words, is_word, line_of};
use super::{File, Finding};

const PURE: [&str; 6] = ["mila-kernels", "mila-ops", "mila-models", "mila-cpu", "mila-graph", "mila-inspect"];
const MODULES: [&str; 3] = ["fs", "env", "time"];
const MACROS: [&str; 4] = ["print!", "println!", "eprint!", "eprintln!"];

pub(crate) fn purity(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in PURE {
        let folder = format!("crates/{name}/src/");
        let sources =
            || files.iter().filter_map(|file| Some((file.path.strip_prefix(&folder)?, file.source.as_ref()?)));
        let tests: HashSet<&str> = sources().flat_map(|(_, source)| test_files(&source.code)).collect();
        for (path, source) in sources() {
            // `X_tests.rs` is what `#[path]` calls the tests of `X.rs`.
            let mut parts = path.split('/').map(|part| part.trim_end_matches(".rs"));
            if parts.any(|part| tests.contains(part) || part.ends_with("_tests")) {
                continue;
            }
            let code = without_tests(&source.code);
            findings.extend(accesses(&code).into_iter().map(|(at, what)| {
                let what = format!("`{what}` in {name}, which only computes: take the value as an argument");
                Finding::new(&format!("{folder}{path}"), line_of(&code, at), "pure-crate", &what)
            }));
        }
    }
    findings
}

/// Where `std` modules and printing macros that reach outside are named, and which.
fn accesses(code: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> =
        MACROS.iter().flat_map(|&name| find_words(code, name).map(move |at| (at, name.to_string()))).collect();
    for at in find_words(code, "std::") {
        let inside = &code[at + "std::".len()..];
        let names = match inside.strip_prefix('{') {
            Some(list) => first_segments(list),
            None => vec![first_word(inside)],
        };
        let named = MODULES.iter().filter(|module| names.contains(module));
        found.extend(named.map(|module| (at, format!("std::{module}"))));
    }
    found.sort();
    found
}

/// The first segment of each path of a `use` list whose opening brace has been read.
fn first_segments(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut names) = (0_usize, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_word(list[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

fn first_word(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// Names of the modules that are files of their own and are compiled for tests only.
fn test_files(code: &str) -> Vec<&str> {
    test_items(code).filter(|item| item.declaration.ends_with(';')).map(|item| item.name).collect()
}

/// The code with the modules that stand in it for tests only blank.
fn without_tests(code: &str) -> String {
    let mut outside = code.to_string();
    for item in test_items(code).filter(|item| item.declaration.ends_with('{')) {
        let end = item.start + item.declaration.len();
        let end = end + closing_brace(&code[end..]);
        let blank: String = code[item.start..end].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
        outside.replace_range(item.start..end, &blank);
    }
    outside
}

/// A module under `#[cfg(test)]`.
struct TestItem<'a> {
    start: usize,
    /// From the attribute to the `;` or `{`.
    declaration: &'a str,
    name: &'a str,
}

fn test_items(code: &str) -> impl Iterator<Item = TestItem<'_>> {
    find_words(code, "#[cfg(test)]").filter_map(|start| {
        let item = &code[start..];
        let declaration = &item[..=item.find([';', '{'])?];
        let module = find_words(declaration, "mod").last()?;
        let name = first_word(declaration[module + "mod".len()..].trim_start());
        Some(TestItem { start, declaration, name })
    })
}

/// Bytes up to and with the brace that closes one that has been read.
fn closing_brace(code: &str) -> usize {
    let mut depth = 1_usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(files: &[(&str, &str)]) -> Vec<(String, usize)> {
        let files: Vec<File> = files.iter().map(|(path, text)| File::of(path, text)).collect();
        purity(&files).into_iter().map(|finding| (finding.path, finding.line)).collect()
    }

    fn in_ops(text: &str) -> Vec<usize> {
        lines(&[("crates/mila-ops/src/a.rs", text)]).into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn every_spelling_is_seen() {
        assert_eq!(in_ops("use std::fs::File;\nfn f() { std::env::var(\"A\"); }\n"), [1, 2]);
        assert_eq!(in_ops("use std::{\n    fmt::{self, Display},\n    time::Instant,\n};\n"), [1]);
        assert_eq!(in_ops("fn f() {\n    println!(\"a\");\n    eprint!(\"b\");\n}\n"), [2, 3]);
        assert_eq!(in_ops("use std::{fmt, env};\n"), [1]);
    }

    #[test]
    fn other_names_comments_and_strings_pass() {
        let text = "use std::fmt::{self, write};\n/// println!(\"a\") std::fs\nconst A: &str = \"std::fs\";\n";
        assert_eq!(in_ops(text), [0; 0]);
        assert_eq!(in_ops("use std::{fmt::{fs, env}, ops};\nuse std::environment;\n"), [0; 0]);
        assert_eq!(lines(&[("crates/mila-data/src/a.rs", "use std::fs;\n")]), []);
        assert_eq!(lines(&[("crates/mila-ops/tests/a.rs", "use std::fs;\n")]), []);
    }

    #[test]
    fn test_modules_are_left_out() {
        let text = "#[cfg(test)]\nmod tests {\n    fn f() { println!(); }\n}\nfn g() { println!(); }\n";
        assert_eq!(in_ops(text), [5]);
        let declared = ("crates/mila-ops/src/lib.rs", "#[cfg(test)]\nmod testing;\nmod a;\n");
        let print = "fn f() { println!(); }\n";
        let testing = ("crates/mila-ops/src/testing.rs", print);
        let beside = ("crates/mila-ops/src/conv_tests.rs", print);
        let library = ("crates/mila-ops/src/a.rs", print);
        assert_eq!(lines(&[declared, testing, beside, library]), [(library.0.to_string(), 1)]);
    }
}
