//! Everyone who is timed in one case: loaded, checked, and then taking turns.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::contestant::{Mila, Precision, Served, number, output};
use super::table::{Measured, OneImage, Row, Scaling, median};
use super::{Case, Setup, name, peak_mb, values};
use crate::python::run;

/// max|difference| / std of the logits from those of `mila run` in f32: the rows of `docs/numerics.md`.
const LIMIT_F32: f64 = 1e-4;
const LIMIT_BF16: f64 = 3e-2;
/// Peers in bf16 round what passes between layers too; this tells whether they compute the same model.
const LIMIT_PEERS_BF16: f64 = 1e-1;
/// Passes that decide which of two exports a runtime is faster on.
const PROBE: usize = 3;
/// Threads of a runtime may go on waiting busily after a pass; this is longer than each of them does.
const PAUSE: Duration = Duration::from_millis(100);

/// A peer: what it is called in tables and by its program, and what it runs.
struct Peer {
    who: &'static str,
    program: &'static str,
    precision: Precision,
    runs: Runs,
}

#[derive(Clone, Copy)]
enum Runs {
    /// The model in PyTorch, in `tools/peers.py`.
    Torch,
    /// The faster of our export and PyTorch's, in `tools/peers.py`.
    Exports,
    /// Our export, in `peers/`.
    OurExport,
    /// The model on Burn's own operators, in the example `burn_model` of mila.
    Burn,
}

const fn peer(who: &'static str, program: &'static str, precision: Precision, runs: Runs) -> Peer {
    Peer { who, program, precision, runs }
}

const PEERS: [Peer; 8] = [
    peer("PyTorch eager", "torch", Precision::F32, Runs::Torch),
    peer("PyTorch compiled, frozen", "torch-compile", Precision::F32, Runs::Torch),
    peer("ONNX Runtime", "onnxruntime", Precision::F32, Runs::Exports),
    peer("OpenVINO", "openvino", Precision::F32, Runs::Exports),
    peer("rten", "rten", Precision::F32, Runs::OurExport),
    peer("tract", "tract", Precision::F32, Runs::OurExport),
    peer("Burn", "burn", Precision::F32, Runs::Burn),
    peer("OpenVINO, bf16", "openvino-bf16", Precision::Bf16, Runs::Exports),
];

/// One program, ready to be timed, and what was found so far.
struct Entry {
    row: Row,
    runner: Runner,
    threads: usize,
    /// What `mila bench` told, of each round.
    benches: Vec<Value>,
}

enum Runner {
    Mila(Mila),
    Served(Served),
}

/// The entries of a case.
pub(crate) struct Field<'a> {
    case: &'a Case,
    entries: Vec<Entry>,
}

impl<'a> Field<'a> {
    /// Loads everyone.
    ///
    /// # Errors
    /// If one cannot run the model, or gives something else than `mila run`.
    pub(crate) fn enter(setup: &Setup, case: &'a Case) -> Result<Self> {
        eprintln!("{}, batch {}: loading and comparing", name(case.model, case.side), case.batch);
        setup.write_weights(case)?;
        let at = |file: &str| setup.folder.join(file);
        run(&mut prepare(setup, case, &at("x.npy"), &at("torch.onnx")))?;
        let mut export = Command::new(&setup.programs.mila);
        export.args(["export", "--quiet"]).args(setup.model(case, setup.threads)).args(Setup::extents(case));
        run(export.arg(at("mila.onnx")))?;
        let wanted = mila_values(setup, case, setup.threads, &[])?;

        let mut entries = Vec::new();
        for (who, precision, threads, arguments) in ours(setup)? {
            let found = mila_values(setup, case, threads, &arguments)?;
            let limit = if precision == Precision::F32 { LIMIT_F32 } else { LIMIT_BF16 };
            check(who, limit, &found, &wanted)?;
            let runner = Runner::Mila(Mila { arguments });
            entries.push(Entry { row: row(who, "", precision, true), runner, threads, benches: Vec::new() });
        }
        for peer in &PEERS {
            entries.extend(load(setup, case, peer, &wanted)?);
        }
        Ok(Self { case, entries })
    }

