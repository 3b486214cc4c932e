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
#[cfg(not(feature = "train"))]
use clap::error::{ContextKind, ContextValue};

use crate::cli::{Cli, Command};
use crate::failure::Failure;
use crate::terminal::Terminal;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| explain(&error));
    let terminal = Terminal::new(cli.global.quiet);
    match run(cli, &terminal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.error(failure.message());
            ExitCode::from(failure.code())
        }
    }
}

/// Ends as clap does, but that a build without training knows its verbs.
fn explain(error: &clap::Error) -> ! {
    #[cfg(not(feature = "train"))]
    if let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand)
        && ["demo", "train", "study"].contains(&verb.as_str())
    {
        let how = "build it with training, as `cargo build --release` does";
        let failure = Failure::usage(format_args!("this build of mila leaves training out, so no `{verb}`; {how}"));
        Terminal::new(false).error(failure.message());
        std::process::exit(failure.code().into());
    }
    error.exit()
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
        Command::Eval(args) => commands::eval::run(args, &machine, terminal),
        Command::Bench(args) => commands::bench::run(args, &machine, terminal),
        Command::Inspect(args) => commands::inspect::run(args, &machine, terminal),
        Command::Convert(args) => commands::convert::run(args, terminal),
        Command::Export(args) => commands::export::run(args, terminal),
        Command::Doctor => commands::doctor::run(&machine, terminal),
        Command::Completions { shell } => commands::completions::run(shell, terminal),
    }
}
