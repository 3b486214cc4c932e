//! Dependencies between the project's crates point down only, and one crate names Burn.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Finding;

/// What each crate is built on. It may name these, and what these are built on. Another edge is a change of the architecture.
const BELOW: [(&str, &[&str]); 13] = [
    ("mila-kernels", &[]),
    ("mila-data", &[]),
    ("mila-ops", &[]),
    ("mila-weights", &["mila-ops"]),
    ("mila-models", &["mila-ops"]),
    ("mila-graph", &["mila-ops", "mila-models"]),
    ("mila-parity", &["mila-ops", "mila-models"]),
    ("mila-cpu", &["mila-ops", "mila-kernels"]),
    ("mila-burn", &["mila-ops", "mila-kernels", "mila-models"]),
    ("mila-inspect", &["mila-data", "mila-models"]),
    ("mila-train", &["mila-burn", "mila-data", "mila-weights", "mila-models"]),
    ("mila", &["mila-train", "mila-cpu", "mila-graph", "mila-inspect"]),
    ("xtask", &[]),
];
/// Goldens and their harness, which only tests may use.
const TESTS_ONLY: &str = "mila-parity";
const BURN: &str = "mila-burn";

pub(crate) fn edges(root: &Path) -> Result<Vec<Finding>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version=1", "--no-deps", "--offline"];
    let output =
        Command::new(cargo).current_dir(root).args(arguments).output().context("cannot start cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata = serde_json::from_slice(&output.stdout).context("cargo metadata wrote no JSON")?;
    of_workspace(&metadata)
}

fn of_workspace(metadata: &Value) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in list(metadata, "packages")? {
        let name = string(package, "name")?;
        // Every manifest is one folder below a folder of the root, or `xtask`.
        let path = if name == "xtask" { "xtask/Cargo.toml".into() } else { format!("crates/{name}/Cargo.toml") };
        let mut report = |what: &str| findings.push(Finding::new(&path, 1, "dependency", what));
        let Some(below) = below(name) else {
            report("this crate is not in the table of xtask/src/tidy/edges.rs");
            continue;
        };
        for dependency in list(package, "dependencies")? {
            let on = string(dependency, "name")?;
            let for_tests = dependency["kind"] == "dev";
            let is_ours = BELOW.iter().any(|(name, _)| *name == on);
            if is_ours && !for_tests && on == TESTS_ONLY {
                report(&format!("{on} is for tests: it can be a dev-dependency only"));
            } else if is_ours && !for_tests && !below.contains(&on) {
                report(&format!("{name} -> {on} does not point down"));
            } else if !is_ours && (on == "burn" || on.starts_with("burn-")) && (name != BURN || for_tests) {
                report(&format!("{on}: only the [dependencies] of {BURN} name Burn"));
            }
        }
    }
    Ok(findings)
}

/// All crates that `name` may depend on.
fn below(name: &str) -> Option<Vec<&'static str>> {
    let (_, direct) = BELOW.iter().find(|(crate_name, _)| *crate_name == name)?;
    let mut all = direct.to_vec();
    for on in *direct {
        all.extend(below(on).unwrap_or_default());
    }
    Some(all)
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("cargo metadata has no list `{key}`"))
}

fn string<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("cargo metadata has no string `{key}`"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The messages for one crate with dependencies of a name and a kind.
    fn messages(name: &str, dependencies: &[(&str, Option<&str>)]) -> Vec<String> {
        let dependencies: Vec<Value> =
            dependencies.iter().map(|(name, kind)| json!({ "name": name, "kind": kind })).collect();
        let metadata = json!({ "packages": [{ "name": name, "dependencies": dependencies }] });
        of_workspace(&metadata).unwrap().into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn down_passes_and_up_does_not() {
        assert_eq!(messages("mila-train", &[("mila-weights", None), ("mila-ops", None), ("serde", None)]), [""; 0]);
        assert_eq!(messages("mila-models", &[("mila-graph", None)]), ["mila-models -> mila-graph does not point down"]);
        assert_eq!(messages("mila-cpu", &[("mila-models", Some("dev"))]), [""; 0]);
        assert_eq!(messages("mila-cpu", &[("mila-models", None)]), ["mila-cpu -> mila-models does not point down"]);
        assert_eq!(messages("mila-cpu", &[("mila-burn", Some("build"))]).len(), 1);
    }

    #[test]
    fn test_support_and_burn_stay_in_their_places() {
        assert_eq!(messages("mila-burn", &[("burn", None), ("burn-std", None), ("mila-parity", Some("dev"))]), [""; 0]);
        assert_eq!(messages("mila", &[("mila-parity", None)]).len(), 1);
        assert_eq!(messages("mila-train", &[("burn-std", None)]).len(), 1);
        assert_eq!(messages("mila-train", &[("burn", Some("dev"))]).len(), 1);
    }

    #[test]
    fn a_crate_outside_the_table_is_reported() {
        assert_eq!(messages("mila-new", &[]).len(), 1);
    }

    #[test]
    fn the_table_has_no_loop() {
        for (name, _) in BELOW {
            assert!(!below(name).unwrap().contains(&name), "{name}");
        }
    }
}
