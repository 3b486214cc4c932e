//! The `mila` command line.

mod cli;
mod commands;
mod csv;
mod failure;
#[cfg(feature = "train")]
mod interrupt;
mod profile;
mod roofs;
mod sizes;
mod terminal;
mod times;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::terminal::Terminal;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let terminal = Terminal::new(cli.global.quiet);
    match run(cli, &terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.error(failure.message());
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli, terminal: &Terminal) -> Result<(), Failure> {
    let machine = cli.global.machine()?;
    match cli.command {
        #[cfg(feature = "train")]
        Command::Demo(args) => commands::demo::run(args, &machine, terminal),
        Command::Models(args) => commands::models::run(&args, terminal),
        Command::Predict(args) => commands::predict::run(args, &machine, terminal),
        Command::Run(args) => commands::run::run(args, &machine, terminal),
        #[cfg(feature = "train")]
        Command::Train(args) => commands::train::run(args, &machine, terminal),
        #[cfg(feature = "train")]
        Command::Study(args) => commands::study::run(&args, &machine, terminal),
        #[cfg(not(feature = "train"))]
        Command::Untrained { .. } => Err(Failure::usage(
            "this build of mila leaves training out; build it with training, as `cargo build --release` does",
        )),
        Command::Eval(args) => commands::eval::run(args, &machine, terminal),
        Command::Bench(args) => commands::bench::run(args, &machine, terminal),
        Command::Inspect(args) => commands::inspect::run(args, &machine, terminal),
        Command::Convert(args) => commands::convert::run(args, terminal),
        Command::Export(args) => commands::export::run(args, terminal),
        Command::Doctor => commands::doctor::run(&machine, terminal),
        Command::Completions { shell } => commands::completions::run(shell, terminal),
    }
}
