//! `unsafe` stands only where the design allows it, and says why it is sound.

use super::source::{Source, find_words, line_of};
use super::{File, Finding};

const KERNELS: &str = "crates/mila-kernels/";
/// The memory map and the advice on its pages.
const WEIGHTS: &str = "crates/mila-weights/src/bytes.rs";

pub(crate) fn unsafety(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_weights = 0;
    for (file, source) in files.iter().filter_map(|file| Some((file, file.source.as_ref()?))) {
        for at in find_words(&source.code, "unsafe") {
            let line = line_of(&source.code, at);
            let mut report = |rule, what: &str| findings.push(Finding::new(&file.path, line, rule, what));
            if file.path == WEIGHTS {
                in_weights += 1;
                if in_weights > 2 {
                    report(
                        "unsafe-place",
                        "mila-weights has its two `unsafe` already: the memory map and the advice on it",
                    );
                }
            } else if !file.path.starts_with(KERNELS) {
                report("unsafe-place", "`unsafe` belongs into mila-kernels");
            }
            let after = source.code[at + "unsafe".len()..].trim_start();
            let claims = after.starts_with('{') || find_words(after, "impl").next() == Some(0);
            if claims && !is_justified(source, line) {
                report("unsafe-reason", "a `// SAFETY:` comment directly above says why this is sound");
            }
        }
    }
    findings
}

/// Whether the comment directly above the statement or item that `line` is part of says `SAFETY:`. Attributes may stand
/// between the two.
fn is_justified(source: &Source, line: usize) -> bool {
    let code: Vec<&str> = source.code.lines().collect();
    let comments: Vec<&str> = source.comments.lines().collect();
    for above in (0..line - 1).rev() {
        let (code, comment) = (code[above].trim(), comments[above].trim());
        if comment.contains("SAFETY:") {
            return true;
        }
        let is_comment = code.is_empty() && !comment.is_empty();
        let is_attribute = code.starts_with("#[");
        let continues = !code.is_empty() && !code.ends_with([';', '{', '}', ',']);
        if !(is_comment || is_attribute || continues) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<(usize, &'static str)> {
        let files = [File::of(path, text)];
        unsafety(&files).into_iter().map(|finding| (finding.line, finding.rule)).collect()
    }

    const KERNEL: &str = "crates/mila-kernels/src/isa.rs";

    #[test]
    fn reasons_stand_above() {
        assert_eq!(rules(KERNEL, "// SAFETY: checked.\n#[cfg(x)]\nlet a =\n    unsafe { f() };\n"), []);
        assert_eq!(rules(KERNEL, "// SAFETY: no state,\n// so it is sound.\nunsafe impl Send for A {}\n"), []);
        assert_eq!(rules(KERNEL, "// SAFETY: of f.\nunsafe { f() };\nunsafe { g() };\n"), [(3, "unsafe-reason")]);
        assert_eq!(rules(KERNEL, "// SAFETY: far.\n\nunsafe { f() };\n"), [(3, "unsafe-reason")]);
        assert_eq!(rules(KERNEL, "unsafe impl Send for A {}\n"), [(1, "unsafe-reason")]);
        assert_eq!(rules(KERNEL, "unsafe fn f() {}\n"), []);
    }

    #[test]
    fn places() {
        let good = "// SAFETY: fine.\nunsafe { f() };\n";
        assert_eq!(rules(KERNEL, good), []);
        assert_eq!(rules("crates/mila-cpu/src/lib.rs", good), [(2, "unsafe-place")]);
        assert_eq!(rules("crates/mila-weights/src/bytes.rs", good), []);
        assert_eq!(rules("crates/mila-weights/src/bytes.rs", &good.repeat(3)), [(6, "unsafe-place")]);
        assert_eq!(rules("crates/mila-weights/src/lib.rs", good), [(2, "unsafe-place")]);
        assert_eq!(rules("crates/mila-cpu/src/lib.rs", "#![forbid(unsafe_code)] // unsafe\nlet a = \"unsafe\";\n"), []);
    }
}
