//! Threads that wait for work without falling asleep.
//!
//! A forward pass at batch 1 is some two hundred kernels of a few microseconds to a millisecond. A worker of rayon's that finds
//! no work goes to sleep after some microseconds, and waking it takes tens of them, on virtual machines more.

use std::{
    hint,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rayon::Yield;

/// Whether somebody keeps threads awake. One is enough: the second would make threads wait for it that the first needs.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// How often the caller looks whether the others have woken up: some tens of microseconds, what waking takes.
const PATIENCE: usize = 4096;

/// Runs `work` on a thread of rayon's current pool while its other threads stay awake, looking for pieces of it.
///
/// They use their processors all the time: for a pass of the model, not for a server that waits. Where another call is going
/// on, in this pool or another, `work` just runs.
pub fn awake<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    if rayon::current_num_threads() == 1 || TAKEN.swap(true, Ordering::AcqRel) {
        // From outside, every kernel of a pass would call the pool by itself.
        return rayon::scope(|_| work());
    }
    let watch = Watch::default();
    let _free = Free;
    rayon::scope(|scope| {
        let _done = Done(&watch.done);
        let (home, others) = (rayon::current_thread_index(), rayon::current_num_threads() - 1);
        let watch = &watch;
        scope.spawn_broadcast(move |_, context| {
            if Some(context.index()) != home {
                watch.keep();
            }
        });
        for _ in 0..PATIENCE {
            if watch.arrived.load(Ordering::Acquire) >= others {
                break;
            }
            hint::spin_loop();
        }
        watch.started.store(true, Ordering::Release);
        work()
    })
}

/// What the caller and those who stay awake know of each other.
#[derive(Default)]
struct Watch {
    arrived: AtomicUsize,
    started: AtomicBool,
    done: AtomicBool,
}

impl Watch {
    /// Looks for work until the caller is done. A thread that comes when the work has begun goes at once: it may hold a piece of
    /// that work, unfinished, below this call, and would wait for the end of what waits for it.
    fn keep(&self) {
        if self.started.load(Ordering::Acquire) {
            return;
        }
        self.arrived.fetch_add(1, Ordering::AcqRel);
        while !self.done.load(Ordering::Acquire) {
            if rayon::yield_now() != Some(Yield::Executed) {
                hint::spin_loop();
            }
        }
    }
}

/// Lets the others go when the work ends, also by a panic.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Lets the next caller in when the others have gone.
struct Free;

impl Drop for Free {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Release);
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

    /// Threads that wait for one another's work, in one pool: the second only computes.
    #[test]
    fn callers_at_the_same_time_do_not_lock_one_another() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a small pool starts");
        let sum = || (0..2000_u32).into_par_iter().with_max_len(50).map(|x| u64::from(x % 7)).sum::<u64>();
        let wanted = sum();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..300).for_each(|_| assert_eq!(pool.install(|| awake(sum)), wanted)));
            }
        });
    }
}
