//! `cargo xtask check`: everything that has to hold besides the tests.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::tidy;

/// The cargo commands, by the name that is printed: arguments, and what `RUSTDOCFLAGS` is.
const CARGO: [(&str, &str, Option<&str>); 5] = [
    ("fmt", "fmt --all --check", None),
    ("clippy", "clippy --workspace --all-targets --locked -- -D warnings", None),
    ("clippy without training", "clippy -p mila --no-default-features --all-targets --locked -- -D warnings", None),
    ("rustdoc", "doc --workspace --no-deps --locked", Some("-D warnings")),
    // Not `advisories`: their database is a repository that is not reachable from everywhere.
    ("deny", "deny --locked check --hide-inclusion-graph bans licenses sources", None),
];

/// Runs every step, whatever the ones before it gave, and fails if one did.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut failed = Vec::new();
    for (name, arguments, rustdoc_flags) in CARGO {
        step(name, &mut failed, || cargo(root, arguments, rustdoc_flags));
    }
    step("tidy", &mut failed, || {
        let findings = tidy::tidy(root)?;
        findings.iter().for_each(|finding| println!("{finding}"));
        ensure!(findings.is_empty(), "findings: {}", findings.len());
        Ok(())
    });
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("\nall steps passed");
    Ok(())
}

fn step(name: &'static str, failed: &mut Vec<&'static str>, run: impl FnOnce() -> Result<()>) {
    println!("\n== {name}");
    let start = Instant::now();
    let result = run();
    let seconds = start.elapsed().as_secs_f32();
    match result {
        Ok(()) => println!("== {name}: passed ({seconds:.1} s)"),
        Err(error) => {
            println!("== {name}: FAILED ({seconds:.1} s): {error:#}");
            failed.push(name);
        }
    }
}

fn cargo(root: &Path, arguments: &str, rustdoc_flags: Option<&str>) -> Result<()> {
    println!("$ cargo {arguments}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(arguments.split_whitespace());
    if let Some(flags) = rustdoc_flags {
        command.env("RUSTDOCFLAGS", flags);
    }
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "cargo ended with {status}");
    Ok(())
}
