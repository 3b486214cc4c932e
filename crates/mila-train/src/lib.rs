//! Training: configuration, schedule, loop, run directory, resume.
