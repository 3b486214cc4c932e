//! Ctrl-C, once for the whole program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::Failure;

/// Whether Ctrl-C was pressed.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the first Ctrl-C is noted, and a second one ends the program.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        let handler = move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        };
        ctrlc::set_handler(handler).map_err(|e| Failure::run(format_args!("cannot listen for Ctrl-C: {e}")))?;
        Ok(Self(interrupted))
    }

    /// As if it had been pressed.
    pub(crate) fn press(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn pressed(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
