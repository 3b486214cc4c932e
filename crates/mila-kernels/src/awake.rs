//! Threads that wait for work without falling asleep.
//!
//! A forward pass at batch 1 is some two hundred kernels of a few microseconds to a millisecond. A worker of rayon's that finds
//! no work goes to sleep after some microseconds, and waking it takes tens of them, on virtual machines more.

use std::{
    hint,
    sync::atomic::{AtomicBool, Ordering},
};

use rayon::Yield;

/// Runs `work` on a thread of rayon's current pool while its other threads stay awake, looking for pieces of it.
///
/// They use their processors all the time: for a pass of the model, not for a server that waits.
pub fn awake<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if rayon::current_num_threads() == 1 {
        return work();
    }
    let done = AtomicBool::new(false);
    rayon::scope(|scope| {
        let home = rayon::current_thread_index();
        let done = Done(&done);
        let flag = done.0;
        scope.spawn_broadcast(move |_, context| {
            while Some(context.index()) != home && !flag.load(Ordering::Acquire) {
                if rayon::yield_now() != Some(Yield::Executed) {
                    hint::spin_loop();
                }
            }
        });
        work()
    })
}

/// Lets the others go when the work ends, also by a panic.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn work_is_done_once_on_any_pool_and_nested() {
        for threads in 1..=3 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a small pool starts");
            let sum = || (0..1000_u64).into_par_iter().sum::<u64>();
            assert_eq!(pool.install(|| awake(|| sum() + awake(sum))), 2 * 499_500);
        }
    }

    #[test]
    fn a_panic_ends_the_wait() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a small pool starts");
        let panics = || pool.install(|| awake(|| panic!("as intended")));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics));
        assert!(result.is_err());
    }
}
