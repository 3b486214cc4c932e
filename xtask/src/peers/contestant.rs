//! Who is timed: programs that load a model, write what it gives, and then time passes on request.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::table::median;

/// Passes before the timed ones, in each round.
const WARM_UP: usize = 2;

/// What the weights and maps are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    F32,
    Bf16,
}

/// A process that has loaded a model and waits for requests (`tools/peers.py`, `peers/`).
pub(crate) struct Served {
    child: Child,
    // Gone once the process is to end.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    who: &'static str,
    /// Of the runtime.
    pub(crate) version: String,
}

impl Served {
    /// Starts one, and waits until it has written its values. `Err` in the result is why it cannot run here.
    pub(crate) fn start(who: &'static str, command: &mut Command) -> Result<Result<Self, String>> {
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {shown}"))?;
        let answers = BufReader::new(child.stdout.take().context("no stdout")?);
        let requests = child.stdin.take();
        let mut served = Self { child, requests, answers, who, version: String::new() };
        let ready = served.answer().with_context(|| format!("{who} does not run the model: {shown}"))?;
        if let Some(why) = ready["skipped"].as_str() {
            return Ok(Err(why.into()));
        }
        served.version = ready["version"].as_str().context("expected a version")?.into();
        Ok(Ok(served))
    }

    /// The median milliseconds of some passes.
    pub(crate) fn time(&mut self, passes: usize) -> Result<f64> {
        let requests = self.requests.as_mut().context("the process was ended")?;
        writeln!(requests, "{WARM_UP} {passes}").with_context(|| format!("{} has ended", self.who))?;
        requests.flush()?;
        let answer = self.answer().with_context(|| self.who)?;
        let times: Vec<f64> = serde_json::from_value(answer).context("expected milliseconds")?;
        ensure!(times.len() == passes, "{}: expected {passes} times, found {}", self.who, times.len());
        Ok(median(&times))
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("it ended with {}", self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| format!("expected JSON, found {line}"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The end of its stdin ends it; what it was doing is of no interest any more.
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `mila bench` with these arguments beyond the model's, one process a round.
#[derive(Clone, Debug)]
pub(crate) struct Mila {
    pub(crate) arguments: Vec<String>,
}

impl Mila {
    /// What it measured, of at least one pass.
    pub(crate) fn bench(&self, program: &Path, of: &[String], warm_up: usize, passes: usize) -> Result<Value> {
        let mut command = Command::new(program);
        command.args(["bench", "--json", "--quiet"]).args(of).args(&self.arguments);
        command.args(["--warmup", &warm_up.to_string(), "--iterations", &passes.to_string()]);
        serde_json::from_str(&output(&mut command)?).with_context(|| format!("expected JSON of {command:?}"))
    }

    /// [`bench`](Self::bench) in a round of passes.
    pub(crate) fn round(&self, program: &Path, of: &[String], passes: usize) -> Result<Value> {
        self.bench(program, of, WARM_UP, passes)
    }
}

/// The stdout of a program that succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} wrote no text"))
}

/// A number of the JSON of `mila bench`.
pub(crate) fn number(value: &Value, key: &str) -> Result<f64> {
    value[key].as_f64().with_context(|| format!("mila bench told no {key}"))
}