    /// Rounds of everyone in turn.
    pub(crate) fn race(mut self, setup: &Setup) -> Result<Measured> {
        for round in 1..=setup.rounds {
            for entry in &mut self.entries {
                sleep(PAUSE);
                let time = match &mut entry.runner {
                    Runner::Served(served) => served.time(self.case.passes)?,
                    Runner::Mila(mila) => {
                        let of = setup.of(self.case, entry.threads);
                        let bench = mila.round(&setup.programs.mila, &of, self.case.passes)?;
                        let time = number(&bench, "p50_ms")?;
                        entry.benches.push(bench);
                        time
                    }
                };
                entry.row.rounds.push(time);
                eprintln!("round {round} of {}: {} {time:.1} ms", setup.rounds, entry.row.who);
            }
        }
        self.measured(setup)
    }

    fn measured(self, setup: &Setup) -> Result<Measured> {
        let of = |entry: &Entry, key: &str| -> Result<f64> {
            let found: Vec<f64> = entry.benches.iter().map(|bench| number(bench, key)).collect::<Result<_>>()?;
            Ok(median(&found))
        };
        let find = |who: &str| self.entries.iter().find(|entry| entry.row.who == who);
        let mila = find(MILA).context("mila is not there")?;
        let bench = mila.benches.first().context("no round")?;
        let gflop = number(bench, "gflops")? * number(bench, "p50_ms")? / 1e3;
        let mut roofs = vec![(Precision::F32, of(mila, "roof_gflops")?)];
        if let Some(bf16) = find(MILA_BF16) {
            roofs.push((Precision::Bf16, of(bf16, "roof_gflops")?));
        }
        let scaling = match find(MILA_ONE_THREAD) {
            None => None,
            Some(one) => Some(Scaling {
                threads: setup.threads,
                gain: median(&one.row.rounds) / median(&mila.row.rounds),
                roof_gain: of(mila, "roof_gflops")? / of(one, "roof_gflops")?,
            }),
        };
        let &Case { model, side, batch, .. } = self.case;
        let one_image = (batch == 1).then(|| OneImage {
            model: model.into(),
            side,
            time: median(&mila.row.rounds),
            peak_mb: peak_mb(&mila.benches),
        });
        // Beside peers that have all threads it would mislead.
        let rows = self.entries.into_iter().map(|entry| entry.row).filter(|row| row.who != MILA_ONE_THREAD).collect();
        Ok(Measured { name: name(model, side), batch, gflop, roofs, rows, scaling, one_image })
    }
}

const MILA: &str = "mila";
const MILA_AVX2: &str = "mila, AVX2";
const MILA_ONE_THREAD: &str = "mila, one thread";
const MILA_BF16: &str = "mila, bf16";

