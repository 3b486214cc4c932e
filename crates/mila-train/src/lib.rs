//! Training: configuration, schedule, the loop, the run directory, and resuming.
//!
//! [`Run`] trains a registered model on a dataset under a [`Config`] and keeps everything in a run directory. It tells
//! an [`Observer`] what happens and asks it whether to go on; what it prints, and how Ctrl-C arrives, is the observer's.

mod config;
mod data;
mod epoch;
mod error;
mod observer;
mod plots;
mod records;
mod run;
mod run_directory;
mod schedule;
mod state;

pub use config::Config;
pub use data::Data;
pub use error::{Error, Result};
pub use observer::{Ended, Observer, Outcome, StepRecord};
pub use records::EpochRecord;
pub use run::{Run, check_outside};
pub use run_directory::RunDirectory;
pub use schedule::Schedule;
