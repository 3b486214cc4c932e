//! Several cells at a time, each on its share of the threads.
//!
//! Small models keep one thread busy and not two, so a processor of two cores trains two of them in little more than the time
//! of one. A number has the same bits on any number of threads; only rates depend on what else runs, and what is timed alone
//! is alone.

use std::collections::VecDeque;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use super::cell::{Cell, Ended, Place};
use crate::cli::Machine;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::terminal::Terminal;

/// What a job tells while it works.
pub(crate) enum Told {
    /// A cell begins at step `done`.
    Steps { done: u64, of: u64 },
    /// A step is done.
    Step,
    /// Of a cell that is done.
    Note(String),
    /// Of a picture that could not be read.
    Problem(String),
    /// A cell ended.
    Ended(Result<Ended, Failure>),
}

/// One of the workers.
pub(crate) struct Job<'a> {
    told: Sender<Told>,
    pub(crate) quiet: &'a Quiet,
    pub(crate) interrupt: &'a Interrupt,
    /// Jobs that there are.
    pub(crate) jobs: usize,
    /// Threads of this one.
    pub(crate) threads: usize,
}

impl Job<'_> {
    pub(crate) fn tell(&self, told: Told) {
        // Nobody listens any more where the program ends.
        let _ = self.told.send(told);
    }
}

/// Lets one job have the machine for itself while the others wait between two steps.
#[derive(Default)]
pub(crate) struct Quiet(RwLock<()>);

/// Leave to work beside others.
pub(crate) type Turn<'a> = RwLockReadGuard<'a, ()>;

impl Quiet {
    /// Waits while somebody is alone.
    pub(crate) fn shared(&self) -> Turn<'_> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` when all others wait. The caller must not hold a [`Turn`].
    pub(crate) fn alone<T>(&self, work: impl FnOnce() -> T) -> T {
        let _turn = self.0.write().unwrap_or_else(PoisonError::into_inner);
        work()
    }
}

/// Runs the cells, `jobs` at a time, and `after` each one that is done. The first failure lets running cells save and stop.
///
/// # Errors
/// The first failure of a cell or of `after`.
pub(crate) fn run(
    cells: &[Cell],
    jobs: usize,
    place: &Place,
    (machine, terminal): (&Machine, &Terminal),
    after: &mut dyn FnMut() -> Result<(), Failure>,
) -> Result<Ended, Failure> {
    let interrupt = Interrupt::listen()?;
    let quiet = Quiet::default();
    let left = Mutex::new(cells.iter().copied().collect::<VecDeque<Cell>>());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let none_left = || left.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let threads = (machine.threads / jobs).max(1);
    let pool = || rayon::ThreadPoolBuilder::new().num_threads(threads).build().map_err(Failure::run);
    let pools = (0..jobs).map(|_| pool()).collect::<Result<Vec<_>, _>>()?;
    let (told, hear) = channel();
    let bar = terminal.bar(0, "steps");
    std::thread::scope(|scope| {
        for pool in pools {
            let job = Job { told: told.clone(), quiet: &quiet, interrupt: &interrupt, jobs, threads };
            let next = &next;
            scope.spawn(move || {
                while let Some(cell) = next() {
                    let ended = pool.install(|| cell.run(place, &job, machine));
                    job.tell(Told::Ended(ended));
                }
            });
        }
        drop(told);
        let mut end = Ok(Ended::Done);
        for told in hear {
            match told {
                Told::Steps { done, of } => {
                    // All cells have as many steps.
                    bar.set_length(of * cells.len() as u64);
                    bar.inc(done);
                    bar.reset_eta();
                }
                Told::Step => bar.inc(1),
                Told::Note(line) => bar.suspend(|| terminal.note(line)),
                Told::Problem(line) => bar.suspend(|| terminal.error(line)),
                Told::Ended(Ok(Ended::Interrupted)) => {
                    none_left();
                    if end.is_ok() {
                        end = Ok(Ended::Interrupted);
                    }
                }
                Told::Ended(ended) => {
                    if let Err(failure) = ended.and_then(|_| after()) {
                        none_left();
                        interrupt.press();
                        // What went wrong first is what to tell.
                        end = end.and(Err(failure));
                    }
                }
            }
        }
        bar.finish_and_clear();
        end
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_alone_is_alone() {
        let quiet = Quiet::default();
        let (enter, entered) = channel();
        std::thread::scope(|scope| {
            let turn = quiet.shared();
            let both = quiet.shared();
            drop(both);
            scope.spawn(|| quiet.alone(|| enter.send(()).expect("the test listens")));
            assert!(entered.recv_timeout(std::time::Duration::from_millis(20)).is_err(), "not while a turn is held");
            drop(turn);
            entered.recv().expect("alone at last");
        });
    }
}