type Ours = (&'static str, Precision, usize, Vec<String>);

/// Our own entries: name, precision, threads, arguments. What this processor or build lacks is left out, aloud.
fn ours(setup: &Setup) -> Result<Vec<Ours>> {
    let mila = &setup.programs.mila;
    let words = |words: &[&str]| words.iter().map(|&word| word.to_string()).collect::<Vec<_>>();
    let probe = |arguments: &[&str]| -> Result<Value> {
        let of = words(&["mila-nano"]);
        Mila { arguments: words(arguments) }.bench(mila, &of, 0, 1)
    };
    let mut entries = vec![(MILA, Precision::F32, setup.threads, Vec::new())];
    if probe(&[])?["isa"] == "avx512" {
        entries.push((MILA_AVX2, Precision::F32, setup.threads, words(&["--isa", "avx2"])));
    } else {
        eprintln!("not timed: {MILA_AVX2}: `mila` does not choose AVX-512 here");
    }
    if setup.threads > 1 {
        entries.push((MILA_ONE_THREAD, Precision::F32, 1, Vec::new()));
    }
    let takes_precision =
        |verb: &str| -> Result<bool> { Ok(output(Command::new(mila).args([verb, "--help"]))?.contains("--precision")) };
    if !takes_precision("bench")? || !takes_precision("run")? {
        eprintln!("not timed: {MILA_BF16}: `mila bench` and `mila run` take no --precision");
    } else if probe(&["--precision", "bf16"])?["precision"] != "bf16" {
        eprintln!("not timed: {MILA_BF16}: this processor has none");
    } else {
        entries.push((MILA_BF16, Precision::Bf16, setup.threads, words(&["--precision", "bf16"])));
    }
    Ok(entries)
}

/// Loads a peer on the export that it is faster on; nothing if this machine cannot run it, which is told.
fn load(setup: &Setup, case: &Case, peer: &Peer, wanted: &[f32]) -> Result<Option<Entry>> {
    let output = setup.folder.join("y.npy");
    let mut best: Option<(f64, Entry)> = None;
    for (label, export) in exports(setup, peer.runs) {
        let mut served = match Served::start(peer.who, &mut start(setup, case, peer, &export, &output))? {
            Ok(served) => served,
            Err(why) => {
                eprintln!("not timed: {}: {why}", peer.who);
                continue;
            }
        };
        let limit = if peer.precision == Precision::F32 { LIMIT_F32 } else { LIMIT_PEERS_BF16 };
        check(&format!("{}{label}", peer.who), limit, &values::read(&output)?, wanted)?;
        sleep(PAUSE);
        let time = served.time(PROBE)?;
        if best.as_ref().is_none_or(|(least, _)| time < *least) {
            let row = row(peer.who, &format!("{}{label}", served.version), peer.precision, false);
            let runner = Runner::Served(served);
            best = Some((time, Entry { row, runner, threads: setup.threads, benches: Vec::new() }));
        }
    }
    Ok(best.map(|(_, entry)| entry))
}

fn row(who: &'static str, detail: &str, precision: Precision, is_ours: bool) -> Row {
    Row { who, detail: detail.into(), precision, is_ours, rounds: Vec::new() }
}

fn check(who: &str, limit: f64, found: &[f32], wanted: &[f32]) -> Result<()> {
    let distance = values::distance(found, wanted);
    eprintln!("max|difference| / std of {who}: {distance:.1e}");
    ensure!(
        distance < limit,
        "{who} is {distance:.2e} from `mila run`, expected less than {limit:.0e}: nothing is timed"
    );
    Ok(())
}

/// What `mila run` gives for the input of the case.
fn mila_values(setup: &Setup, case: &Case, threads: usize, arguments: &[String]) -> Result<Vec<f32>> {
    let (input, output) = (setup.folder.join("x.npy"), setup.folder.join("mila.npy"));
    let mut mila = Command::new(&setup.programs.mila);
    mila.args(["run", "--quiet"]).args(setup.model(case, threads)).args(arguments);
    run(mila.arg("--input").arg(input).arg("--output").arg(&output))?;
    values::read(&output)
}

/// Writes the input and PyTorch's export.
fn prepare(setup: &Setup, case: &Case, input: &Path, export: &Path) -> Command {
    let mut command = Command::new(&setup.python);
    let [batch, side] = [case.batch, case.side].map(|extent| extent.to_string());
    command.arg(setup.root.join("tools/peers.py")).args(["prepare", "--model", case.model]);
    command.args(["--extents", &batch, &side, &side]).arg("--weights").arg(setup.weights(case));
    command.arg("--input").arg(input).arg("--onnx").arg(export);
    command
}

/// The files that a peer can run, and what is said of each.
fn exports(setup: &Setup, runs: Runs) -> Vec<(&'static str, PathBuf)> {
    let [ours, torch] = ["mila.onnx", "torch.onnx"].map(|file| setup.folder.join(file));
    match runs {
        Runs::Torch | Runs::Burn => vec![("", PathBuf::new())],
        Runs::Exports => vec![(", our export", ours), (", PyTorch's export", torch)],
        Runs::OurExport => vec![(", our export", ours)],
    }
}

/// The process that serves a peer.
fn start(setup: &Setup, case: &Case, peer: &Peer, export: &Path, output: &Path) -> Command {
    let (input, threads) = (setup.folder.join("x.npy"), setup.threads.to_string());
    if let (Runs::OurExport, Some(peers)) = (peer.runs, &setup.programs.peers) {
        let mut command = Command::new(peers);
        command.arg(peer.program).arg(export).arg(input).arg(output).args(["--threads", &threads, "--serve"]);
        return command;
    }
    if let (Runs::Burn, Some(burn)) = (peer.runs, &setup.burn) {
        let mut command = Command::new(burn);
        command.arg(case.model).arg(setup.weights(case)).arg(input).arg(output).arg(threads);
        return command;
    }
    let mut command = Command::new(&setup.python);
    command.arg(setup.root.join("tools/peers.py")).arg(peer.program).args(["--threads", &threads]);
    command.arg("--input").arg(input).arg("--output").arg(output);
    match peer.runs {
        Runs::Torch => command.args(["--model", case.model]).arg("--weights").arg(setup.weights(case)),
        _ => command.arg("--onnx").arg(export),
    };
    command.env("OMP_NUM_THREADS", &threads).env("TORCHINDUCTOR_CACHE_DIR", setup.folder.join("inductor"));
    command
}
