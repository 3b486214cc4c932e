//! What is shown: results on stdout, everything else on stderr.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;

/// The two streams of the program.
pub(crate) struct Terminal {
    quiet: bool,
    colour: bool,
    interactive: bool,
    /// Nobody reads the results any more.
    unread: Cell<bool>,
}

impl Terminal {
    pub(crate) fn new(quiet: bool) -> Self {
        let interactive = io::stderr().is_terminal();
        let colour = interactive && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { quiet, colour, interactive, unread: Cell::new(false) }
    }

    /// Whether progress bars are wanted and can be drawn.
    pub(crate) fn draws_bars(&self) -> bool {
        self.interactive && !self.quiet
    }

    /// Writes a line of the result. A reader that has gone away, as `head` does, ends the printing and not the command,
    /// whose exit code still tells what it found.
    pub(crate) fn result(&self, line: impl Display) -> Result<(), Failure> {
        if self.unread.get() {
            return Ok(());
        }
        match writeln!(io::stdout().lock(), "{line}") {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.unread.set(true);
                Ok(())
            }
            written => written.map_err(|error| Failure::run(format_args!("standard output: {error}"))),
        }
    }

    /// Tells what is going on, unless `--quiet`.
    pub(crate) fn note(&self, line: impl Display) {
        if !self.quiet {
            self.line(line);
        }
    }

    /// Tells of something that the user should look at.
    pub(crate) fn warning(&self, line: impl Display) {
        self.line(format_args!("{}: {line}", self.painted("33", "warning")));
    }

    /// Tells why the command failed.
    pub(crate) fn error(&self, line: impl Display) {
        self.line(format_args!("{}: {line}", self.painted("31", "error")));
    }

    fn painted(&self, code: &str, word: &str) -> String {
        if self.colour { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() }
    }

    fn line(&self, line: impl Display) {
        // Where even stderr is closed there is nobody left to tell.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }
}

impl Terminal {
    /// A progress bar of `length` things; hidden where none can be drawn.
    pub(crate) fn bar(&self, length: u64, unit: &str) -> indicatif::ProgressBar {
        if !self.draws_bars() {
            return indicatif::ProgressBar::hidden();
        }
        let template = format!("{{bar:32}} {{pos}}/{{len}} {unit}  {{msg}}  {{eta}} left");
        let style = indicatif::ProgressStyle::with_template(&template);
        let bar = indicatif::ProgressBar::new(length);
        bar.set_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()));
        bar
    }
}
